use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use super::super::steer::Steering;
use super::super::test_namespace::TestNamespace;

/// Where a connection is taken and where it was to go; `None` without a listener.
fn dial(listener: &TcpListener, address: &str) -> Option<String> {
    let _connection = TcpStream::connect(address).ok()?;
    let (taken, _) = listener.accept().unwrap();
    let dialled = taken.local_addr().unwrap();
    Some(format!(
        "{} {}",
        dialled.ip().to_canonical(),
        dialled.port()
    ))
}

#[tokio::test]
async fn every_port_of_the_loopback_addresses_leads_to_one_socket_and_no_other_address_does() {
    let Some(namespace) = TestNamespace::new().await else {
        return;
    };
    for line in [
        "ip link set lo up",
        "ip link add dummy0 type bridge",
        "ip addr add 10.0.0.1/24 dev dummy0",
        "ip addr add fd00::1/64 dev dummy0 nodad",
        "ip link set dummy0 up",
    ] {
        namespace.run(line);
    }
    let netns = namespace.0.as_fd();
    let steered = namespace.0.run_blocking(|| {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let steering = match Steering::new(netns, listener.as_fd()) {
            Ok(steering) => steering,
            Err(error) => {
                println!("skipped: connections cannot be steered here: {error}");
                return;
            }
        };
        for (address, dialled) in [
            ("127.0.0.1:80", Some("127.0.0.1 80")),
            ("127.1.2.3:65535", Some("127.1.2.3 65535")),
            ("[::1]:443", Some("::1 443")),
            ("10.0.0.1:80", None),
            ("[fd00::1]:80", None),
        ] {
            assert_eq!(dial(&listener, address).as_deref(), dialled, "{address}");
        }
        drop(steering);
        // A program that another test is starting holds its descriptor until its exec.
        for _ in 0..200 {
            if dial(&listener, "127.0.0.1:80").is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(dial(&listener, "127.0.0.1:80"), None);
    });
    steered.unwrap();
}
