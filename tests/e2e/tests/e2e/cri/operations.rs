//! What a kubelet does with running containers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use caisson_e2e::{CleanMachine, Cri, PodConfig, PodSandbox, wait_until};
use serde_json::{Value, json};

use super::limits::{PARENT, Parent};

/// More than any of the streams on the way holds back.
const MUCH: usize = 1 << 20;

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_kubelet_talks_with_the_processes_of_a_pod() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let pod = PodSandbox::run(&cri, &PodConfig::new("pod"));
    let one = pod.start("one", &["sleep", "1000"]);

    // Exec with streams: input to its end, both outputs apart, and the exit code.
    let much: Vec<u8> = (0..MUCH).map(|n| ((n * n) >> 8) as u8).collect();
    let echoed = one.stream(&["cat"], &much).ok();
    assert!(echoed.stdout == much, "{} bytes", echoed.stdout.len());
    let script = "echo out; echo err >&2; read line; exit $line";
    let ended = one.stream(&["sh", "-c", script], b"3\n");
    assert_eq!(ended.text(), "out");
    assert!(ended.stderr.starts_with("err\n"), "{ended:?}");
    assert!(ended.failure().contains("exit code 3"));

    // Exec on a terminal: its size, changes of that, and what its keys mean.
    let script = "trap 'stty size' WINCH; trap 'exit 0' INT; stty size; \
                  while :; do sleep 1; done";
    let mut terminal = one.terminal(&["sh", "-c", script]);
    terminal.shows("24 80");
    terminal.resize(30, 100);
    terminal.shows("30 100");
    terminal.types("\x03");
    assert_eq!(terminal.exit_code(), 0);

    // One that takes too long is ended.
    let late = one.exec_for(2, &["sleep", "1234"]).failure();
    assert!(late.contains("DeadlineExceeded"), "{late}");
    let processes = one.shell("ps -o args");
    assert!(!processes.contains("sleep 1234"), "{processes}");

    // Attach: to streams, of which the first one to attach closes the input, and to a terminal.
    let once = json!({"stdin": true, "stdin_once": true});
    let script = "cat; echo the end; exit 3";
    let streams = pod.start_with("streams", &["sh", "-c", script], once);
    let attached = streams.attach(b"to its input\n");
    assert_eq!(attached.text(), "to its input\nthe end");
    assert_eq!(streams.ended().exit_code, 3);
    let on_terminal = json!({"stdin": true, "tty": true});
    let shell = pod.start_with("shell", &["sh"], on_terminal);
    let mut attached = shell.attached_terminal();
    attached.types("stty size; tty\n");
    attached.shows("24 80");
    attached.shows("/dev/pts/");
    attached.types("exit 5\n");
    assert_eq!(attached.exit_code(), 0);
    assert_eq!(shell.ended().exit_code, 5);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_kubelet_learns_what_a_pod_says_and_uses() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    // Without a control group of its own a pod has no statistics.
    let _parent = Parent::new();
    let config = PodConfig::new("pod").with(json!({"linux": {"cgroup_parent": PARENT}}));
    let pod = PodSandbox::run(&cri, &config);
    let script = "mkdir /www; echo alive >/www/healthz; httpd -p 8080 -h /www; \
                  i=0; while :; do i=$((i + 1)); echo line $i; sleep 1; done";
    let one = pod.start("one", &["sh", "-c", script]);

    // A probe each by exec, HTTP and TCP, the latter two from the host.
    let wait = "until wget -q -O - http://127.0.0.1:8080/healthz; do :; done 2>/dev/null";
    assert_eq!(one.shell(wait), "alive");
    let address = (pod.address(), 8080);
    let mut probe = TcpStream::connect(&address).unwrap();
    probe.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = probe.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 OK"), "{answer}");
    assert!(TcpStream::connect((address.0, 8081)).is_err());

    // The log goes on in another file when the kubelet has rotated it.
    wait_until("a line is in the log", || !one.log().is_empty());
    let old = one.rotate_log();
    wait_until("a line is in the new log", || !one.log().is_empty());
    let last = number_of(old.last().unwrap());
    assert_eq!(number_of(one.log().first().unwrap()), last + 1);

    // What it uses of processors, memory, the disk, the network and process ids.
    let listener = TcpListener::bind("10.88.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let before = network(&pod.stats());
    let sending = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&vec![7; MUCH]).unwrap();
    });
    let received = one.shell(&format!("nc 10.88.0.1 {port} </dev/null | wc -c"));
    sending.join().unwrap();
    assert_eq!(received, MUCH.to_string());
    let stats = pod.stats();
    let (received, sent) = network(&stats);
    assert!(received >= before.0 + MUCH as u64, "{before:?}, {stats}");
    // Acknowledgements.
    assert!(sent > before.1, "{before:?}, {stats}");
    assert!(sent < before.1 + MUCH as u64, "{before:?}, {stats}");
    let own = one.shell("cat /sys/class/net/eth0/statistics/rx_bytes");
    assert!(own.parse::<u64>().unwrap() >= MUCH as u64, "{own}");
    let linux = "/stats/0/linux";
    for path in ["cpu/usageCoreNanoSeconds", "memory/workingSetBytes"] {
        let used = counter(&stats, &format!("{linux}/{path}/value"));
        assert!(used > Some(0), "{path} in {stats}");
    }
    // Processes of the host, of which there is one for each container.
    let processes = counter(&stats, &format!("{linux}/process/processCount/value"));
    assert_eq!(processes, Some(1), "{stats}");

    let _ = one.shell("head -c 3145728 /dev/zero >/big");
    let layer = "/stats/0/writableLayer";
    wait_until("the file is in the statistics", || {
        let stats = one.stats();
        counter(&stats, &format!("{layer}/usedBytes/value")) >= Some(3 << 20)
            && counter(&stats, &format!("{layer}/inodesUsed/value")) > Some(0)
    });

    // What happens to containers is told without a question.
    let done = pod.start("done", &["true"]);
    assert_eq!(done.ended().exit_code, 0);
    let _ = done.remove().ok();
    let events = cri.events();
    assert_eq!(
        events.of(&done.id),
        ["CREATED", "STARTED", "STOPPED", "DELETED"]
    );
}

/// Bytes received and sent by the pod.
#[track_caller]
fn network(stats: &Value) -> (u64, u64) {
    let interface = "/stats/0/linux/network/defaultInterface";
    let name = stats.pointer(&format!("{interface}/name"));
    assert_eq!(name.and_then(Value::as_str), Some("eth0"), "{stats}");
    let bytes = |name: &str| counter(stats, &format!("{interface}/{name}/value"));
    (bytes("rxBytes").unwrap(), bytes("txBytes").unwrap())
}

/// A number, which the JSON of protobuf has in a string.
fn counter(stats: &Value, path: &str) -> Option<u64> {
    stats.pointer(path)?.as_str()?.parse().ok()
}

/// N of a line of the log that ends with `line N`.
#[track_caller]
fn number_of(line: &str) -> u32 {
    let (_, number) = line.rsplit_once(' ').unwrap();
    number.parse().unwrap()
}
