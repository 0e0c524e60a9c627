use oci_spec::runtime::Linux;
use serde_json::{Value, json};

use super::{DeviceNumber, WantedDisk, named, renumber, rules, wanted};

fn linux(devices: &Value, rules: &Value) -> Linux {
    let linux = json!({"devices": devices, "resources": {"devices": rules}});
    serde_json::from_value(linux).unwrap()
}

fn block(path: &str, major: i64, minor: i64) -> Value {
    json!({"path": path, "type": "b", "major": major, "minor": minor, "fileMode": 432, "gid": 6})
}

fn rule(major: i64, minor: i64, access: &str) -> Value {
    json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": access})
}

fn nothing() -> Value {
    json!({"allow": false, "access": "rwm"})
}

const LOOP: DeviceNumber = DeviceNumber { major: 7, minor: 3 };
const IN_GUEST: DeviceNumber = DeviceNumber {
    major: 254,
    minor: 16,
};

#[test]
fn a_device_with_a_rule_of_its_own_is_wanted_as_the_rule_says() {
    for (access, writable) in [("rwm", true), ("rw", true), ("r", false), ("mr", false)] {
        let linux = linux(
            &json!([
                {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
                block("/dev/xvda", 7, 3),
                block("/again", 7, 3),
            ]),
            &json!([nothing(), rule(7, 3, access)]),
        );
        let disk = WantedDisk {
            number: LOOP,
            writable,
            path: "/dev/xvda".into(),
        };
        assert_eq!(wanted(&linux), [disk], "{access}");
    }
}

#[test]
fn what_is_only_listed_or_may_only_be_made_is_not_wanted() {
    let everything = json!({"allow": true, "access": "rwm"});
    for of_it in [
        // A privileged container has every device of the host, and this rule.
        json!([everything]),
        json!([nothing(), {"allow": true, "type": "b", "access": "rwm"}]),
        json!([nothing(), {"allow": true, "type": "b", "major": 7, "access": "rwm"}]),
        json!([nothing(), {"allow": true, "type": "b", "major": 7, "minor": -1, "access": "rwm"}]),
        json!([nothing(), {"allow": true, "type": "c", "major": 7, "minor": 3, "access": "rwm"}]),
        json!([nothing(), rule(7, 4, "rwm"), rule(8, 3, "rwm")]),
        json!([nothing(), rule(7, 3, "m")]),
        json!([rule(7, 3, "rwm"), nothing()]),
        json!([]),
    ] {
        let linux = linux(&json!([block("/dev/xvda", 7, 3)]), &of_it);
        assert_eq!(wanted(&linux), [], "{of_it}");
    }
    let impossible = linux(
        &json!([block("/dev/xvda", 7, 1 << 20)]),
        &json!([rule(7, 1 << 20, "rwm")]),
    );
    assert_eq!(wanted(&impossible), []);
}

#[test]
fn the_last_rule_about_an_access_decides() {
    let linux = linux(
        &json!([block("/dev/xvda", 7, 3)]),
        &json!([
            rule(7, 3, "rwm"),
            {"allow": false, "type": "b", "major": 7, "access": "w"},
        ]),
    );
    let disks = wanted(&linux);
    assert!(!disks[0].writable, "{disks:?}");
}

#[test]
fn devices_and_rules_get_the_numbers_of_the_guest() {
    let mut linux = linux(
        &json!([
            {"path": "/dev/null", "type": "c", "major": 7, "minor": 3},
            block("/dev/xvda", 7, 3),
        ]),
        &json!([
            nothing(),
            {"allow": true, "type": "b", "access": "m"},
            {"allow": true, "type": "c", "major": 7, "minor": 3, "access": "rwm"},
            // About a character device, too, of which the guest may have one.
            {"allow": true, "type": "a", "major": 254, "minor": 0, "access": "rwm"},
            // Numbers of other devices of the host: in the guest they may be another's.
            rule(254, 0, "rwm"),
            {"allow": true, "type": "b", "major": 254, "access": "rwm"},
            rule(7, 3, "rw"),
        ]),
    );
    let before = named(&linux.devices().clone().unwrap()[1], rules(&linux));
    assert_eq!(before, Some(LOOP));
    renumber(&mut linux, &[(LOOP, IN_GUEST)]);
    let result = serde_json::to_value(&linux).unwrap();
    assert_eq!(
        result["devices"],
        json!([
            {"path": "/dev/null", "type": "c", "major": 7, "minor": 3},
            block("/dev/xvda", 254, 16),
        ])
    );
    assert_eq!(
        result["resources"]["devices"],
        json!([
            nothing(),
            {"allow": true, "type": "b", "access": "m"},
            {"allow": true, "type": "c", "major": 7, "minor": 3, "access": "rwm"},
            {"allow": true, "type": "c", "major": 254, "minor": 0, "access": "rwm"},
            rule(254, 16, "rw"),
        ])
    );
}
