//! `caisson-fs`: all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    caisson_fs::main()
}
