//! A running machine, as the shim sees it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::thread;

use caisson_control::{Channel, Event, Exit, Metrics, RefusalKind, Reply, Request};

use crate::builder::{Builder, Device};
use crate::control::Control;
use crate::host_process::HostProcess;
use crate::process;
use crate::request::HELLO_PORT;
use crate::wait::PATIENCE;

/// The VMM that is tested.
pub(crate) const VMM: &str = "/usr/local/libexec/caisson/caisson-vmm";

/// Bytes of the console that a failed test shows.
const SHOWN: u64 = 16 << 10;

/// A machine that runs until this value goes. It must then end by itself, and well.
///
/// Everything but dropping it can be done by several threads at once.
#[derive(Debug)]
pub struct TestMachine {
    control: Control,
    vmm: Child,
    servers: Mutex<Vec<Child>>,
    console: File,
    pub(crate) slots: Vec<u8>,
}

impl TestMachine {
    /// A machine to be described further.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts a VMM that waits for its first request.
    #[track_caller]
    pub(crate) fn new(vmm: &Path) -> Self {
        let (ours, theirs) = Channel::pair().expect("there are descriptors left");
        let identity = process::identity().expect("there are descriptors left");
        let vmm = process::spawn(vmm, &[theirs.as_fd(), identity.as_fd()]);
        Self {
            control: Control::new(ours),
            vmm: vmm.expect("caisson-vmm is installed"),
            servers: Mutex::default(),
            console: tempfile::tempfile().expect("there is room in /tmp"),
            slots: Vec::new(),
        }
    }

    /// The file that takes what the guest's serial port says.
    pub(crate) fn console_file(&self) -> File {
        self.console
            .try_clone()
            .expect("there are descriptors left")
    }

    /// Waits for these processes at the end.
    pub(crate) fn adopt(&self, servers: impl IntoIterator<Item = Child>) {
        let mut all = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(servers);
    }

    #[track_caller]
    pub(crate) fn expect_hello(&self) {
        let hello = self.or_console(self.control.connection(HELLO_PORT));
        drop(hello);
    }

    /// What the guest's serial port has said, the last 16 KiB.
    #[must_use]
    pub fn console(&self) -> String {
        let length = self.console.metadata().map_or(0, |metadata| metadata.len());
        let begin = length.saturating_sub(SHOWN);
        let mut bytes = vec![0; usize::try_from(length - begin).unwrap_or(0)];
        let count = self.console.read_at(&mut bytes, begin).unwrap_or(0);
        bytes.truncate(count);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The result, known to be good; or the end of the test, with the console's last words.
    #[track_caller]
    fn or_console<T>(&self, result: Result<T, String>) -> T {
        match result {
            Ok(value) => value,
            Err(error) => panic!("{error}\nthe guest's console:\n{}", self.console()),
        }
    }

    /// Sends a request with its files and returns the reply, whatever it is.
    ///
    /// # Panics
    /// Panics when none comes.
    #[track_caller]
    pub fn request(&self, request: Request, files: &[BorrowedFd<'_>]) -> Reply {
        self.or_console(self.control.ask(request, files))
    }

    #[track_caller]
    fn done(&self, request: Request) {
        let what = format!("{request:?}");
        let reply = self.request(request, &[]);
        assert_eq!(reply, Reply::Done, "{what}");
    }

    /// Connects to a vsock port of the guest.
    ///
    /// # Panics
    /// Panics when the guest does not accept.
    #[must_use]
    #[track_caller]
    pub fn connect(&self, port: u32) -> UnixStream {
        self.try_connect(port)
            .unwrap_or_else(|(kind, message)| panic!("port {port}: {kind:?}: {message}"))
    }

    /// Connects to a vsock port of the guest. Reading from it fails after [`PATIENCE`].
    ///
    /// # Errors
    /// What the VMM answers when it cannot be done.
    ///
    /// # Panics
    /// Panics when no answer comes.
    #[track_caller]
    pub fn try_connect(&self, port: u32) -> Result<UnixStream, (RefusalKind, String)> {
        let (ours, theirs) = UnixStream::pair().expect("there are descriptors left");
        ours.set_read_timeout(Some(PATIENCE))
            .expect("a socket has a timeout");
        match self.request(Request::ConnectGuest { port }, &[theirs.as_fd()]) {
            Reply::Connected => Ok(ours),
            Reply::Refused { kind, message } => Err((kind, message)),
            reply => panic!("port {port}: {reply:?}"),
        }
    }

    /// Waits for a connection of the guest to a port of the host.
    ///
    /// # Panics
    /// Panics when none comes.
    #[must_use]
    #[track_caller]
    pub fn accept(&self, port: u32) -> UnixStream {
        self.or_console(self.control.connection(port))
    }

    /// The slots of the devices that were given to the builder, in their order.
    #[must_use]
    pub fn slots(&self) -> &[u8] {
        &self.slots
    }

    /// Puts a device on the bus and returns its slot. The guest sees it after
    /// [`TestMachine::rescan`].
    ///
    /// # Panics
    /// Panics when it is refused.
    #[track_caller]
    pub fn plug(&self, device: Device) -> u8 {
        let files: Vec<_> = device.files.iter().map(AsFd::as_fd).collect();
        let reply = self.request(Request::Plug(device.config), &files);
        self.adopt(device.server);
        match reply {
            Reply::Plugged { slot } => slot,
            reply => panic!("the device is not plugged: {reply:?}"),
        }
    }

    /// Takes a device off the bus. [`TestMachine::remove`] lets the guest know first.
    ///
    /// # Panics
    /// Panics when it is refused.
    #[track_caller]
    pub fn unplug(&self, slot: u8) {
        self.done(Request::Unplug { slot });
    }

    /// Stops the machine until [`TestMachine::resume`].
    ///
    /// # Panics
    /// Panics when it is refused.
    #[track_caller]
    pub fn pause(&self) {
        self.done(Request::Pause);
    }

    /// Lets the machine go on.
    ///
    /// # Panics
    /// Panics when it is refused.
    #[track_caller]
    pub fn resume(&self) {
        self.done(Request::Resume);
    }

    /// Pauses a machine that may have ended, and lets it go on.
    pub fn nudge(&self) {
        // No answer is one, too.
        let _ = self.control.ask(Request::Pause, &[]);
        let _ = self.control.ask(Request::Resume, &[]);
    }

    /// Makes vCPUs so that there are `count`. The guest uses them after
    /// [`TestMachine::set_online`].
    ///
    /// # Panics
    /// Panics when it is refused.
    #[track_caller]
    pub fn set_vcpus(&self, count: u8) {
        self.done(Request::SetVcpus { count });
    }

    /// Asks the guest to plug `mib` MiB; [`TestMachine::metrics`] tells how far it is.
    ///
    /// # Panics
    /// Panics when it is refused.
    #[track_caller]
    pub fn set_hotplug_memory(&self, mib: u32) {
        self.done(Request::SetHotplugMemory { mib });
    }

    /// Asks the guest for `mib` MiB; [`TestMachine::metrics`] tells how far it is.
    ///
    /// # Panics
    /// Panics when it is refused.
    #[track_caller]
    pub fn set_balloon(&self, mib: u32) {
        self.done(Request::SetBalloon { mib });
    }

    /// The machine's counters.
    ///
    /// # Panics
    /// Panics when it is refused.
    #[must_use]
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        match self.request(Request::Metrics, &[]) {
            Reply::Metrics(metrics) => metrics,
            reply => panic!("no metrics: {reply:?}"),
        }
    }

    /// The machine's counters, unless it has ended.
    #[must_use]
    pub fn metrics_while_it_runs(&self) -> Option<Metrics> {
        match self.control.ask(Request::Metrics, &[]) {
            Ok(Reply::Metrics(metrics)) => Some(metrics),
            _ => None,
        }
    }

    /// The events so far that nobody has waited for.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.control.events()
    }

    /// Waits for the event for which `choose` answers something, and takes it out.
    ///
    /// # Panics
    /// Panics with `what` when none comes.
    #[track_caller]
    pub fn event<T>(&self, what: &str, choose: impl Fn(&Event) -> Option<T>) -> T {
        self.or_console(self.control.event(what, choose))
    }

    /// Whether the machine has ended, and nobody has waited for that.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let exit = |event: &Event| matches!(event, Event::Exit(_));
        self.events().iter().any(exit)
    }

    /// Waits for the machine's end.
    ///
    /// # Panics
    /// Panics when it does not end.
    #[must_use]
    #[track_caller]
    pub fn exit(&self) -> Exit {
        self.event("the machine's end", |event| match event {
            Event::Exit(exit) => Some(exit.clone()),
            _ => None,
        })
    }

    /// Ends the machine as the shim does.
    ///
    /// # Panics
    /// Panics when it does not end.
    #[must_use]
    #[track_caller]
    pub fn stop(&self) -> Exit {
        let reply = self.request(Request::Stop, &[]);
        assert_eq!(reply, Reply::Stopped);
        self.exit()
    }

    /// Ends the machine as the shim does, if it has not ended by itself meanwhile.
    ///
    /// # Panics
    /// Panics when it does not end.
    #[must_use]
    #[track_caller]
    pub fn end(&self) -> Exit {
        // No answer is one, too: the event says what happened.
        let _ = self.control.ask(Request::Stop, &[]);
        self.exit()
    }

    /// Waits until the file server in this place of [`TestMachine::file_servers`] ends by itself,
    /// which is then not asked for its status at the machine's end.
    ///
    /// # Panics
    /// Panics when it does not end.
    #[track_caller]
    pub fn file_server_ends(&self, place: usize) -> std::process::ExitStatus {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let status = process::wait(&mut servers.remove(place));
        status.unwrap_or_else(|error| panic!("caisson-fs: {error}"))
    }

    /// The VMM's process.
    #[must_use]
    pub fn vmm(&self) -> HostProcess {
        HostProcess { pid: self.vmm.id() }
    }

    /// The VMM's file servers, the root's first.
    #[must_use]
    pub fn file_servers(&self) -> Vec<HostProcess> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let process = |child: &Child| HostProcess { pid: child.id() };
        servers.iter().map(process).collect()
    }
}

impl Drop for TestMachine {
    fn drop(&mut self) {
        self.control.close();
        let servers = self.servers.get_mut();
        let servers = servers.unwrap_or_else(PoisonError::into_inner);
        let named = servers.iter_mut().map(|server| ("caisson-fs", server));
        let mut wrong = String::new();
        // The VMM first: its end is the servers' end.
        for (name, child) in [("caisson-vmm", &mut self.vmm)].into_iter().chain(named) {
            match process::wait(child) {
                Ok(status) if status.success() => {}
                Ok(status) => wrong.push_str(&format!("{name}: {status}\n")),
                Err(error) => wrong.push_str(&format!("{name}: {error}\n")),
            }
        }
        // A test that has failed already has said why.
        if !thread::panicking() {
            assert!(wrong.is_empty(), "the machine did not end well:\n{wrong}");
        }
    }
}
