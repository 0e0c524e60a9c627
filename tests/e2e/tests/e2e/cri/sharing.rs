//! What the containers of a pod do with a volume that they share.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use caisson_e2e::{CleanMachine, Cri, CriContainer, DEBIAN, PodConfig, PodSandbox};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a program may take to begin; in emulation, Python takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Holds two locks, answers on a socket, and tells there what came through the FIFO.
const SERVER: &str = "import fcntl, os, socket, sys, threading
for name in ('fifo', 'socket'):
    if os.path.exists('/data/' + name): os.unlink('/data/' + name)
os.mkfifo('/data/fifo')
came = []
def read():
    with open('/data/fifo') as fifo: came.append(fifo.read())
reader = threading.Thread(target=read)
reader.start()
flocked, locked = open('/data/flocked', 'w'), open('/data/locked', 'w')
fcntl.flock(flocked, fcntl.LOCK_EX)
fcntl.lockf(locked, fcntl.LOCK_EX)
listener = socket.socket(socket.AF_UNIX)
listener.bind('/data/socket')
listener.listen()
open('/data/ready-' + sys.argv[1], 'w').close()
while True:
    client, _ = listener.accept()
    word = client.recv(100).decode()
    if word == 'fifo':
        reader.join()
        word = came[0]
    client.sendall((sys.argv[1] + ' heard ' + word).encode())
    client.close()
";

/// Says a word to the server and prints its answer.
const CLIENT: &str = "import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect('/data/socket')
client.sendall(sys.argv[1].encode())
print(client.recv(100).decode())
";

/// Which of the two locks somebody else holds.
const LOCKS: &str = "import fcntl
for name, take in (('flocked', fcntl.flock), ('locked', fcntl.lockf)):
    with open('/data/' + name, 'r+') as file:
        try:
            take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print(name, 'is free')
        except BlockingIOError:
            print(name, 'is held')
";

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn sockets_fifos_and_locks_in_a_volume_are_the_same_for_all_containers_of_a_pod() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let folder = TempDir::new().unwrap();
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod"));
    let with = |attempt: u32, read_only: bool| {
        json!({
            "metadata": {"attempt": attempt},
            "image": {"image": DEBIAN},
            "mounts": [{"container_path": "/data", "host_path": folder.path(), "readonly": read_only}],
        })
    };
    let serve = |attempt: u32, name: &str| {
        let args = ["python3", "-c", SERVER, name];
        let server = pod.start_with("server", &args, with(attempt, false));
        appears(&folder.path().join(format!("ready-{name}")));
        server
    };
    let sleep = |name: &str, config: Value| pod.start_with(name, &["sleep", "1000"], config);

    let first = serve(0, "first");
    let client = sleep("client", with(0, false));
    assert_eq!(said(&client, "hello"), "first heard hello");
    let _ = client.shell("echo -n through the pipe >/data/fifo");
    assert_eq!(said(&client, "fifo"), "first heard through the pipe");
    assert_eq!(
        python(&client, LOCKS, ""),
        "flocked is held\nlocked is held"
    );

    // Another that may not write: the guest sees to it, and the socket is the same all the same.
    let reader = sleep("reader", with(0, true));
    assert_eq!(said(&reader, "hello"), "first heard hello");
    let refused = reader.exec(&["touch", "/data/new"]);
    assert!(
        refused.stderr.contains("Read-only file system"),
        "{refused:?}"
    );

    // Either side is made anew while the other one lives.
    let _ = first.stop(0).ok();
    let _ = first.remove().ok();
    assert_eq!(
        python(&client, LOCKS, ""),
        "flocked is free\nlocked is free"
    );
    let _second = serve(1, "second");
    assert_eq!(said(&client, "hello"), "second heard hello");
    let _ = client.stop(0).ok();
    let _ = client.remove().ok();
    let client = sleep("client", with(1, false));
    assert_eq!(said(&client, "hello"), "second heard hello");
    assert_eq!(
        python(&client, LOCKS, ""),
        "flocked is held\nlocked is held"
    );
    let _ = client.shell("echo -n again >/data/fifo");
    assert_eq!(said(&client, "fifo"), "second heard again");
}

#[track_caller]
fn said(container: &CriContainer, word: &str) -> String {
    python(container, CLIENT, word)
}

#[track_caller]
fn python(container: &CriContainer, script: &str, word: &str) -> String {
    let finished = container.exec(&["python3", "-c", script, word]);
    finished.ok().text()
}

/// Waits until there is such a file.
#[track_caller]
fn appears(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while fs::metadata(path).is_err() {
        assert!(Instant::now() < deadline, "{} is not there", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}
