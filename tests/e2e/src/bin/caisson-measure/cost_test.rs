use std::time::Duration;

use super::of_tasks;

#[test]
fn the_time_of_tasks_is_that_of_all_processors() {
    let text = "version 16\ntimestamp 4295\n\
                cpu0 0 0 9 8 7 6 1000000 55 44\n\
                domain0 00000003 1 2 3 4 5 6 7 8\n\
                cpu1 0 0 9 8 7 6 2500 55 44\n";
    assert_eq!(of_tasks(text), Some(Duration::from_nanos(1_002_500)));
}

#[test]
fn what_is_no_number_is_no_time() {
    assert_eq!(of_tasks("cpu0 0 0 9 8 7 6 many\n"), None);
}
