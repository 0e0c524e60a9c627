use std::path::Path;

use super::CRICTL;

#[test]
fn one_version_is_built_into_the_folder_without_libraries() {
    let command = CRICTL.install("go", Path::new("/folder"));
    let last = command.get_args().last().unwrap();
    let wanted = format!("{}@{}", CRICTL.module, CRICTL.version);
    assert_eq!(last.to_str().unwrap(), wanted);
    let of = |name: &str| {
        let mut all = command.get_envs();
        all.find(|(key, _)| *key == name).unwrap().1.unwrap()
    };
    assert_eq!(of("GOBIN"), "/folder");
    assert_eq!(of("CGO_ENABLED"), "0");
}

#[test]
fn a_program_is_found_by_the_name_that_go_gives_it() {
    assert_eq!(CRICTL.built_name(), "crictl");
}
