use super::*;

#[test]
fn the_debian_archives_are_told_from_others() {
    let mirror = Mirror::among(
        "Tools Ltd|Tools|stable|http://tools.example/debian/\n\
         Debian|Debian-Security|bookworm-security|http://mirror.example/debian-security/\n\
         Debian|Debian|bookworm|http://mirror.example/debian/\n\
         Debian|Debian|bookworm-updates|http://other.example/debian/\n",
    );
    assert_eq!(
        mirror,
        Some(Mirror {
            debian: "http://mirror.example/debian/".to_owned(),
            security: Some("http://mirror.example/debian-security/".to_owned()),
        })
    );
}

#[test]
fn before_the_first_update_the_address_tells() {
    let mirror = Mirror::among(
        "|||http://tools.example/apt/\n\
         ||bookworm-security|http://mirror.example/debian-security/\n\
         ||bookworm|http://mirror.example/debian\n",
    )
    .unwrap();
    assert_eq!(mirror.debian, "http://mirror.example/debian");
    assert_eq!(
        mirror.security.as_deref(),
        Some("http://mirror.example/debian-security/")
    );
}

#[test]
fn without_a_debian_archive_there_is_no_mirror() {
    assert_eq!(Mirror::among(""), None);
    assert_eq!(
        Mirror::among("Ubuntu|Ubuntu|noble|http://mirror.example/ubuntu/\n"),
        None
    );
}

#[test]
fn the_source_list_names_both_archives_of_the_release() {
    let mirror = Mirror {
        debian: "http://mirror.example/debian/".to_owned(),
        security: Some("http://mirror.example/debian-security/".to_owned()),
    };
    let list = mirror.source_list("trixie");
    let suites: Vec<_> = list
        .lines()
        .filter_map(|line| line.strip_prefix("Suites: "))
        .collect();
    assert_eq!(suites, ["trixie", "trixie-security"]);
    assert_eq!(list.matches("Signed-By: /").count(), 2);
}
