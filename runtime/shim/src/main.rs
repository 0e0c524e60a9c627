//! `containerd-shim-caisson-v2`: containerd's shim for Caisson.
//!
//! containerd runs this program to `start` a shim, to `delete` what one left behind and to ask what
//! it is (`-info`). The shim itself is the same program without an action: one process per pod
//! that serves containerd's task interface (v2 and v3) and its sandbox interface over ttrpc on a
//! socket of its own, and passes on what is asked to the pod's virtual machine.

mod args;
mod bundle;
mod container;
mod daemon;
mod delete;
mod dialect;
mod error;
mod event;
mod fail_point;
#[cfg(test)]
mod fake_containerd;
#[cfg(test)]
mod fake_vm;
mod group;
mod hooks;
mod host_cgroup;
mod info;
mod inherited;
mod liveness;
mod log;
mod metrics;
mod options;
mod phases;
mod pod;
mod pod_config;
mod pod_files;
#[cfg(test)]
mod pod_message;
mod process;
mod publisher;
mod sandbox_service;
mod server;
mod service;
mod socket;
mod start;
#[cfg(test)]
mod state_tables;
mod stdio;
mod vm;

use std::env;
use std::process::ExitCode;

use args::{Action, Args};

fn main() -> ExitCode {
    let args = match Args::parse(env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}");
            // As for a wrong flag in a program written in Go.
            return ExitCode::from(2);
        }
    };
    let result = match args.action {
        Action::Start => start::start(&args),
        Action::Delete => delete::delete(&args),
        Action::CleanUp => delete::clean_up_and_answer(&args),
        Action::Serve => daemon::serve(&args),
        Action::Info => info::info(),
        Action::Version => info::version(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
