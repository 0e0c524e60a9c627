//! What other CNI plug-ins than a bridge give a pod.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use caisson_e2e::{CleanMachine, Cri, PodConfig, PodSandbox, run};
use serde_json::json;

/// Before the testbed's own, so that containerd takes it.
const NETWORK: &str = "/etc/cni/net.d/05-e2e.conflist";
/// A plug-in of ours that has another one make a second interface, as multus does.
const SECOND: &str = "/usr/lib/cni/caisson-e2e-second";
/// What becomes of the addresses that host-local gives away.
const LEASES: &str = "/var/lib/cni/networks";
/// How long containerd may take to see that a file has changed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ports and addresses of the host that nobody else uses in the testbed.
const HOST_PORT: u16 = 18090;
const SERVICE: &str = "10.96.0.1";

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_pod_has_what_a_chain_of_plugins_gives_it() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let network = Plugins::install(&cri);
    let rules = of_pods(&run("iptables-save"));
    let server = PodConfig::new("server").with(json!({
        "annotations": {
            "kubernetes.io/ingress-bandwidth": "10M",
            "kubernetes.io/egress-bandwidth": "10M",
        },
        "port_mappings": [{"protocol": 0, "container_port": 8080, "host_port": HOST_PORT}],
        "dns_config": {
            "servers": ["10.96.0.10"],
            "searches": ["default.svc.cluster.local"],
            "options": ["ndots:5"],
        },
    }));
    let server = PodSandbox::run(&cri, &server);
    let script = "mkdir /www; echo served >/www/index.html; \
                  head -c 1048576 /dev/zero >/www/big; httpd -p 8080 -h /www; exec sleep 1000";
    let web = server.start("web", &["sh", "-c", script]);
    let address = server.address();
    assert!(address.starts_with("10.90.0."), "{address}");

    // Name, MTU and hardware address; addresses and routes of both families; both interfaces.
    let shown = web.shell("cd /sys/class/net; echo *; cat eth0/mtu net1/mtu eth0/address");
    let expected = "eth0 lo net1\n9000\n1500\n02:ca:15:50:00:77";
    assert_eq!(shown, expected);
    assert_shows(
        &web.shell("ip addr; ip route; ip -6 route"),
        &[
            &format!("inet {address}/24"),
            "inet6 fd90::",
            "inet 10.91.0.",
            "default via 10.90.0.1 dev eth0",
            "10.90.0.1 dev eth0 scope link",
            "10.91.0.1 dev net1 scope link",
            "default via fd90::1 dev eth0",
        ],
    );
    let resolver = web.shell("cat /etc/resolv.conf");
    let lines = [
        "nameserver 10.96.0.10",
        "search default.svc.cluster.local",
        "options ndots:5",
    ];
    assert_shows(&resolver, &lines);

    // The host, through either interface and in packets that need the MTU; a port of the host.
    for ping in [
        "-c 1 -s 8000 10.90.0.1",
        "-6 -c 1 -s 8000 fd90::1",
        "-c 1 10.91.0.1",
    ] {
        let answer = web.shell(&format!("ping {ping}"));
        assert!(answer.contains(" 0% packet loss"), "{answer}");
    }
    for place in [(&*address, 8080), ("10.90.0.1", HOST_PORT)] {
        let answer = page(place, "/").unwrap();
        assert!(answer.ends_with("served\n"), "{place:?}: {answer}");
    }

    // The limits of bandwidth are on the host's side, and all that comes and goes passes them.
    let answer = page((&address, 8080), "/big").unwrap();
    assert!(answer.len() > 1 << 20, "{}", answer.len());
    let _ = web.shell("ping -c 1 -s 8000 10.90.0.1");
    let qdiscs = run("tc -s qdisc show");
    let limits: Vec<&str> = qdiscs
        .split("qdisc ")
        .filter(|one| one.starts_with("tbf"))
        .collect();
    assert_eq!(limits.len(), 2, "one for each direction: {qdiscs}");
    let passed = limits.iter().map(|limit| passed(limit));
    assert!(passed.clone().all(|bytes| bytes > 8000), "{limits:?}");
    assert!(passed.clone().any(|bytes| bytes > 1 << 20), "{limits:?}");

    // Another pod, straight and through the address of a service, as kube-proxy makes one.
    let client = PodSandbox::run(&cri, &PodConfig::new("client"));
    let one = client.start("one", &["sleep", "1000"]);
    let service = Service::new(&format!("{address}:8080"));
    for place in [format!("{address}:8080"), SERVICE.to_owned()] {
        let fetched = one.shell(&format!("wget -q -O - http://{place}"));
        assert_eq!(fetched, "served", "{place}");
    }
    drop(service);

    // DEL leaves nothing: no address that is taken, no rule.
    // The first one goes last: the control group that all pods lie in is its shim's.
    drop((client, server));
    assert_eq!(of_pods(&run("iptables-save")), rules);
    for name in ["e2e", "e2e-second"] {
        let taken = fs::read_dir(Path::new(LEASES).join(name)).unwrap();
        let taken = taken.map(|entry| entry.unwrap().file_name());
        let taken: Vec<_> = taken
            .filter(|name| name.to_string_lossy().starts_with(['1', 'f']))
            .collect();
        assert!(taken.is_empty(), "{name}: {taken:?}");
    }
    drop(network);
}

#[track_caller]
fn assert_shows(shown: &str, words: &[&str]) {
    for word in words {
        assert!(shown.contains(word), "no {word:?} in:\n{shown}");
    }
}

/// What a web server answers.
fn page(address: (&str, u16), path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Rules that name an address of a pod or a port that leads to one.
fn of_pods(rules: &str) -> Vec<String> {
    let port = HOST_PORT.to_string();
    let of_pod = |line: &&str| line.contains("10.90.0.") || line.contains(&port);
    rules.lines().filter(of_pod).map(str::to_owned).collect()
}

/// Bytes that have passed a queueing discipline: ` Sent N bytes …`.
#[track_caller]
fn passed(statistics: &str) -> u64 {
    let (_, rest) = statistics.split_once("Sent ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// A network of pods that containerd uses, until this goes out of scope.
struct Plugins {
    cri: Cri,
    before: Vec<String>,
}

impl Plugins {
    fn install(cri: &Cri) -> Self {
        let plugins = Self {
            cri: cri.clone(),
            before: cri.networks(),
        };
        let second = json!({"cniVersion": "0.4.0", "name": "e2e-second", "type": "ptp",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.91.0.0/24"}]]}});
        let script = format!(
            "#!/bin/sh\ncat >/dev/null\n\
             said=$(CNI_IFNAME=net1 /usr/lib/cni/ptp <<'END'\n{second}\nEND\n) || \
             {{ echo \"$said\"; exit 1; }}\n\
             if [ \"$CNI_COMMAND\" = ADD ]; then echo '{{\"cniVersion\": \"0.4.0\"}}'; fi\n"
        );
        fs::write(SECOND, script).unwrap();
        fs::set_permissions(SECOND, fs::Permissions::from_mode(0o755)).unwrap();
        let list = json!({"cniVersion": "0.4.0", "name": "e2e", "plugins": [
            {"type": "caisson-e2e-second"},
            {"type": "ptp", "ipMasq": true, "mtu": 9000, "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.90.0.0/24"}], [{"subnet": "fd90::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            }},
            {"type": "tuning", "mac": "02:ca:15:50:00:77", "dataDir": "/var/lib/cni/tuning"},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]});
        fs::write(NETWORK, list.to_string()).unwrap();
        plugins.wait_for(|networks| networks.iter().any(|name| name == "e2e"));
        plugins
    }

    /// There is no event for it.
    #[track_caller]
    fn wait_for(&self, holds: impl Fn(&[String]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let networks = self.cri.networks();
            if holds(&networks) {
                return;
            }
            assert!(Instant::now() < deadline, "containerd has {networks:?}");
        }
    }
}

impl Drop for Plugins {
    fn drop(&mut self) {
        let _ = fs::remove_file(NETWORK);
        let _ = fs::remove_file(SECOND);
        if !std::thread::panicking() {
            self.wait_for(|networks| networks == self.before);
        }
    }
}

/// The address of a service, which leads to a pod.
struct Service(String);

impl Service {
    fn new(target: &str) -> Self {
        let rule = format!(
            "PREROUTING -d {SERVICE}/32 -p tcp --dport 80 -j DNAT --to-destination {target}"
        );
        let _ = run(&format!("iptables -t nat -A {rule}"));
        Self(rule)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = run(&format!("iptables -t nat -D {}", self.0));
    }
}
