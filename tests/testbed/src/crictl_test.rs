use std::path::Path;

use super::{MODULE, VERSION, install};

#[test]
fn one_version_is_built_into_the_folder_without_libraries() {
    let command = install("go", Path::new("/folder"));
    let last = command.get_args().last().unwrap();
    assert_eq!(last.to_str().unwrap(), format!("{MODULE}@{VERSION}"));
    let of = |name: &str| {
        let mut all = command.get_envs();
        all.find(|(key, _)| *key == name).unwrap().1.unwrap()
    };
    assert_eq!(of("GOBIN"), "/folder");
    assert_eq!(of("CGO_ENABLED"), "0");
}
