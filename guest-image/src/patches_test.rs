use std::time::{Duration, SystemTime};

use super::*;

const FILE: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n";

/// A patch of the line `old` in `file`.
fn patch(file: &str, old: &str, new: &str) -> String {
    let lines: Vec<&str> = FILE.lines().collect();
    let at = lines.iter().position(|line| *line == old).unwrap();
    format!(
        "Why.\n\n--- a/{file}\n+++ b/{file}\n@@ -{0},3 +{0},3 @@\n {1}\n-{old}\n+{new}\n {2}\n",
        at,
        lines[at - 1],
        lines[at + 1]
    )
}

struct Folders {
    _temporary: tempfile::TempDir,
    patches: PathBuf,
    tree: PathBuf,
}

impl Folders {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let [patches, tree] = ["patches", "tree"].map(|name| temporary.path().join(name));
        fs::create_dir_all(&patches).unwrap();
        fs::create_dir_all(tree.join("mm")).unwrap();
        for file in ["mm/a.c", "mm/b.c"] {
            fs::write(tree.join(file), FILE).unwrap();
        }
        Self {
            _temporary: temporary,
            patches,
            tree,
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.patches.join(name), text).unwrap();
    }

    fn bring(&self) -> anyhow::Result<()> {
        Patches::read(&self.patches).unwrap().bring_to(&self.tree)
    }

    fn line(&self, file: &str, number: usize) -> String {
        let text = fs::read_to_string(self.tree.join(file)).unwrap();
        text.lines().nth(number - 1).unwrap().to_owned()
    }
}

#[test]
fn patches_are_applied_once_in_the_order_of_their_names() {
    let folders = Folders::new();
    folders.write(
        "20-b.patch",
        &patch("mm/a.c", "three", "drei").replace("-three", "-tres"),
    );
    folders.write("10-a.patch", &patch("mm/a.c", "three", "tres"));
    folders.write("README", "no patch");
    folders.bring().unwrap();
    assert_eq!(folders.line("mm/a.c", 3), "drei");
    assert!(!folders.tree.join("mm/a.c.orig").exists());
    folders.bring().unwrap();
    assert_eq!(folders.line("mm/a.c", 3), "drei");
}

#[test]
fn a_changed_patch_touches_what_it_changes_alone() {
    let folders = Folders::new();
    folders.write("10-a.patch", &patch("mm/a.c", "three", "tres"));
    folders.write("20-b.patch", &patch("mm/b.c", "three", "tres"));
    folders.bring().unwrap();

    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    for file in ["mm/a.c", "mm/b.c"] {
        let file = File::options()
            .write(true)
            .open(folders.tree.join(file))
            .unwrap();
        file.set_modified(long_ago).unwrap();
    }
    let with_other_words = "Another reason.\n".to_owned() + &patch("mm/a.c", "three", "tres");
    folders.write("10-a.patch", &with_other_words);
    folders.write("20-b.patch", &patch("mm/b.c", "five", "cinco"));
    folders.bring().unwrap();
    assert_eq!(folders.line("mm/a.c", 3), "tres");
    assert_eq!(folders.line("mm/b.c", 3), "three");
    assert_eq!(folders.line("mm/b.c", 5), "cinco");
    let changed = |file: &str| {
        let metadata = fs::metadata(folders.tree.join(file)).unwrap();
        metadata.modified().unwrap() != long_ago
    };
    assert!(!changed("mm/a.c"), "would be compiled again");
    assert!(changed("mm/b.c"), "would not be compiled again");

    fs::remove_file(folders.patches.join("10-a.patch")).unwrap();
    fs::remove_file(folders.patches.join("20-b.patch")).unwrap();
    folders.bring().unwrap();
    for file in ["mm/a.c", "mm/b.c"] {
        assert_eq!(fs::read_to_string(folders.tree.join(file)).unwrap(), FILE);
    }
}

#[test]
fn a_patch_that_does_not_apply_is_named_with_its_file_and_changes_nothing() {
    let folders = Folders::new();
    folders.write("10-a.patch", &patch("mm/a.c", "three", "tres"));
    let fits_half = patch("mm/a.c", "six", "seis") + &patch("mm/b.c", "six", "seis");
    folders.write("20-b.patch", &fits_half);
    fs::write(folders.tree.join("mm/b.c"), "something else\n").unwrap();
    let message = format!("{:#}", folders.bring().unwrap_err());
    assert!(
        message.contains("patches/20-b.patch does not fit"),
        "{message}"
    );
    assert!(
        message.ends_with("it does not apply to mm/b.c"),
        "{message}"
    );
    assert_eq!(folders.line("mm/a.c", 3), "tres", "the one before it");
    assert_eq!(folders.line("mm/a.c", 6), "six", "a part of it");
    assert!(!is_half_changed(&folders.tree));

    folders.write("20-b.patch", &patch("mm/gone.c", "six", "seis"));
    let message = format!("{:#}", folders.bring().unwrap_err());
    assert!(
        message.ends_with("it does not apply to mm/gone.c"),
        "{message}"
    );
    folders.write("20-b.patch", "no diff at all\n");
    let message = format!("{:#}", folders.bring().unwrap_err());
    assert!(message.contains("patch failed (exit status"), "{message}");

    folders.write("20-b.patch", &patch("mm/a.c", "six", "seis"));
    folders.bring().unwrap();
    assert_eq!(folders.line("mm/a.c", 6), "seis");
}

#[test]
fn the_identity_is_that_of_names_and_texts() {
    let folders = Folders::new();
    let identity = || Patches::read(&folders.patches).unwrap().identity();
    let none = identity();
    assert_eq!(
        none,
        Patches::read(Path::new("/no/such/folder"))
            .unwrap()
            .identity()
    );
    folders.write("10-a.patch", "a");
    let one = identity();
    folders.write("10-a.patch", "b");
    let other = identity();
    assert!(none != one && one != other && none != other);
}

/// Each patch says why it is there, and touches one concern.
#[test]
fn the_projects_own_patches_have_a_header_of_words() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel/patches");
    let patches = Patches::read(&folder).unwrap();
    assert!(!patches.list.is_empty());
    for Patch { name, text } in &patches.list {
        let text = str::from_utf8(text).unwrap();
        let (header, diff) = text.split_once("\n--- a/").expect(name);
        assert!(header.split_whitespace().count() >= 20, "{name}: why?");
        assert!(diff.contains("\n@@ -"), "{name}");
        let number = name.split_once('-').unwrap().0;
        assert!(number.parse::<u8>().is_ok(), "{name}");
    }
}
