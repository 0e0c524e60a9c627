//! Calls whose client has gone before the guest has answered: they are done to the end.

use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::TaskClient;
use tokio::time::timeout;

use super::{Bench, SPEC, code, connect, context, delete, exec, start, state, update};

/// Lets everybody else do something until it is so.
async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let done = timeout(Duration::from_secs(20), async {
        while !so().await {
            tokio::task::yield_now().await;
        }
    });
    assert!(done.await.is_ok(), "never: {what}");
}

/// Makes a call on a connection of its own, and closes that once the guest was asked.
async fn abandon<F>(bench: &Bench, asked: &str, call: impl FnOnce(TaskClient) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let client = connect(bench.socket()).await;
    let calling = tokio::spawn(call(client));
    until(asked, async || bench.vm.calls().contains(&asked.to_owned())).await;
    assert!(!calling.is_finished(), "the guest is held up");
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    // A round trip, after which the shim has seen the end of that connection.
    let mut connected = api::ConnectRequest::new();
    connected.id = "c1".into();
    for _ in 0..3 {
        bench.tasks.connect(context(), &connected).await.unwrap();
    }
}

async fn until_it_is(bench: &Bench, exec_id: &str, status: api::Status) {
    until(&format!("{status:?}"), async || {
        let state = bench.tasks.state(context(), &state(exec_id)).await;
        state.is_ok_and(|state| state.status.enum_value() == Ok(status))
    })
    .await;
}

#[tokio::test]
async fn a_create_goes_on_without_its_client() {
    let bench = Bench::new().await;
    let vm = bench.vm.clone();
    let held = vm.hold_creates();
    let request = bench.create_request();
    let again = request.clone();
    abandon(&bench, "create c1/", async move |tasks| {
        let _ = tasks.create(context(), &request).await;
    })
    .await;
    drop(held);
    until_it_is(&bench, "", api::Status::CREATED).await;
    let second = bench.tasks.create(context(), &again).await.unwrap_err();
    assert_eq!(code(&second), ttrpc::Code::ALREADY_EXISTS);
}

#[tokio::test]
async fn a_start_goes_on_without_its_client() {
    let bench = Bench::new().await;
    bench.create().await.unwrap();
    let vm = bench.vm.clone();
    let held = vm.hold_starts();
    abandon(&bench, "start c1/", async move |tasks| {
        let _ = tasks.start(context(), &start("")).await;
    })
    .await;
    drop(held);
    until_it_is(&bench, "", api::Status::RUNNING).await;
    let second = bench.tasks.start(context(), &start("")).await.unwrap_err();
    assert_eq!(code(&second), ttrpc::Code::FAILED_PRECONDITION);
}

#[tokio::test]
async fn the_start_of_an_exec_goes_on_without_its_client() {
    let bench = Bench::running().await;
    let request = exec("e1", SPEC);
    bench.tasks.exec(context(), &request).await.unwrap();
    let vm = bench.vm.clone();
    let held = vm.hold_starts();
    abandon(&bench, "start c1/e1", async move |tasks| {
        let _ = tasks.start(context(), &start("e1")).await;
    })
    .await;
    drop(held);
    until_it_is(&bench, "e1", api::Status::RUNNING).await;
}

#[tokio::test]
async fn a_kill_goes_on_without_its_client() {
    let bench = Bench::running().await;
    let vm = bench.vm.clone();
    let held = vm.hold_signals();
    let mut kill = api::KillRequest::new();
    kill.id = "c1".into();
    kill.signal = 9;
    let again = kill.clone();
    abandon(&bench, "signal 9 false c1/", async move |tasks| {
        let _ = tasks.kill(context(), &kill).await;
    })
    .await;
    drop(held);
    until_it_is(&bench, "", api::Status::STOPPED).await;
    let second = bench.tasks.kill(context(), &again).await.unwrap_err();
    assert_eq!(code(&second), ttrpc::Code::NOT_FOUND);
}

#[tokio::test]
async fn a_delete_goes_on_without_its_client() {
    let bench = Bench::running().await;
    bench.vm.exit("c1", "", 0, false);
    bench.wait("").await;
    let vm = bench.vm.clone();
    let held = vm.hold_deletes();
    abandon(&bench, "delete c1/", async move |tasks| {
        let _ = tasks.delete(context(), &delete()).await;
    })
    .await;
    drop(held);
    until("deleted", async || {
        let state = bench.tasks.state(context(), &state("")).await;
        state.is_err_and(|error| code(&error) == ttrpc::Code::NOT_FOUND)
    })
    .await;
}

#[tokio::test]
async fn a_pause_and_a_resume_go_on_without_their_client() {
    let bench = Bench::running().await;
    let vm = bench.vm.clone();
    let held = vm.hold_changes();
    abandon(&bench, "pause c1/", async move |tasks| {
        let mut request = api::PauseRequest::new();
        request.id = "c1".into();
        let _ = tasks.pause(context(), &request).await;
    })
    .await;
    drop(held);
    until_it_is(&bench, "", api::Status::PAUSED).await;
    let held = vm.hold_changes();
    abandon(&bench, "resume c1/", async move |tasks| {
        let mut request = api::ResumeRequest::new();
        request.id = "c1".into();
        let _ = tasks.resume(context(), &request).await;
    })
    .await;
    drop(held);
    until_it_is(&bench, "", api::Status::RUNNING).await;
}

#[tokio::test]
async fn an_update_goes_on_without_its_client() {
    let bench = Bench::running().await;
    let vm = bench.vm.clone();
    let held = vm.hold_changes();
    abandon(&bench, "update Some(5) c1/", async move |tasks| {
        let request = update(r#"{"pids":{"limit":5}}"#);
        let _ = tasks.update(context(), &request).await;
    })
    .await;
    drop(held);
    until("done", async || {
        vm.done().contains(&"update Some(5) c1/".to_owned())
    })
    .await;
    // Once more is no harm.
    let request = update(r#"{"pids":{"limit":5}}"#);
    bench.tasks.update(context(), &request).await.unwrap();
}
