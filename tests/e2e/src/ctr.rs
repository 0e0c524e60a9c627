//! containerd's own command-line client.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

/// The runtime under test, as containerd's clients name it.
pub const RUNTIME: &str = "io.containerd.caisson.v2";

/// One call of `ctr`, being put together.
#[derive(Debug)]
pub struct Ctr {
    command: Command,
    stdin: Vec<u8>,
}

/// A call of `ctr` that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; 128 plus the signal if one ended it.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ctr {
    /// `ctr ARGS…`.
    #[must_use]
    pub fn new<S: AsRef<str>>(args: &[S]) -> Self {
        let mut command = Command::new("ctr");
        command.args(args.iter().map(AsRef::as_ref));
        Self {
            command,
            stdin: Vec::new(),
        }
    }

    /// `ctr run --rm --runtime RUNTIME IMAGE ID ARGS…`: runs a container to its end.
    #[must_use]
    pub fn run(image: &str, id: &str, args: &[&str]) -> Self {
        Self::run_with(&[], image, id, args)
    }

    /// Like [`Ctr::run`], with options of `ctr run` before the image.
    #[must_use]
    pub fn run_with(options: &[&str], image: &str, id: &str, args: &[&str]) -> Self {
        let words = [
            &["run", "--rm", "--runtime", RUNTIME],
            options,
            &[image, id],
            args,
        ]
        .concat();
        Self::new(&words)
    }

    /// What `ctr` reads from its standard input; without this, nothing.
    #[must_use]
    pub fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = bytes;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// Panics when `ctr` cannot be started.
    #[must_use]
    pub fn finish(self) -> Finished {
        run_to_end(self.command, self.stdin)
    }
}

/// Runs a command to its end, with `bytes` for its standard input.
///
/// # Panics
/// Panics when it cannot be started.
pub(crate) fn run_to_end(mut command: Command, bytes: Vec<u8>) -> Finished {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} is not in the testbed: {error}"));
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    // A container may end without reading: a broken pipe is not the test's concern here.
    let writer = thread::spawn(move || drop(stdin.write_all(&bytes)));
    let output = child.wait_with_output().expect("a child can be waited for");
    writer.join().expect("the writer ends with the pipe");
    Finished {
        code: exit_code(output.status),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Finished {
    /// Standard output as text without the white space around it.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// This call, known to have succeeded.
    ///
    /// # Panics
    /// Panics with everything it printed when the exit code is not 0.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(
            self.code,
            0,
            "stdout: {}\nstderr: {}",
            self.text(),
            self.stderr
        );
        self
    }

    /// The message of a call, known to have failed.
    ///
    /// # Panics
    /// Panics when it succeeded.
    #[must_use]
    #[track_caller]
    pub fn failure(self) -> String {
        assert_ne!(self.code, 0, "it succeeded with: {}", self.text());
        self.stderr
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
