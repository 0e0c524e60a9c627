use clap::Parser;

use super::MeasureArguments;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    measure: MeasureArguments,
}

/// The names of what is measured, or why nothing is.
fn kinds(arguments: &[&str]) -> Result<Vec<&'static str>, String> {
    let words = ["measure"].iter().chain(arguments);
    let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
    let kinds = command.measure.kinds().map_err(|error| error.to_string())?;
    Ok(kinds.iter().map(|kind| kind.name).collect())
}

#[test]
fn without_options_everything_is_measured() {
    let all = vec!["containers", "pods", "work", "vmm"];
    assert_eq!(kinds(&[]), Ok(all));
    assert_eq!(kinds(&["--icount"]), Ok(vec!["containers", "vmm"]));
}

#[test]
fn what_is_named_is_measured_and_nothing_else() {
    assert_eq!(kinds(&["--work", "--icount"]), Ok(vec!["work"]));
    assert_eq!(kinds(&["--vmm", "--pods"]), Ok(vec!["pods", "vmm"]));
}

#[test]
fn a_part_is_measured_of_all_that_have_it() {
    assert_eq!(kinds(&["--only", "exec"]), Ok(vec!["containers"]));
    assert_eq!(
        kinds(&["--only", "start"]),
        Ok(vec!["containers", "pods", "vmm"])
    );
}

#[test]
fn a_part_that_nothing_has_is_an_error_that_names_the_parts() {
    let error = kinds(&["--pods", "--work", "--only", "exec"]).unwrap_err();
    assert_eq!(
        error,
        "--only exec: the parts are of pods: all, start, idle, overhead; of work: all"
    );
}
