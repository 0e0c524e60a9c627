//! One task owns the control channel and both processes, and decides when the machine has ended.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use caisson_control::{Channel, ChannelError, Event, FromVmm, Reply, Request, ToVmm};
use caisson_protocol::HELLO_PORT;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::control::Control;
use super::identity::Identity;
use super::output::HelperOutput;
use super::process::Namespaces;
use super::{Phases, end, output, patience, process, record};
use crate::{Config, ErrorKind, SandboxError, VmEnd, guest_text};

/// Requests that may wait for the VMM to read them. Each standard stream is one request.
const MAX_QUEUED: usize = 64;
/// How long the VMM may take to leave by itself: it joins its threads and closes its files,
/// milliseconds of work; ten times slower in an emulated machine.
const ORDERLY: Duration = Duration::from_secs(2);
/// How long a better reason may take to follow a broken connection: the VMM's last message and
/// its exit status come from a process that is ending already.
const BETTER_REASON: Duration = Duration::from_secs(2);
/// Device faults that go to the log; a guest can make as many as it likes.
const MAX_FAULTS_LOGGED: u32 = 32;
/// Messages taken in one go before other tasks of the shim get their turn.
const BATCH: u32 = 32;
/// Messages still read from a VMM that has ended: far more than fit in the socket.
const MAX_LAST_MESSAGES: u32 = 4096;

/// What a machine is started from.
#[derive(Debug)]
pub(crate) struct MachineParts<'a> {
    /// Where the programs are.
    pub(crate) config: &'a Config,
    /// Where the processes are written down.
    pub(crate) state_dir: &'a Path,
    /// What the file server serves.
    pub(crate) export: std::os::fd::BorrowedFd<'a>,
    /// Told what phases the VMM reports.
    pub(crate) phases: Arc<Phases>,
}

/// A running VMM with its file server. Dropping it kills both.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Process ids of the VMM and the file server.
    pids: [u32; 2],
    questions: mpsc::Sender<Question>,
    /// Apart from the questions, which a VMM can hold up by not reading them.
    orders: mpsc::Sender<Order>,
    /// How the machine ended.
    end: watch::Receiver<Option<VmEnd>>,
    /// Whether the processes are gone, which may be a little later.
    reaped: watch::Receiver<bool>,
}

/// What comes with a started machine.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) machine: Machine,
    /// The first connection of the guest to the host's hello port.
    pub(crate) hello: oneshot::Receiver<OwnedFd>,
    /// The file server's socket for the VMM.
    pub(crate) file_server: OwnedFd,
    /// Where the VMM is to write the console, if it is kept.
    pub(crate) console: Option<OwnedFd>,
}

/// Something to ask the VMM.
#[derive(Debug)]
struct Question {
    request: Request,
    files: Vec<OwnedFd>,
    answer: oneshot::Sender<Reply>,
}

/// Something for the supervisor itself to do.
#[derive(Debug)]
enum Order {
    Stop,
    /// Something that ends the machine soon, or else now.
    Broken(String),
    /// Something that ends the machine now.
    Failed(String),
}

impl Machine {
    /// Starts both processes. Call it on a thread that lives as long as they are to live.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when a process cannot be started.
    pub(crate) fn start(
        parts: &MachineParts<'_>,
        console: Option<fs::File>,
    ) -> Result<Started, SandboxError> {
        Self::try_start(parts, console).map_err(|error| {
            SandboxError::new(
                ErrorKind::Internal,
                format!("the virtual machine's processes could not be started: {error}"),
            )
        })
    }

    fn try_start(parts: &MachineParts<'_>, console: Option<fs::File>) -> io::Result<Started> {
        let (vmm_side, server_side) = std::os::unix::net::UnixStream::pair()?;
        let (ours, theirs) = Channel::pair()?;
        let control = Control::new(ours)?;

        let (writer, server_output) = HelperOutput::pipe("caisson-fs")?;
        let server_files = [server_side.as_fd(), parts.export];
        let apart = Namespaces {
            network: None,
            own_pids: true,
        };
        let server = process::spawn(&parts.config.file_server, &server_files, &writer, apart)?;
        let (writer, vmm_output) = HelperOutput::pipe("caisson-vmm")?;
        let identity = Identity::take(parts.state_dir, parts.config.ids)?;
        let vmm_files = [theirs.as_fd(), identity.as_fd()?];
        let vmm = process::spawn(&parts.config.vmm, &vmm_files, &writer, apart)?;

        let gone = || io::Error::other("a process is gone already");
        let pids = [vmm.id().ok_or_else(gone)?, server.id().ok_or_else(gone)?];
        record::add(parts.state_dir, &[("vmm", pids[0]), ("fs", pids[1])])?;

        let (questions, questions_receiver) = mpsc::channel(MAX_QUEUED);
        let (orders, orders_receiver) = mpsc::channel(1);
        let (end_sender, end) = watch::channel(None);
        let (reaped_sender, reaped) = watch::channel(false);
        let (hello_sender, hello) = oneshot::channel();
        let supervisor = Supervisor {
            control,
            vmm,
            vmm_output,
            identity,
            server,
            server_output,
            phases: parts.phases.clone(),
            hello: Some(hello_sender),
            next_id: 1,
            queue: VecDeque::new(),
            pending: HashMap::new(),
            faults: 0,
            stopping: false,
            deadline: None,
        };
        let inbox = Inbox {
            questions: questions_receiver,
            orders: orders_receiver,
        };
        tokio::spawn(supervisor.run(inbox, end_sender, reaped_sender));
        Ok(Started {
            machine: Self {
                pids,
                questions,
                orders,
                end,
                reaped,
            },
            hello,
            file_server: vmm_side.into(),
            console: console.map(output::console_pipe).transpose()?,
        })
    }

    /// Tells the kernel how gladly it may kill the VMM and the file server when memory runs out
    /// (`oom_score_adj` of proc_pid(5)).
    ///
    /// # Errors
    /// Fails for a score out of range, or without the privilege to lower it.
    pub(crate) fn set_oom_score(&self, score: i32) -> io::Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        for pid in self.pids {
            fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())?;
        }
        Ok(())
    }

    /// Returns when the machine has ended.
    pub(crate) async fn ended(&self) -> VmEnd {
        ended(self.end.clone()).await
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Asks the VMM something and waits for the answer, however long it takes.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the machine ends first.
    pub(crate) async fn ask(
        &self,
        request: Request,
        files: Vec<OwnedFd>,
    ) -> Result<Reply, SandboxError> {
        let (answer, receiver) = oneshot::channel();
        let question = Question {
            request,
            files,
            answer,
        };
        if self.questions.send(question).await.is_ok()
            && let Ok(reply) = receiver.await
        {
            return Ok(reply);
        }
        Err(SandboxError::new(
            ErrorKind::Unavailable,
            self.ended().await.description,
        ))
    }

    /// Waits for something that the machine does, `limit` long and as long as its threads wait for
    /// a processor; `None` when that has passed.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        patience::within(self.pids, limit, future).await
    }

    /// Ends the machine because of `reason`, unless it is ending for a better one.
    pub(crate) async fn broken(&self, reason: String) {
        // An error means that it has ended.
        let _ = self.orders.send(Order::Broken(reason)).await;
    }

    /// For a companion that ends with the machine, and the machine with it, but is no reason for
    /// the machine to go on.
    pub(crate) fn companion(&self) -> Companion {
        Companion {
            orders: self.orders.downgrade(),
            end: self.end.clone(),
        }
    }

    /// Ends the machine and returns when its processes are gone.
    pub(crate) async fn stop(&self) {
        let _ = self.orders.send(Order::Stop).await;
        let mut reaped = self.reaped.clone();
        let _ = reaped.wait_for(|reaped| *reaped).await;
    }
}

/// See [`Machine::companion`].
#[derive(Debug)]
pub(crate) struct Companion {
    orders: mpsc::WeakSender<Order>,
    end: watch::Receiver<Option<VmEnd>>,
}

impl Companion {
    /// Returns when the machine has ended.
    pub(crate) async fn ended(&self) -> VmEnd {
        ended(self.end.clone()).await
    }

    /// Ends the machine because of `reason`, at once.
    pub(crate) async fn fail(&self, reason: String) {
        // Otherwise it has ended.
        if let Some(orders) = self.orders.upgrade() {
            let _ = orders.send(Order::Failed(reason)).await;
        }
    }
}

async fn ended(mut receiver: watch::Receiver<Option<VmEnd>>) -> VmEnd {
    // The sender goes only after it has sent.
    match receiver.wait_for(Option::is_some).await {
        Ok(end) => end.clone(),
        Err(_) => None,
    }
    .unwrap_or_else(|| end::failed("the virtual machine is gone"))
}

/// What the supervisor is told.
#[derive(Debug)]
struct Inbox {
    questions: mpsc::Receiver<Question>,
    orders: mpsc::Receiver<Order>,
}

#[derive(Debug)]
struct Supervisor {
    control: Control,
    vmm: Child,
    vmm_output: HelperOutput,
    /// Whom the VMM runs as.
    identity: Identity,
    server: Child,
    server_output: HelperOutput,
    phases: Arc<Phases>,
    hello: Option<oneshot::Sender<OwnedFd>>,
    next_id: u64,
    /// Requests that did not fit into the socket yet.
    queue: VecDeque<(ToVmm, Vec<OwnedFd>)>,
    pending: HashMap<u64, oneshot::Sender<Reply>>,
    faults: u32,
    stopping: bool,
    /// When the machine ends whatever comes, and why.
    deadline: Option<(Instant, VmEnd)>,
}

impl Supervisor {
    async fn run(
        mut self,
        mut inbox: Inbox,
        end: watch::Sender<Option<VmEnd>>,
        reaped: watch::Sender<bool>,
    ) {
        let mut how = self.until_end(&mut inbox).await;
        if self.stopping {
            how.kind = crate::VmEndKind::Stopped;
        }
        tracing::debug!("{}", how.description);
        end.send_replace(Some(how));
        // Whoever waits for an answer learns now that none will come.
        self.pending.clear();
        drop(inbox);
        let mut gone = true;
        for child in [&mut self.vmm, &mut self.server] {
            // Without a number it was waited for already.
            if child.id().is_some()
                && let Err(error) = child.kill().await
            {
                tracing::warn!("a process of the virtual machine was not killed: {error}");
                gone = false;
            }
        }
        if gone {
            self.identity.give_back();
        }
        self.vmm_output.finish().await;
        self.server_output.finish().await;
        reaped.send_replace(true);
    }

    async fn until_end(&mut self, inbox: &mut Inbox) -> VmEnd {
        let mut batch = 0;
        loop {
            let deadline = self.deadline.as_ref().map(|(at, _)| *at);
            tokio::select! {
                order = inbox.orders.recv() => {
                    if let Some(end) = self.obey(order) {
                        return end;
                    }
                }
                question = inbox.questions.recv(), if self.queue.len() < MAX_QUEUED => {
                    // Without anybody who asks, there is nobody who gives orders either.
                    if let Some(end) = question.and_then(|question| self.pass_on(question)) {
                        return end;
                    }
                }
                received = self.control.receive() => {
                    let ended = match received {
                        Ok((message, files)) => self.message(message, files),
                        Err(error) => Some(self.channel_failed(&error).await),
                    };
                    if let Some(end) = ended {
                        return end;
                    }
                    batch += 1;
                    if batch % BATCH == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                writable = self.control.writable(), if !self.queue.is_empty() => {
                    if let Err(error) = writable {
                        return end::failed(format!("control channel: {error}"));
                    }
                    if let Some(end) = self.flush() {
                        return end;
                    }
                }
                status = self.vmm.wait() => return self.vmm_exited(status).await,
                status = self.server.wait() => return self.server_exited(status).await,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    if let Some((_, end)) = self.deadline.take() {
                        return end;
                    }
                }
            }
        }
    }

    fn pass_on(&mut self, question: Question) -> Option<VmEnd> {
        // Those who gave up waiting need no entry any more.
        self.pending.retain(|_, answer| !answer.is_closed());
        let id = self.enqueue(question.request, question.files);
        self.pending.insert(id, question.answer);
        self.flush()
    }

    fn obey(&mut self, order: Option<Order>) -> Option<VmEnd> {
        match order {
            Some(Order::Stop) => {
                self.stopping = true;
                self.deadline = Some((Instant::now() + ORDERLY, end::stopped()));
                self.enqueue(Request::Stop, Vec::new());
                self.flush()
            }
            Some(Order::Broken(reason)) => {
                if self.deadline.is_none() {
                    self.deadline = Some((Instant::now() + BETTER_REASON, end::failed(reason)));
                }
                None
            }
            Some(Order::Failed(reason)) => Some(end::failed(reason)),
            // Nobody is interested any more.
            None => {
                self.stopping = true;
                Some(end::stopped())
            }
        }
    }

    fn enqueue(&mut self, request: Request, files: Vec<OwnedFd>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.queue.push_back((ToVmm { id, request }, files));
        id
    }

    /// Sends what the socket takes.
    fn flush(&mut self) -> Option<VmEnd> {
        while let Some((message, files)) = self.queue.front() {
            match self.control.try_send(message, files) {
                Ok(true) => {
                    self.queue.pop_front();
                }
                Ok(false) => return None,
                // What the VMM said before it closed its end is still to be read.
                Err(ChannelError::Closed) => {
                    self.queue.clear();
                    return None;
                }
                Err(error) => return Some(end::failed(format!("control channel: {error}"))),
            }
        }
        None
    }

    /// Takes a message of the VMM; what the protocol does not allow ends the machine.
    fn message(&mut self, message: FromVmm, mut files: Vec<OwnedFd>) -> Option<VmEnd> {
        let file = files.pop();
        let wanted = matches!(message, FromVmm::Event(Event::GuestConnected { .. }));
        if file.is_some() != wanted || !files.is_empty() {
            return Some(end::failed(
                "the VMM broke the control protocol: a message came with the wrong files",
            ));
        }
        match message {
            FromVmm::Reply { id, reply } => {
                if let Some(answer) = self.pending.remove(&id) {
                    let _ = answer.send(reply);
                    None
                } else if id != 0 && id < self.next_id {
                    // Whoever asked has given up.
                    None
                } else {
                    Some(end::failed(format!(
                        "the VMM broke the control protocol: it answered a request {id} that was \
                         never made"
                    )))
                }
            }
            FromVmm::Event(Event::GuestConnected { port }) => {
                // Any process in the guest may connect to any port. Only the first hello counts;
                // dropping the file resets the connection.
                if port == HELLO_PORT
                    && let (Some(hello), Some(file)) = (self.hello.take(), file)
                {
                    let _ = hello.send(file);
                }
                None
            }
            FromVmm::Event(Event::Phase { phase, at_ns }) => {
                self.phases.reported(phase, at_ns);
                None
            }
            FromVmm::Event(Event::MemoryPressure { balloon_mib }) => {
                tracing::debug!(
                    "the guest is short of memory; its balloon holds {balloon_mib} MiB"
                );
                None
            }
            FromVmm::Event(Event::DeviceFault { device, message }) => {
                self.faults = self.faults.saturating_add(1);
                if self.faults <= MAX_FAULTS_LOGGED {
                    tracing::warn!(
                        "device {} stopped: {}",
                        guest_text::line(&device),
                        guest_text::line(&message)
                    );
                }
                None
            }
            FromVmm::Event(Event::Exit(exit)) => Some(end::reported(&exit)),
        }
    }

    async fn channel_failed(&mut self, error: &ChannelError) -> VmEnd {
        if !matches!(error, ChannelError::Closed) {
            return end::failed(format!(
                "the VMM broke the control protocol: {}",
                guest_text::line(&error.to_string())
            ));
        }
        match tokio::time::timeout(ORDERLY, self.vmm.wait()).await {
            Ok(status) => self.vmm_exited(status).await,
            Err(_) => end::failed("the VMM closed its control channel"),
        }
    }

    async fn vmm_exited(&mut self, status: io::Result<std::process::ExitStatus>) -> VmEnd {
        // Its last message may still be in the socket.
        for _ in 0..MAX_LAST_MESSAGES {
            let Some((message, files)) = self.control.take() else {
                break;
            };
            if let Some(end) = self.message(message, files) {
                return end;
            }
        }
        match status {
            Ok(status) => {
                let last_lines = self.vmm_output.finish().await;
                end::exited("the virtual machine", status, &last_lines)
            }
            Err(error) => end::failed(format!("the VMM cannot be waited for: {error}")),
        }
    }

    async fn server_exited(&mut self, status: io::Result<std::process::ExitStatus>) -> VmEnd {
        // It ends when the VMM closes its socket; then the VMM's own reason counts.
        let vmm = tokio::time::timeout(BETTER_REASON, async {
            loop {
                tokio::select! {
                    received = self.control.receive() => match received {
                        Ok((message, files)) => {
                            if let Some(end) = self.message(message, files) {
                                return Ok(end);
                            }
                        }
                        Err(_) => return Err(self.vmm.wait().await),
                    },
                    status = self.vmm.wait() => return Err(status),
                }
            }
        })
        .await;
        match (vmm, status) {
            (Ok(Ok(end)), _) => end,
            (Ok(Err(status)), _) => self.vmm_exited(status).await,
            (Err(_), Ok(status)) => {
                let last_lines = self.server_output.finish().await;
                end::exited("the file server", status, &last_lines)
            }
            (Err(_), Err(error)) => {
                end::failed(format!("the file server cannot be waited for: {error}"))
            }
        }
    }
}

#[cfg(test)]
#[path = "supervisor_fake.rs"]
mod fake;
