//! The control thread: answers the shim's requests and tells it what happens.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use caisson_control::{
    Channel, ChannelError, DeviceConfig, Event, Exit, ExitReason, FromVmm, Phase, RefusalKind,
    Reply, Request, ToVmm,
};
use rustix::event::{PollFd, PollFlags};

use crate::events::{self, EventReceiver, EventSender, Happening};
use crate::filter;
use crate::machine::{BootError, Machine};

/// Why the VMM ended without having been told to.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The control channel failed, or the shim sent what is not in the protocol.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The host has no resources left.
    #[error("control thread: {0}")]
    Io(#[from] io::Error),
}

/// Serves the shim at the other end of `channel` until the machine has ended or the shim is gone.
/// `started_ns` is when the process began, `CLOCK_MONOTONIC` in nanoseconds.
///
/// # Errors
/// See [`ControlError`].
pub(crate) fn serve(channel: Channel, started_ns: u64) -> Result<(), ControlError> {
    let (sender, receiver) = events::channel()?;
    let control = Control {
        channel,
        sender,
        receiver,
        machine: None,
        agent_reported: false,
    };
    match control.run(started_ns) {
        // Without the shim there is nobody to run a machine for.
        Err(ControlError::Channel(ChannelError::Closed)) => Ok(()),
        result => result,
    }
}

struct Control {
    channel: Channel,
    sender: EventSender,
    receiver: EventReceiver,
    machine: Option<Machine>,
    agent_reported: bool,
}

impl Control {
    fn run(mut self, started_ns: u64) -> Result<(), ControlError> {
        self.phase(Phase::VmmStarted, started_ns)?;
        loop {
            let (request, event) = self.wait()?;
            if event {
                self.receiver.acknowledge();
                self.report()?;
                if let Some(reason) = self.receiver.exit_reason().cloned() {
                    return self.end(reason);
                }
            }
            if request {
                let (message, files) = self.channel.receive::<ToVmm>()?;
                if let Request::Stop = message.request {
                    return self.stop(message.id);
                }
                if let Some(reply) = self.answer(message, files)? {
                    self.send(&reply)?;
                }
            }
        }
    }

    /// Waits for a request and for an event.
    fn wait(&self) -> Result<(bool, bool), ControlError> {
        let mut fds = [
            PollFd::new(&self.channel, PollFlags::IN),
            PollFd::new(&self.receiver, PollFlags::IN),
        ];
        loop {
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        let [request, event] = fds.map(|fd| !fd.revents().is_empty());
        Ok((request, event))
    }

    /// Carries out a request; `None` if the answer comes later.
    fn answer(
        &mut self,
        message: ToVmm,
        files: Vec<OwnedFd>,
    ) -> Result<Option<FromVmm>, ControlError> {
        let ToVmm { id, request } = message;
        let reply = match (request, &mut self.machine) {
            (Request::Boot(_), Some(_)) => refuse(RefusalKind::Invalid, "the machine runs already"),
            (Request::Boot(config), None) => match Machine::build(&config, files, &self.sender) {
                Ok(machine) => return self.enter(id, machine).map(|()| None),
                Err(error) => refuse_boot(&error),
            },
            (_, None) => refuse(RefusalKind::Invalid, "the first request must be to boot"),
            (Request::ConnectGuest { port }, Some(machine)) => {
                let [stream] = match <[OwnedFd; 1]>::try_from(files) {
                    Ok(stream) => stream,
                    Err(files) => {
                        let message = format!("one socket must come with it, not {}", files.len());
                        let reply = refuse(RefusalKind::Invalid, message);
                        return Ok(Some(FromVmm::Reply { id, reply }));
                    }
                };
                machine.connect_guest(id, port, UnixStream::from(stream));
                return Ok(None);
            }
            (Request::Pause, Some(machine)) => {
                machine.pause();
                Reply::Done
            }
            (Request::Resume, Some(machine)) => {
                machine.resume();
                Reply::Done
            }
            (Request::Plug(device), Some(machine)) => plug(machine, &device, files),
            (Request::Unplug { slot }, Some(machine)) => match machine.unplug(slot) {
                true => Reply::Done,
                false => refuse(
                    RefusalKind::Invalid,
                    format!("no device that can be taken off the bus is in slot {slot}"),
                ),
            },
            (Request::SetVcpus { count }, Some(machine)) => done(machine.set_vcpus(count)),
            (Request::SetHotplugMemory { mib }, Some(machine)) => {
                done(machine.set_hotplug_memory(mib))
            }
            (Request::SetBalloon { mib }, Some(machine)) => done(machine.set_balloon(mib)),
            (Request::Metrics, Some(machine)) => Reply::Metrics(machine.metrics()),
            // Handled by the caller, whom it ends.
            (Request::Stop, Some(_)) => Reply::Stopped,
        };
        Ok(Some(FromVmm::Reply { id, reply }))
    }

    /// Lets the guest run.
    fn enter(&mut self, id: u64, machine: Machine) -> Result<(), ControlError> {
        let entered = events::monotonic_ns();
        machine.enter();
        let slots = machine.slots();
        self.machine = Some(machine);
        self.send(&FromVmm::Reply {
            id,
            reply: Reply::Booted { slots },
        })?;
        self.phase(Phase::VcpuEntered, entered)?;
        // While the guest boots; nothing waits for it.
        Ok(filter::enter(filter::Kind::Control)?)
    }

    /// Passes on what other threads told.
    fn report(&mut self) -> Result<(), ControlError> {
        if let (Some(at), false) = (self.receiver.agent_started(), self.agent_reported) {
            self.agent_reported = true;
            self.phase(Phase::AgentStarted, at)?;
        }
        // What comes meanwhile waits for the next turn: a guest that connects as fast as we pass it
        // on must not keep us from the shim's requests.
        for happening in self.receiver.take() {
            match happening {
                Happening::GuestConnected { port, stream } => {
                    let event = FromVmm::Event(Event::GuestConnected { port });
                    let stream = OwnedFd::from(stream);
                    let stream = stream.as_fd();
                    self.channel.send(&event, &[stream])?;
                }
                Happening::ConnectFinished { id, accepted } => {
                    let reply = if accepted {
                        Reply::Connected
                    } else {
                        refuse(
                            RefusalKind::ConnectionRefused,
                            "nobody in the guest listens there, or too many connections are open",
                        )
                    };
                    self.send(&FromVmm::Reply { id, reply })?;
                }
                Happening::DeviceFault { device, message } => {
                    let device = device.to_owned();
                    self.send(&FromVmm::Event(Event::DeviceFault { device, message }))?;
                }
                Happening::MemoryPressure { balloon_mib } => {
                    self.send(&FromVmm::Event(Event::MemoryPressure { balloon_mib }))?;
                }
            }
        }
        Ok(())
    }

    /// The shim wants the machine to end.
    fn stop(mut self, id: u64) -> Result<(), ControlError> {
        let Some(machine) = &mut self.machine else {
            self.send(&FromVmm::Reply {
                id,
                reply: Reply::Stopped,
            })?;
            return self.end(ExitReason::Stopped);
        };
        machine.stop();
        self.report()?;
        self.send(&FromVmm::Reply {
            id,
            reply: Reply::Stopped,
        })?;
        self.end(ExitReason::Stopped)
    }

    /// Reports the end of the machine. Tearing it down, which takes KVM tens of milliseconds,
    /// comes after that, with the end of the process.
    fn end(mut self, reason: ExitReason) -> Result<(), ControlError> {
        let (reason, console) = match &mut self.machine {
            Some(machine) => {
                // What the guest sent just before its end still arrives.
                machine.stop();
                (machine.explain(reason), machine.console_tail())
            }
            None => (reason, String::new()),
        };
        self.report()?;
        self.send(&FromVmm::Event(Event::Exit(Exit { reason, console })))
    }

    fn phase(&self, phase: Phase, at_ns: u64) -> Result<(), ControlError> {
        self.send(&FromVmm::Event(Event::Phase { phase, at_ns }))
    }

    fn send(&self, message: &FromVmm) -> Result<(), ControlError> {
        Ok(self.channel.send(message, &[])?)
    }
}

/// Puts a device on the bus with the files that came for it.
fn plug(machine: &mut Machine, device: &DeviceConfig, files: Vec<OwnedFd>) -> Reply {
    let needed = device.file_count();
    if files.len() != needed {
        let message = format!("{needed} files must come with it, not {}", files.len());
        return refuse(RefusalKind::Invalid, message);
    }
    match machine.plug(device, &mut files.into()) {
        Ok(slot) => Reply::Plugged { slot },
        Err(error) => refuse_boot(&error),
    }
}

fn done(result: Result<(), BootError>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => refuse_boot(&error),
    }
}

fn refuse(kind: RefusalKind, message: impl Into<String>) -> Reply {
    Reply::Refused {
        kind,
        message: message.into(),
    }
}

fn refuse_boot(error: &BootError) -> Reply {
    refuse(error.kind(), error.to_string())
}

#[cfg(test)]
#[path = "control_test.rs"]
mod tests;
