//! Every call in every state, as the tables of `docs/task-states.md` say.

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::MessageField;
use protobuf::well_known_types::any::Any;

use super::{Bench, SPEC, code, context, delete, exec, start, state, update};
use crate::process::ProcessKey;
use crate::state_tables::{camel_case, table};

/// A container in this state.
async fn container(state: &str) -> Bench {
    let bench = Bench::new().await;
    if state == "unknown" {
        return bench;
    }
    bench.create().await.unwrap();
    if state == "created" {
        return bench;
    }
    bench.tasks.start(context(), &start("")).await.unwrap();
    match state {
        "running" => {}
        "paused" => bench.pause().await.map(drop).unwrap(),
        "stopped" => {
            bench.vm.exit("c1", "", 0, false);
            bench.wait("").await;
        }
        other => panic!("no container can be {other}"),
    }
    bench
}

/// An exec in this state.
async fn added(state: &str) -> Bench {
    let bench = Bench::running().await;
    if state == "unknown" {
        return bench;
    }
    let request = exec("e1", SPEC);
    bench.tasks.exec(context(), &request).await.unwrap();
    if state == "created" {
        return bench;
    }
    bench.tasks.start(context(), &start("e1")).await.unwrap();
    match state {
        "running" => {}
        "paused" => bench.pause().await.map(drop).unwrap(),
        "stopped" => {
            bench.vm.exit("c1", "e1", 0, false);
            bench.wait("e1").await;
        }
        other => panic!("no exec can be {other}"),
    }
    bench
}

/// The answer to a call, in the words of the tables.
async fn answer(bench: &Bench, call: &str, exec_id: &str) -> String {
    let tasks = &bench.tasks;
    let id = || "c1".to_owned();
    let result = match call {
        "Create" => bench.create().await.map(drop),
        "Start" => tasks.start(context(), &start(exec_id)).await.map(drop),
        "State" => match tasks.state(context(), &state(exec_id)).await {
            Ok(response) => return format!("{:?}", response.status.enum_value().unwrap()),
            Err(error) => Err(error),
        },
        "Wait" => return waiting(bench, exec_id).await,
        "Kill" => {
            let mut request = api::KillRequest::new();
            request.id = id();
            request.exec_id = exec_id.into();
            request.signal = 15;
            tasks.kill(context(), &request).await.map(drop)
        }
        "Delete" => {
            let mut request = delete();
            request.exec_id = exec_id.into();
            tasks.delete(context(), &request).await.map(drop)
        }
        "Exec" => tasks.exec(context(), &exec("e1", SPEC)).await.map(drop),
        "Pause" => bench.pause().await.map(drop),
        "Resume" => {
            let mut request = api::ResumeRequest::new();
            request.id = id();
            tasks.resume(context(), &request).await.map(drop)
        }
        "Update" => {
            let request = update(r#"{"pids":{"limit":5}}"#);
            tasks.update(context(), &request).await.map(drop)
        }
        "Stats" => {
            let mut request = api::StatsRequest::new();
            request.id = id();
            tasks.stats(context(), &request).await.map(drop)
        }
        "Pids" => {
            let mut request = api::PidsRequest::new();
            request.id = id();
            tasks.pids(context(), &request).await.map(drop)
        }
        "CloseIO" => {
            let mut request = api::CloseIORequest::new();
            request.id = id();
            request.exec_id = exec_id.into();
            request.stdin = true;
            tasks.close_io(context(), &request).await.map(drop)
        }
        "ResizePty" => {
            let mut request = api::ResizePtyRequest::new();
            request.id = id();
            request.exec_id = exec_id.into();
            tasks.resize_pty(context(), &request).await.map(drop)
        }
        "Connect" => {
            let mut request = api::ConnectRequest::new();
            request.id = id();
            tasks.connect(context(), &request).await.map(drop)
        }
        "Checkpoint" => {
            let mut request = api::CheckpointTaskRequest::new();
            request.id = id();
            tasks.checkpoint(context(), &request).await.map(drop)
        }
        other => panic!("there is no call {other}"),
    };
    match result {
        Ok(()) => "ok".into(),
        Err(error) => camel_case(&format!("{:?}", code(&error))),
    }
}

async fn waiting(bench: &Bench, exec_id: &str) -> String {
    let key = ProcessKey::new("c1", exec_id);
    tokio::select! {
        biased;
        exit = bench.pod.wait(&key) => match exit {
            Ok(_) => "ok".into(),
            Err(error) => camel_case(&format!("{:?}", error.code())),
        },
        () = std::future::ready(()) => "waits".into(),
    }
}

#[tokio::test]
async fn every_call_to_a_container_answers_as_the_table_says() {
    let table = table("Containers");
    assert_eq!(table.len(), 16);
    for (call, answers) in table {
        for (state, expected) in answers {
            let bench = container(state).await;
            let answer = answer(&bench, call, "").await;
            assert_eq!(answer, expected, "{call} of a container that is {state}");
        }
    }
}

#[tokio::test]
async fn every_call_to_an_exec_answers_as_the_table_says() {
    let table = table("Execs");
    assert_eq!(table.len(), 8);
    for (call, answers) in table {
        for (state, expected) in answers {
            let bench = added(state).await;
            let answer = answer(&bench, call, "e1").await;
            assert_eq!(answer, expected, "{call} of an exec that is {state}");
        }
    }
}

#[tokio::test]
async fn an_exec_that_was_added_before_a_pause_starts_after_it() {
    let bench = added("created").await;
    bench.pause().await.unwrap();
    assert_eq!(answer(&bench, "Start", "e1").await, "FailedPrecondition");
    assert_eq!(answer(&bench, "State", "e1").await, "CREATED");
    assert_eq!(answer(&bench, "Resume", "").await, "ok");
    assert_eq!(answer(&bench, "Start", "e1").await, "ok");
}

#[tokio::test]
async fn an_update_that_is_none_is_refused_in_words() {
    let bench = container("running").await;
    let mut none = update("{}");
    none.resources = MessageField::none();
    let mut other = update("{}");
    let mut any = Any::new();
    any.type_url = "types.containerd.io/opencontainers/runtime-spec/1/WindowsResources".into();
    other.resources = MessageField::some(any);
    for (request, words) in [
        (none, "names no resources"),
        (other, "WindowsResources"),
        (update(r#"{"pids":"many"}"#), "not valid"),
    ] {
        let error = bench.tasks.update(context(), &request).await.unwrap_err();
        assert_eq!(
            camel_case(&format!("{:?}", code(&error))),
            "InvalidArgument"
        );
        assert!(error.to_string().contains(words), "{error}");
    }
}
