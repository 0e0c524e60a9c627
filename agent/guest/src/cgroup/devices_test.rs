use super::*;
use serde_json::{Value, json};

/// Runs a program as the kernel would; panics for what its verifier would refuse.
fn ask(program: &[u64], kind: i32, access: i32, major: i32, minor: i32) -> bool {
    assert_all_reachable(program);
    let context = [(access << 16 | kind) as u64, major as u64, minor as u64];
    let mut registers = [None::<u64>; 11];
    let mut argument = true;
    let mut at = 0_usize;
    loop {
        let word = program[at];
        let (code, to, from) = (
            word as u8,
            (word >> 8 & 15) as usize,
            (word >> 12 & 15) as usize,
        );
        let (offset, value) = ((word >> 16) as i16, (word >> 32) as i32 as i64 as u64);
        let read = |register: usize| registers[register].expect("an uninitialised register");
        at += 1;
        match code {
            LOAD_WORD => {
                assert!(from == 1 && argument, "the context is only in register 1");
                registers[to] = Some(context[offset as usize / 4]);
            }
            MOVE_REGISTER => registers[to] = Some(read(from)),
            MOVE => registers[to] = Some(value),
            AND => registers[to] = Some(read(to) & value),
            SHIFT_RIGHT => registers[to] = Some(read(to) >> value),
            JUMP_IF if read(to) == value => at += offset as usize,
            JUMP_UNLESS if read(to) != value => at += offset as usize,
            JUMP_IF | JUMP_UNLESS => {}
            EXIT => return read(0) == 1,
            _ => panic!("unknown instruction {code:#x}"),
        }
        argument &= to != 1 || code == JUMP_IF || code == JUMP_UNLESS;
    }
}

/// The kernel's verifier refuses a program with instructions that cannot be reached.
fn assert_all_reachable(program: &[u64]) {
    let mut reached = vec![false; program.len()];
    let mut next = vec![0_usize];
    while let Some(at) = next.pop() {
        if std::mem::replace(&mut reached[at], true) {
            continue;
        }
        let (code, offset) = (program[at] as u8, (program[at] >> 16) as i16 as usize);
        match code {
            EXIT => {}
            JUMP_IF | JUMP_UNLESS => next.extend([at + 1, at + 1 + offset]),
            _ => next.push(at + 1),
        }
    }
    assert!(reached.iter().all(|reached| *reached), "{reached:?}");
}

fn rules(json: Value) -> Result<Vec<Rule>, AgentError> {
    let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(json).unwrap();
    parse(&rules)
}

#[test]
fn what_no_rule_mentions_is_denied_but_the_usual_devices() {
    let program = program(&rules(json!([{"allow": false, "access": "rwm"}])).unwrap());
    assert!(!ask(&program, CHAR, READ, 10, 229));
    assert!(!ask(&program, BLOCK, READ | WRITE, 254, 0));
    assert!(ask(&program, CHAR, READ | WRITE, 1, 3));
    assert!(ask(&program, CHAR, READ | WRITE, 136, 17));
    assert!(!ask(&program, CHAR, READ, 1, 1), "/dev/mem");
    assert!(ask(&program, BLOCK, MKNOD, 254, 0));
    assert!(!ask(&program, BLOCK, MKNOD | READ, 254, 0));
    assert!(
        !ask(&program, BLOCK, READ, 1, 3),
        "a block device with the numbers of /dev/null"
    );
}

#[test]
fn the_last_rule_that_matches_decides() {
    let program = program(
        &rules(json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": true, "type": "b", "major": 8, "access": "rwm"},
            {"allow": false, "type": "b", "major": 8, "minor": 1, "access": "w"},
            {"allow": true, "type": "c", "major": 10, "minor": -1, "access": "r"},
        ]))
        .unwrap(),
    );
    assert!(ask(&program, CHAR, READ | WRITE, 10, 229));
    assert!(ask(&program, CHAR, WRITE, 10, 229));
    assert!(ask(&program, CHAR, READ, 10, 5));
    assert!(!ask(&program, CHAR, READ | WRITE, 10, 5));
    assert!(ask(&program, BLOCK, READ | WRITE, 8, 0));
    assert!(ask(&program, BLOCK, READ, 8, 1));
    assert!(
        !ask(&program, BLOCK, READ | WRITE, 8, 1),
        "a prohibition covers any of its accesses"
    );
    assert!(!ask(&program, BLOCK, READ, 9, 0));
}

#[test]
fn a_privileged_container_needs_no_program() {
    assert!(allows_everything(
        &rules(json!([{"allow": true, "access": "rwm"}])).unwrap()
    ));
    assert!(allows_everything(&rules(json!([])).unwrap()));
    let one_kind = rules(json!([{"allow": true, "type": "c", "access": "rwm"}])).unwrap();
    assert!(!allows_everything(&one_kind));
    let read_only = rules(json!([{"allow": true, "access": "r"}])).unwrap();
    assert!(!allows_everything(&read_only));
}

#[test]
fn rules_that_are_none_are_refused() {
    for rule in [
        json!({"allow": true, "type": "p"}),
        json!({"allow": true, "major": -2}),
        json!({"allow": true, "minor": 1_u64 << 40}),
        json!({"allow": true, "access": "x"}),
    ] {
        let result = rules(json!([rule.clone()]));
        assert!(
            matches!(result, Err(AgentError::InvalidArgument(_))),
            "{rule}"
        );
    }
    let many = json!(vec![json!({"allow": true}); MAX_RULES + 1]);
    assert!(rules(many).is_err());
}
