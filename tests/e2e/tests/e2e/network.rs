//! The pod's network: what is in its namespace on the host is the guest's.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use caisson_e2e::{
    BUSYBOX, CleanMachine, Container, Ctr, NetworkNamespace, parent_of, run, signal,
};
use rustix::process::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::hooks::Bench;

/// Longer than anything here takes in emulation.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than fits into any buffer on the way, in segments that are left to be cut.
const MUCH: usize = 6 << 20;

/// A pod's namespace with `eth0`, and the machine itself at the other end, IPv4 and IPv6.
fn namespace() -> NetworkNamespace {
    let pod = NetworkNamespace::new("e2e-pod");
    pod.connect("eth0", "e2e-veth0");
    for line in [
        "ip link set eth0 address 02:ca:15:50:00:07",
        "ip addr add 10.1.2.3/16 broadcast 10.1.255.255 dev eth0",
        "ip addr add fd00::3/64 dev eth0 nodad",
        "ip route add default via 10.1.0.1 dev eth0",
        "ip -6 route add default via fd00::1 dev eth0",
    ] {
        let _ = pod.run(line);
    }
    let _ = run("ip addr add 10.1.0.1/16 dev e2e-veth0");
    let _ = run("ip addr add fd00::1/64 dev e2e-veth0 nodad");
    pod
}

#[track_caller]
fn start(namespace: &NetworkNamespace, id: &str, script: &str) -> Container {
    let options = ["--with-ns", &namespace.of_ctr()];
    Container::start_with(&options, BUSYBOX, id, &["sh", "-c", script])
}

#[track_caller]
fn inside(container: &Container, script: &str) -> String {
    container.exec(&["sh", "-c", script]).finish().ok().text()
}

#[track_caller]
fn assert_shows(shown: &str, words: &[&str]) {
    for word in words {
        assert!(shown.contains(word), "no {word:?} in:\n{shown}");
    }
}

/// Connects to who is about to listen.
#[track_caller]
fn connect(address: &str) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
    }
}

#[track_caller]
fn fetch(address: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    let _ = stream.read_to_string(&mut page).unwrap();
    page
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `InCsumErrors` of TCP: a line of names, then one of numbers.
fn wrong_checksums(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let mut columns = names.split(' ').zip(numbers.split(' '));
    let (_, number) = columns.find(|(name, _)| *name == "InCsumErrors")?;
    number.parse().ok()
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_guest_has_the_interfaces_of_its_namespace_and_leaves_nothing_there() {
    let _machine = CleanMachine::watch();
    let pod = namespace();
    pod.connect("net1", "e2e-veth1");
    for line in [
        "ip link set eth0 mtu 1400",
        "ip link set net1 address 02:ca:15:50:00:08",
        "ip addr add 172.20.0.5/32 dev net1",
        "ip route add 169.254.1.1 dev net1 scope link",
        "ip route add 172.16.0.0/12 via 169.254.1.1 dev net1 metric 42",
        "ip route add 172.30.0.0/16 nexthop via 10.1.0.1 dev eth0 \
         nexthop via 169.254.1.1 dev net1",
        "ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev net1 nud permanent",
        "ip link add down type veth peer name unused",
    ] {
        let _ = pod.run(line);
    }
    // Without those of the kernel's own, which take a while to settle.
    let has = || pod.run("ip -4 addr") + &pod.run("ip route");
    let before = has();
    let container = start(&pod, "interfaces", "sleep 1000");
    let links = inside(&container, "cd /sys/class/net; echo *; cat */address */mtu");
    assert_eq!(
        links.lines().collect::<Vec<_>>(),
        [
            "eth0 lo net1",
            "02:ca:15:50:00:07",
            "00:00:00:00:00:00",
            "02:ca:15:50:00:08",
            "1400",
            "65536",
            "1500"
        ]
    );
    let shown = inside(&container, "ip addr");
    assert_shows(
        &shown,
        &[
            "inet 127.0.0.1/8 scope host lo",
            "inet6 ::1/128 scope host",
            "inet 10.1.2.3/16 brd 10.1.255.255 scope global",
            "inet6 fd00::3/64 scope global",
            "inet 172.20.0.5/32 scope global",
        ],
    );
    assert!(!shown.contains("tentative"), "{shown}");
    assert_shows(
        &inside(&container, "ip route; ip -6 route; ip neigh"),
        &[
            "default via 10.1.0.1 dev eth0",
            "10.1.0.0/16 dev eth0 scope link  src 10.1.2.3",
            "169.254.1.1 dev net1 scope link",
            "172.16.0.0/12 via 169.254.1.1 dev net1  metric 42",
            "fd00::/64 dev eth0",
            "default via fd00::1 dev eth0",
            "169.254.1.1 dev net1 lladdr ee:ee:ee:ee:ee:ee",
        ],
    );
    // Of two next hops each is that of some destinations.
    let ways = "for n in $(seq 32); do ip route get 172.30.0.$n; done";
    assert_shows(
        &inside(&container, ways),
        &["via 10.1.0.1 dev eth0", "via 169.254.1.1 dev net1"],
    );
    assert!(pod.traces().contains("caisson1"), "{}", pod.traces());
    drop(container);
    assert_eq!(pod.traces(), "");
    assert_eq!(has(), before);
    // The namespace is as good as new.
    let again = start(&pod, "again", "sleep 1000");
    assert_shows(&inside(&again, "ip addr"), &["10.1.2.3/16"]);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn host_and_guest_reach_each_other_and_nothing_is_changed_on_the_way() {
    let _machine = CleanMachine::watch();
    let pod = namespace();
    let serve = "echo hello >/tmp/index.html; httpd -p 8080 -h /tmp; exec sleep 1000";
    let container = start(&pod, "reach", serve);
    for ping in [
        "ping -c 1 10.1.0.1",
        "ping -6 -c 1 fd00::1",
        "ping -c 1 127.0.0.1",
    ] {
        assert_shows(&inside(&container, ping), &[" 0% packet loss"]);
    }
    for ping in ["ping -c 1 10.1.2.3", "ping -6 -c 1 fd00::3"] {
        assert_shows(&run(&format!("busybox {ping}")), &[" 0% packet loss"]);
    }
    for address in ["10.1.2.3:8080", "[fd00::3]:8080"] {
        assert_shows(&fetch(address), &["hello"]);
    }

    for host in ["10.1.0.1", "fd00::1"] {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = format!(
            "head -c {MUCH} /dev/urandom >/tmp/much; sha256sum </tmp/much; nc {host} {port} </tmp/much"
        );
        let sending = container.exec(&["sh", "-c", &script]);
        let sending = thread::spawn(|| sending.finish());
        let mut received = Vec::new();
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read_to_end(&mut received).unwrap();
        drop(stream);
        let sent = sending.join().unwrap().ok().text();
        assert_eq!(received.len(), MUCH);
        assert_eq!(
            sent.split(' ').next(),
            Some(&*digest(&received)),
            "to {host}"
        );
    }
    let much: Vec<u8> = (0..MUCH).map(|n| ((n * n) >> 8) as u8).collect();
    for (guest, port) in [("10.1.2.3", 5001), ("[fd00::3]", 5002)] {
        let script = format!("nc -l -p {port} | sha256sum");
        let receiving = container.exec(&["sh", "-c", &script]);
        let receiving = thread::spawn(|| receiving.finish());
        let mut stream = connect(&format!("{guest}:{port}"));
        stream.write_all(&much).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let received = receiving.join().unwrap().ok().text();
        assert_eq!(
            received.split(' ').next(),
            Some(&*digest(&much)),
            "to {guest}"
        );
    }
    // Wrong checksums would have been repaired by sending again.
    let host = fs::read_to_string("/proc/net/snmp").unwrap();
    for snmp in [host, inside(&container, "cat /proc/net/snmp")] {
        assert_eq!(wrong_checksums(&snmp), Some(0), "{snmp}");
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn what_comes_between_create_and_start_is_plugged() {
    let _machine = CleanMachine::watch();
    let bench = Bench::new();
    // As docker and nerdctl do it.
    let script = "netns=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); \
                  ip link add e2e-late type veth peer name inside; \
                  ip addr add 10.3.0.1/24 dev e2e-late; ip link set e2e-late up; \
                  ip link set inside netns $netns; \
                  pod() { nsenter --net=/proc/$netns/ns/net ip \"$@\"; }; \
                  pod link set inside name eth0; pod addr add 10.3.0.2/24 dev eth0; \
                  pod link set eth0 up; pod route add default via 10.3.0.1";
    let hooks = json!({"createRuntime": [bench.hook(script)]});
    let config = bench.config(&hooks, &json!({"type": "network"}));
    let container = Container::configured(&config, "late");
    assert_shows(
        &inside(&container, "ip addr; ip route"),
        &["10.3.0.2/24", "default via 10.3.0.1 dev eth0"],
    );
    assert_shows(&run("busybox ping -c 1 10.3.0.2"), &[" 0% packet loss"]);
}

/// Answers what is asked about any name with one address, for IPv4 (RFC 1035 §4.1).
fn answer_names(socket: &UdpSocket, is_over: &AtomicBool) {
    const FOUND: [u8; 8] = [0x81, 0x80, 0, 1, 0, 1, 0, 0];
    const NOTHING: [u8; 8] = [0x81, 0x80, 0, 1, 0, 0, 0, 0];
    /// Of the name asked for, type A, class IN, for a minute: 10.9.8.7.
    const ADDRESS: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9, 8, 7];
    let pause = Duration::from_millis(200);
    socket.set_read_timeout(Some(pause)).unwrap();
    let mut question = [0; 512];
    while !is_over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut question) else {
            continue;
        };
        let message = question.get(..length).unwrap();
        let (id, asked) = (message.get(..2).unwrap(), message.get(12..).unwrap());
        let is_ipv4 = asked.ends_with(&[0, 1, 0, 1]);
        let answer = match is_ipv4 {
            true => [id, &FOUND, &[0, 0], asked, &ADDRESS].concat(),
            false => [id, &NOTHING, &[0, 0], asked].concat(),
        };
        socket.send_to(&answer, from).unwrap();
    }
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_name_server_of_the_namespace_is_that_of_the_guest() {
    /// Where docker has it.
    const SERVER: &str = "127.0.0.11";
    let _machine = CleanMachine::watch();
    let pod = namespace();
    let socket = pod.enter(|| UdpSocket::bind((SERVER, 53)).unwrap());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let answering = scope.spawn(|| answer_names(&socket, &is_over));
        let container = start(&pod, "asking", "sleep 1000");
        // Not asserted here, so that the other thread ends in any case.
        let asked = ["one", "two"].map(|name| {
            let found = container.exec(&["nslookup", name, SERVER]).finish();
            (name, found.text())
        });
        drop(container);
        is_over.store(true, Ordering::Relaxed);
        answering.join().unwrap();
        for (name, found) in asked {
            assert!(found.contains("10.9.8.7"), "{name}: {found}");
        }
    });
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn the_containers_of_a_pod_share_its_network_and_pods_reach_each_other() {
    let _machine = CleanMachine::watch();
    let _bridge = Bridge::new();
    let namespaces =
        [("e2e-one", "e2e-veth1", 1), ("e2e-two", "e2e-veth2", 2)].map(|(name, peer, number)| {
            let namespace = NetworkNamespace::new(name);
            namespace.connect("eth0", peer);
            let _ = run(&format!("ip link set {peer} master e2e-bridge"));
            let _ = namespace.run(&format!("ip addr add 10.4.0.{number}/24 dev eth0"));
            let _ = namespace.run(&format!("ip addr add fd04::{number}/64 dev eth0 nodad"));
            namespace
        });
    let [one, two] = &namespaces;
    let of_pod = |kind: &str, id: &str, script: &str| {
        let kind = format!("io.kubernetes.cri.container-type={kind}");
        let options = [
            "--annotation",
            "io.kubernetes.cri.sandbox-id=pod",
            "--annotation",
            &kind,
            "--with-ns",
            &one.of_ctr(),
        ];
        Container::start_with(&options, BUSYBOX, id, &["sh", "-c", script])
    };
    let _sandbox = of_pod("sandbox", "pod", "sleep 1000");
    let serve = "echo shared >/tmp/index.html; httpd -p 127.0.0.1:8080 -h /tmp; exec sleep 1000";
    let _server = of_pod("container", "server", serve);
    let client = of_pod("container", "client", "sleep 1000");
    assert_shows(&inside(&client, "ip addr"), &["10.4.0.1/24"]);
    let wait = "until wget -q -O - http://127.0.0.1:8080; do :; done 2>/dev/null";
    assert_eq!(inside(&client, wait), "shared");

    let other = start(two, "other", "sleep 1000");
    for ping in ["ping -c 1 10.4.0.1", "ping -6 -c 1 fd04::1"] {
        assert_shows(&inside(&other, ping), &[" 0% packet loss"]);
    }
    assert_shows(&inside(&client, "ping -c 1 10.4.0.2"), &[" 0% packet loss"]);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn what_is_dialled_on_localhost_in_the_namespace_reaches_the_guests_localhost() {
    let _machine = CleanMachine::watch();
    let pod = namespace();
    let serve = "echo local >/tmp/index.html; \
                 httpd -p 127.0.0.1:8080 -h /tmp; httpd -p [::1]:8081 -h /tmp; exec sleep 1000";
    let container = start(&pod, "localhost", serve);
    let wait = "until wget -q -O /dev/null http://[::1]:8081; do :; done 2>/dev/null";
    let _ = inside(&container, wait);
    // What listens on one family only is found by the other too.
    for address in [
        "127.0.0.1:8080",
        "127.0.0.1:8081",
        "[::1]:8080",
        "[::1]:8081",
    ] {
        let page = pod.run(&format!("busybox wget -q -O - http://{address}"));
        assert_eq!(page, "local\n", "{address}");
    }
    let nobody = Command::new("ip")
        .args([
            "netns",
            "exec",
            "e2e-pod",
            "busybox",
            "wget",
            "http://127.0.0.1:8082",
        ])
        .output()
        .unwrap();
    assert!(!nobody.status.success(), "{nobody:?}");
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn an_interface_that_is_taken_is_one_clear_error_of_create() {
    let _machine = CleanMachine::watch();
    let pod = namespace();
    let _ = pod.run("tc qdisc add dev eth0 ingress");
    let before = pod.traces();
    let options = ["--with-ns", &pod.of_ctr()];
    let message = Ctr::run_with(&options, BUSYBOX, "taken", &["true"])
        .finish()
        .failure();
    assert_shows(
        &message,
        &[
            "eth0",
            "ingress queueing discipline",
            "another virtual machine",
        ],
    );
    assert_eq!(pod.traces(), before);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_killed_shim_or_machine_leaves_nothing_in_the_namespace() {
    let _machine = CleanMachine::watch();
    let pod = namespace();
    let container = start(&pod, "machine-killed", "sleep 1000");
    signal(container.vmm_pid(), Signal::KILL);
    let deadline = Instant::now() + PATIENCE;
    while container.state() != "STOPPED" {
        assert!(Instant::now() < deadline, "the task did not stop");
    }
    assert_eq!(container.exit_code_at_delete(), 137);
    assert_eq!(pod.traces(), "");
    drop(container);

    let container = start(&pod, "shim-killed", "sleep 1000");
    signal(parent_of(container.host_pid()), Signal::KILL);
    let deadline = Instant::now() + PATIENCE;
    while !pod.traces().is_empty() {
        assert!(Instant::now() < deadline, "{}", pod.traces());
    }
    drop(container);
    // With a task it cannot find, ctr leaves behind the fifos that it made itself.
    let _ = fs::remove_dir_all("/run/containerd/fifo");
}

/// A bridge in the machine's own namespace.
struct Bridge;

impl Bridge {
    fn new() -> Self {
        let _ = run("ip link add e2e-bridge type bridge");
        let _ = run("ip link set e2e-bridge up");
        Self
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "delete", "e2e-bridge"])
            .status();
    }
}
