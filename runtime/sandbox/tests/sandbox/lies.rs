//! An agent that a hostile guest has replaced. What it does ends one call or its own machine, with a
//! sentence, and nothing else.

use caisson_sandbox::{ErrorKind, Sandbox};

use crate::pod::{Pod, in_pod};
use crate::soon;

/// What becomes of the first call to an agent that lies like this. The sandbox is stopped
/// afterwards and leaves nothing.
async fn first_call(pod: &Pod, lie: &str) -> Result<(), (ErrorKind, String)> {
    let config = pod.config(&format!("agent-{lie}"));
    let sandbox = soon(Sandbox::start(&config, pod.options())).await.unwrap();
    let mut request = pod.container("web", "sleep");
    (request.stdin, request.stdout) = (false, false);
    let created = soon(sandbox.create_container(request)).await;
    soon(sandbox.stop()).await;
    pod.assert_nothing_left();
    match created {
        Ok(_) => Ok(()),
        Err(error) => Err((error.kind(), error.to_string())),
    }
}

#[test]
fn answers_that_nobody_waits_for_are_dropped() {
    in_pod(async |pod| {
        // A code that is none is taken for none, and an agent that lies can say "done" anyway.
        for lie in [
            "answers-nobody",
            "answers-twice",
            "fails-with-a-strange-code",
        ] {
            assert_eq!(first_call(pod, lie).await, Ok(()), "{lie}");
        }
    });
}

#[test]
fn an_answer_that_cannot_be_ends_the_call_and_the_machine_with_a_sentence() {
    const LIES: [&str; 11] = [
        "answers-with-a-part",
        "answers-a-later-call-with-parts",
        "answers-with-a-request",
        "answers-with-another-type",
        "answers-nonsense",
        "answers-inner-nonsense",
        "answers-in-depth",
        "answers-in-inner-depth",
        "ends-in-a-header",
        "ends-in-an-answer",
        "hangs-up",
    ];
    // At once: each machine gets a while to say itself why it ends.
    std::thread::scope(|scope| {
        for lie in LIES {
            scope.spawn(move || {
                in_pod(async move |pod| {
                    let (kind, message) = first_call(pod, lie).await.unwrap_err();
                    assert_eq!(kind, ErrorKind::Unavailable, "{lie}: {message}");
                    let words = "the connection to the guest's agent broke";
                    assert!(message.contains(words), "{lie}: {message}");
                    assert!(message.len() < 2000, "{lie}: {} bytes", message.len());
                });
            });
        }
    });
}

#[test]
fn what_an_agent_says_went_wrong_is_cut_and_has_no_control_characters() {
    in_pod(async |pod| {
        for (lie, kind) in [
            ("answers-too-much", ErrorKind::InvalidArgument),
            ("fails-at-length", ErrorKind::NotFound),
        ] {
            let (found, message) = first_call(pod, lie).await.unwrap_err();
            assert_eq!(found, kind, "{lie}: {message}");
            assert!(message.len() < 2000, "{lie}: {} bytes", message.len());
            assert!(!message.contains(char::is_control), "{lie}: {message:?}");
        }
    });
}
