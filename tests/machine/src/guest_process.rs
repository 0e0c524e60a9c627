//! A request to the guest that takes its time, and what comes of it.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use crate::frame::Frame;

/// How a request ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The exit code; 128 plus the signal if one ended the program.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text without the white space around it.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// This output, known to be that of a success.
    ///
    /// # Panics
    /// Panics with everything that was printed when the exit code is not 0.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> Self {
        let (text, errors) = (self.text(), self.errors());
        assert_eq!(self.code, 0, "stdout: {text}\nstderr: {errors}");
        self
    }
}

/// A program that runs in the guest.
#[derive(Debug)]
pub struct GuestProcess {
    stream: UnixStream,
    /// What it has said so far.
    output: Output,
    /// How much of its standard output was taken as lines.
    taken: usize,
    ended: bool,
}

impl GuestProcess {
    /// What is at the other end of a stream on which frames come.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            output: Output::default(),
            taken: 0,
            ended: false,
        }
    }

    /// Where its standard input is written.
    ///
    /// # Panics
    /// Panics when there are no descriptors left.
    #[must_use]
    pub fn input(&self) -> UnixStream {
        let stream = self.stream.try_clone();
        stream.expect("there are descriptors left")
    }

    /// Waits for the next line of its standard output.
    ///
    /// # Panics
    /// Panics when none comes.
    #[must_use]
    #[track_caller]
    pub fn line(&mut self) -> String {
        loop {
            let rest = self.output.stdout.get(self.taken..).unwrap_or_default();
            if let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(rest.get(..length).unwrap_or_default());
                let line = line.into_owned();
                self.taken += length + 1;
                return line;
            }
            assert!(!self.ended, "there is no further line in {:?}", self.output);
            self.read_frame();
        }
    }

    /// Ends its standard input and waits for its end.
    ///
    /// # Panics
    /// Panics when it does not end.
    #[must_use]
    #[track_caller]
    pub fn finish(self) -> Output {
        self.finish_with(&[])
    }

    /// Gives it `input` and waits for its end.
    ///
    /// # Panics
    /// Panics when it does not end.
    #[must_use]
    #[track_caller]
    pub fn finish_with(mut self, input: &[u8]) -> Output {
        let mut stream = self.input();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // It may end without reading everything; the test will see by its output.
                let _ = stream.write_all(input);
                let _ = stream.shutdown(Shutdown::Write);
            });
            while !self.ended {
                self.read_frame();
            }
        });
        self.output
    }

    #[track_caller]
    fn read_frame(&mut self) {
        match Frame::read_from(&mut self.stream) {
            Ok(Frame::Stdout(bytes)) => self.output.stdout.extend(bytes),
            Ok(Frame::Stderr(bytes)) => self.output.stderr.extend(bytes),
            Ok(Frame::Exit(code)) => {
                self.output.code = code;
                self.ended = true;
            }
            Err(error) => {
                // Or the thread that feeds it would be waited for as well.
                let _ = self.stream.shutdown(Shutdown::Both);
                panic!(
                    "the guest did not answer to the end: {error}; {:?}",
                    self.output
                );
            }
        }
    }
}
