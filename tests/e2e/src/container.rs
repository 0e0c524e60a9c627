//! A container that keeps running while a test does things to it.

use std::fs;

use crate::ctr::{Ctr, Finished, RUNTIME};
use crate::faulty::faulty_runtime;
use crate::process::{children_of, parent_of};

/// A detached container, removed when it goes out of scope.
#[derive(Debug)]
pub struct Container {
    id: String,
}

impl Container {
    /// Starts ARGS in a container of IMAGE and returns once it runs.
    ///
    /// # Panics
    /// Panics when it does not start.
    #[must_use]
    #[track_caller]
    pub fn start(image: &str, id: &str, args: &[&str]) -> Self {
        Self::start_with(&[], image, id, args)
    }

    /// Like [`Container::start`], with options of `ctr run` before the image.
    ///
    /// # Panics
    /// Panics when it does not start.
    #[must_use]
    #[track_caller]
    pub fn start_with(options: &[&str], image: &str, id: &str, args: &[&str]) -> Self {
        let container = Self::named(id);
        let options = [&["--runtime", RUNTIME], options].concat();
        let _ = Self::run(&options, image, id, args).finish().ok();
        container
    }

    /// Starts a container from the OCI configuration in the file CONFIG and returns once it runs.
    ///
    /// # Panics
    /// Panics when it does not start.
    #[must_use]
    #[track_caller]
    pub fn configured(config: &str, id: &str) -> Self {
        let container = Self::named(id);
        let words = [
            "run",
            "--detach",
            "--runtime",
            RUNTIME,
            "--config",
            config,
            id,
        ];
        let _ = Ctr::new(&words).finish().ok();
        container
    }

    /// Like [`Container::start`], with the debug build of the shim and its fail points armed.
    ///
    /// # Panics
    /// Panics when it does not start.
    #[must_use]
    #[track_caller]
    pub fn start_faulty(fail_points: &str, image: &str, id: &str, args: &[&str]) -> Self {
        let container = Self::named(id);
        let _ = Self::run_faulty(fail_points, image, id, args).finish().ok();
        container
    }

    /// `ctr run --detach` with the debug build of the shim and its fail points armed.
    #[must_use]
    pub fn run_faulty(fail_points: &str, image: &str, id: &str, args: &[&str]) -> Ctr {
        let annotation = format!("caisson.fail-points={fail_points}");
        let runtime = faulty_runtime();
        let options = ["--runtime", &runtime, "--annotation", &annotation];
        Self::run(&options, image, id, args)
    }

    fn run(options: &[&str], image: &str, id: &str, args: &[&str]) -> Ctr {
        Ctr::new(&[&["run", "--detach"], options, &[image, id], args].concat())
    }

    /// The container of this name, which others start; removed like those that are started here.
    #[must_use]
    pub fn named(id: &str) -> Self {
        Self { id: id.to_owned() }
    }

    /// `ctr task start --detach`: once more, after its task was deleted.
    #[must_use]
    pub fn start_again(&self) -> Finished {
        self.task("start", &["--detach"])
    }

    /// `ctr task exec`: runs ARGS in it to their end.
    #[must_use]
    pub fn exec(&self, args: &[&str]) -> Ctr {
        self.exec_as("e", args)
    }

    /// Like [`Container::exec`] with an exec id of one's own, for several at once.
    #[must_use]
    pub fn exec_as(&self, exec: &str, args: &[&str]) -> Ctr {
        let words = [&["task", "exec", "--exec-id", exec, &self.id], args].concat();
        Ctr::new(&words)
    }

    /// `ctr task VERB OPTIONS… ID`.
    #[must_use]
    pub fn task(&self, verb: &str, options: &[&str]) -> Finished {
        let words = [&["task", verb], options, &[self.id.as_str()]].concat();
        Ctr::new(&words).finish()
    }

    /// `ctr task delete`: the exit code with which the task ended, which must not be 0.
    ///
    /// # Panics
    /// Panics when the task cannot be deleted or ended well.
    #[must_use]
    #[track_caller]
    pub fn exit_code_at_delete(&self) -> i32 {
        let deleted = self.task("delete", &[]).ok();
        // ctr says it in a warning: … level=warning msg="task ID exit with non-zero exit code 137"
        let code = deleted.stderr.rsplit("exit code ").next();
        code.and_then(|code| code.trim().trim_end_matches('"').parse().ok())
            .unwrap_or_else(|| panic!("no exit code in: {}", deleted.stderr))
    }

    /// The state `ctr task ls` shows, for example `RUNNING`.
    ///
    /// # Panics
    /// Panics when the task is not listed.
    #[must_use]
    pub fn state(&self) -> String {
        self.listed(2)
    }

    /// The host process containerd knows as the task.
    ///
    /// # Panics
    /// Panics when the task is not listed.
    #[must_use]
    pub fn host_pid(&self) -> i32 {
        let pid = self.listed(1);
        pid.parse()
            .unwrap_or_else(|_| panic!("the pid of task {} is {pid:?}", self.id))
    }

    /// The process of its pod with this name, for example `caisson-vmm`.
    ///
    /// # Panics
    /// Panics when there is none.
    #[must_use]
    #[track_caller]
    pub fn process(&self, name: &str) -> i32 {
        let shim = parent_of(self.host_pid());
        let called = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let found = children_of(shim).into_iter().find(called);
        found.unwrap_or_else(|| panic!("the shim of {} has no {name}", self.id))
    }

    /// The process of its virtual machine.
    ///
    /// # Panics
    /// Panics when there is none.
    #[must_use]
    #[track_caller]
    pub fn vmm_pid(&self) -> i32 {
        self.process("caisson-vmm")
    }

    /// A column of this task's line in `ctr task ls`: id, pid, state.
    #[track_caller]
    fn listed(&self, column: usize) -> String {
        let list = Ctr::new(&["task", "ls"]).finish().ok().text();
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(&self.id));
        let line = line.unwrap_or_else(|| panic!("no task {} in:\n{list}", self.id));
        let word = line.split_whitespace().nth(column);
        word.expect("ctr prints three columns").to_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.task("kill", &["--signal", "9"]);
        let _ = self.task("rm", &["--force"]);
        let _ = Ctr::new(&["container", "rm", &self.id]).finish();
    }
}
