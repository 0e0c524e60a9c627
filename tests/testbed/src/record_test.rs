use super::*;

fn row(who: &str, millions: f64) -> Row {
    Row {
        what: "start".to_owned(),
        who: who.to_owned(),
        millions,
    }
}

#[test]
fn what_is_measured_again_replaces_what_was_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("docs")).unwrap();
    let measured = folder.path().join("measured");
    fs::write(&measured, "start\trunc\t284.04\nstart\tCaisson\t400\n").unwrap();
    keep(folder.path(), &measured).unwrap();
    fs::write(&measured, "start\tCaisson\t350.5\n").unwrap();
    keep(folder.path(), &measured).unwrap();
    assert_eq!(
        read(&folder.path().join(RECORD)).unwrap(),
        [row("Caisson", 350.5), row("runc", 284.0)]
    );
}

#[test]
fn only_what_is_beyond_the_noise_is_a_change() {
    let old = [row("same", 100.0), row("less", 100.0), row("gone", 1.0)];
    let new = [row("same", 101.9), row("less", 80.0), row("other", 5.0)];
    assert_eq!(
        table(&old, &new, "v1").trim(),
        "millions of instructions | v1 | now | change\n\
         start, same | 100.0 | 101.9 | none\n\
         start, less | 100.0 | 80.0 | -20.0 %\n\
         start, other | – | 5.0 | new"
    );
}

#[test]
fn what_is_no_row_is_refused() {
    assert!(parse("start\trunc").is_err());
    assert!(parse("start\trunc\tfast").is_err());
    assert!(parse("start\trunc\t1\t2").is_err());
    let empty = tempfile::NamedTempFile::new().unwrap();
    assert!(read(empty.path()).is_err());
}

#[test]
fn a_revision_that_does_not_exist_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = compare(folder.path(), folder.path(), "no-such").unwrap_err();
    assert!(error.to_string().contains("--against no-such"), "{error}");
}
