//! Containers and execs on a terminal.

use caisson_e2e::{BUSYBOX, CleanMachine, Container, RUNTIME, Terminal};

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn an_exec_on_a_terminal_sees_its_size_and_its_resize() {
    let _machine = CleanMachine::watch();
    let container = Container::start(BUSYBOX, "size", &["sleep", "1000"]);
    let exec = ["task", "exec", "--tty", "--exec-id", "shell", "size", "sh"];
    let mut terminal = Terminal::run("ctr", &exec, 30, 90);
    terminal.types("until stty size | grep -q '30 90'; do :; done; echo first=$(stty size)\n");
    terminal.shows("first=30 90");
    terminal.resize(40, 120);
    terminal.types("until stty size | grep -q '40 120'; do :; done; echo then=$(stty size)\n");
    terminal.shows("then=40 120");
    terminal.types("exit 5\n");
    assert_eq!(terminal.exit_code(), 5);
    drop(container);
}

#[test]
#[ignore = "needs the testbed: cargo verify"]
fn a_container_on_a_terminal_is_typed_to_and_interrupted() {
    let _machine = CleanMachine::watch();
    let run = [
        "run",
        "--rm",
        "--tty",
        "--runtime",
        RUNTIME,
        BUSYBOX,
        "typed",
        "sh",
    ];
    let mut terminal = Terminal::run("ctr", &run, 24, 80);
    terminal.types("tty; echo $((20 + 3))\n");
    terminal.shows("/dev/pts/");
    terminal.shows("23");
    // What is typed shows at once; only what the program says shows that it is there to interrupt.
    terminal.types("sh -c 'echo go$((1 + 1)); exec sleep 1000'; echo interrupted=$?\n");
    terminal.shows("go2");
    terminal.types("\u{3}");
    terminal.types("echo after=$?\n");
    terminal.shows("after=130");
    terminal.types("exit 7\n");
    assert_eq!(terminal.exit_code(), 7);
}
