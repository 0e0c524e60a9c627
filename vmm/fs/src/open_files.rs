//! How many files this one program may open of those that the host lets all of its programs have.

use std::fs;

/// What the host lets all processes together have open, but those with CAP_SYS_ADMIN, which then run out
/// of files as well (kernel documentation: admin-guide/sysctl/fs.rst). By default it goes with the size
/// of memory, a tenth of it at a KiB each; systemd lifts it.
const OF_ALL: &str = "/proc/sys/fs/file-max";
/// The part of it that the guest of one pod may take.
const PART: u64 = 4;

/// The most that this program may open. Without the host's number, any.
pub(crate) fn share_of_host() -> u64 {
    let text = fs::read_to_string(OF_ALL).unwrap_or_default();
    share(&text)
}

fn share(of_all: &str) -> u64 {
    of_all
        .trim()
        .parse()
        .map_or(u64::MAX, |all: u64| all / PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_taken_of_what_there_is() {
        assert_eq!(share("398950\n"), 99_737);
        assert_eq!(
            share("9223372036854775807\n"),
            i64::MAX.unsigned_abs() / PART
        );
        assert_eq!(share(""), u64::MAX);
    }
}
