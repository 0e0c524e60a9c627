use super::{AptSource, Mirror, parse_deb822, parse_one_line};

const DEBIAN_KEY: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

fn source(uri: &str, suite: &str, components: &[&str], signed_by: Option<&str>) -> AptSource {
    AptSource {
        uri: uri.into(),
        suite: suite.into(),
        components: components.iter().map(ToString::to_string).collect(),
        signed_by: signed_by.map(Into::into),
    }
}

#[test]
fn one_line_sources_are_read_with_their_options() {
    let text = "# deb http://commented.example bookworm main\n\
        deb-src http://one.example/debian bookworm main\n\
        deb http://one.example/debian bookworm main contrib # why\n\
        deb [ arch=amd64 signed-by=/k.gpg ] https://two.example bookworm-updates main\n\
        deb http://no-suite.example\n";
    assert_eq!(
        parse_one_line(text),
        [
            source(
                "http://one.example/debian",
                "bookworm",
                &["main", "contrib"],
                None
            ),
            source(
                "https://two.example",
                "bookworm-updates",
                &["main"],
                Some("/k.gpg")
            ),
        ]
    );
}

#[test]
fn deb822_stanzas_multiply_uris_and_suites() {
    let text = "Types: deb deb-src\n# a comment\nURIs: http://one.example http://two.example\n\
        Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n\n\
        Types: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\nEnabled: no\n\n\
        Types: deb-src\nURIs: http://src.example\nSuites: bookworm\nComponents: main\n";
    let sources = parse_deb822(text);
    let pairs: Vec<_> = sources
        .iter()
        .map(|s| (s.uri.as_str(), s.suite.as_str()))
        .collect();
    assert_eq!(
        pairs,
        [
            ("http://one.example", "bookworm"),
            ("http://one.example", "bookworm-updates"),
            ("http://two.example", "bookworm"),
            ("http://two.example", "bookworm-updates"),
        ]
    );
    assert!(
        sources
            .iter()
            .all(|s| s.signed_by.as_deref() == Some("/k.gpg"))
    );
}

#[test]
fn an_embedded_key_keeps_its_lines() {
    let text = "Types: deb\nURIs: http://one.example\nSuites: trixie\nComponents: main\nSigned-By:\n \
        -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n";
    let mirror = Mirror::choose(&parse_deb822(text), "trixie").unwrap();
    let again = parse_deb822(&mirror.source("sid"));
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].suite, "sid");
    assert_eq!(again[0].signed_by, parse_deb822(text)[0].signed_by);
}

#[test]
fn the_mirror_is_the_source_of_debian_itself() {
    let sources = [
        source(
            "https://vendor.example",
            "bookworm",
            &["main"],
            Some("/vendor.gpg"),
        ),
        source("cdrom:[disc]/", "bookworm", &["main"], None),
        source(
            "https://security.example",
            "bookworm-security",
            &["main"],
            Some(DEBIAN_KEY),
        ),
        source(
            "http://mirror.example/debian",
            "bookworm",
            &["main"],
            Some(DEBIAN_KEY),
        ),
    ];
    let mirror = Mirror::choose(&sources, "bookworm").unwrap();
    assert_eq!(mirror.uri, "http://mirror.example/debian");
    assert!(mirror.source("trixie").contains("Suites: trixie\n"));
}

#[test]
fn without_a_source_of_debian_there_is_no_mirror() {
    assert_eq!(Mirror::choose(&[], "bookworm"), None);
    let contrib_only = [source("http://one.example", "bookworm", &["contrib"], None)];
    assert_eq!(Mirror::choose(&contrib_only, "bookworm"), None);
}

#[test]
fn an_unsigned_source_is_checked_with_debians_keys() {
    let sources = [source("http://one.example", "bookworm", &["main"], None)];
    let mirror = Mirror::choose(&sources, "bookworm").unwrap();
    assert_eq!(mirror.signed_by, DEBIAN_KEY);
}
