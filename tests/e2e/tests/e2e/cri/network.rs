//! The network of pods, made by CNI's own plug-ins.

use std::io::{Read, Write};
use std::net::TcpStream;

use caisson_e2e::{CleanMachine, Cri, PodConfig, PodSandbox};

/// A port of the host that nobody else uses in the testbed.
const FORWARDED: u16 = 18080;

/// What a web server answers.
fn page(address: (&str, u16)) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn pods_have_the_addresses_of_cni_and_reach_each_other_and_the_host_reaches_them() {
    let _machine = CleanMachine::watch();
    let Some(cri) = Cri::connect() else { return };
    let server = PodSandbox::run(&cri, &PodConfig::new("server"));
    let serve = "echo everybody >/tmp/index.html; mkdir /tmp/own; echo own >/tmp/own/index.html; \
                 httpd -p 80 -h /tmp; httpd -p 127.0.0.1:8080 -h /tmp/own; exec sleep 1000";
    let web = server.start("web", &["sh", "-c", serve]);
    let wait = "until wget -q -O - http://127.0.0.1:8080; do :; done 2>/dev/null";
    assert_eq!(web.shell(wait), "own");
    let address = server.address();

    let client = PodSandbox::run(&cri, &PodConfig::new("client"));
    let one = client.start("one", &["sleep", "1000"]);
    let shown = one.shell("ip -4 -o address show eth0");
    let own = format!(" {}/16 ", client.address());
    assert!(shown.contains(&own), "{own} in {shown}");
    assert_eq!(
        one.shell(&format!("wget -q -O - http://{address}")),
        "everybody"
    );

    let answer = page((&address, 80)).unwrap();
    assert!(answer.ends_with("everybody\n"), "{answer}");
    // Port-forward reaches what listens on the pod's localhost only.
    let _forwarding = server.forward(FORWARDED, 8080);
    let answer = page(("127.0.0.1", FORWARDED)).unwrap();
    assert!(answer.ends_with("own\n"), "{answer}");
}
