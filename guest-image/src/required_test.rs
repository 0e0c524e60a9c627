use std::collections::BTreeSet;

use super::*;

#[test]
fn every_option_is_listed_once_by_its_full_name_with_a_reason() {
    let names: BTreeSet<_> = REQUIRED.iter().map(|option| option.name).collect();
    assert_eq!(names.len(), REQUIRED.len());
    for option in REQUIRED {
        assert!(option.name.starts_with("CONFIG_"), "{}", option.name);
        let first = option.why.split(' ').next().unwrap();
        assert!(["to", "for", "by", "as"].contains(&first), "{}", option.why);
    }
}
