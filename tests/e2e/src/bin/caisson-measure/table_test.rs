use std::time::Duration;

use super::{Aim, HOST, RUNC, Table};
use crate::contender::CAISSON;

fn table() -> Table {
    let mut table = Table::default();
    // The first round is another one than those that count.
    for (round, factor) in [(0, 9), (1, 1), (2, 1), (3, 2)] {
        for (who, took) in [(RUNC, 100), (CAISSON, 150), (HOST, 50)] {
            table.note(round, "start", who, Duration::from_millis(took * factor));
        }
    }
    table
}

#[test]
fn a_row_has_the_median_of_each_its_spread_and_what_it_is_of_runcs() {
    let text = table().markdown();
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("| | runc | Caisson | host | Caisson's aim |")
    );
    assert_eq!(lines.next(), Some("|---|---|---|---|---|"));
    let row = "| start, ms | 100.0 ±100 % | 150.0 ±100 % (1.50) | 50.0 ±100 % (0.50) |  |";
    assert_eq!(lines.next(), Some(row));
}

#[test]
fn an_aim_is_met_or_missed() {
    for (aim, judged) in [
        (Aim::Times(1.5, RUNC), "1.50 of runc's: met"),
        (Aim::Times(1.4, RUNC), "1.40 of runc's: missed"),
        (Aim::Times(1.1, HOST), "1.10 of the host's, is 3.00: missed"),
        (Aim::Most(150.0), "150.00: met"),
    ] {
        let mut table = table();
        table.aim("start", aim);
        let text = table.markdown();
        assert!(
            text.trim_end().ends_with(&format!("| {judged} |")),
            "{text}"
        );
    }
}

#[test]
fn who_takes_no_part_in_a_row_has_an_empty_cell() {
    let mut table = table();
    table.once("memory", "KiB", CAISSON, 7.0);
    let text = table.markdown();
    assert!(text.contains("| memory, KiB |  | 7.0 |  |  |"), "{text}");
}
