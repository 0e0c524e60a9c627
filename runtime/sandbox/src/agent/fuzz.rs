//! A fuzz target: an agent that a hostile guest has replaced.
//!
//! It is the other end of a pair of sockets, and the calls are those of [`Agent`], all on one thread
//! whose clock goes on only when nothing else does: a call that is never answered takes no time, and
//! one that never ends fails the round. Every call ends in an answer or an error of one line; whoever
//! sends anything but answers is hung up on; and what is sent is not kept.

mod message;

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use caisson_fuzz::{Random, run};
use caisson_protocol::agent::{AddDiskRequest, ContainerRequest, Empty, ProcessRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

use self::message::{ANSWER, frame, framed};
use super::{Agent, LONG, SHORT};
use crate::SandboxError;
use crate::disks::numbers;
use crate::machine::Machine;

/// Longer than any call may take on a clock that nobody waits for.
const FOR_EVER: Duration = Duration::from_secs(1_000_000);
/// What `cargo test` plays.
const ROUNDS: u64 = 40;
/// Things that the agent does in a round.
const STEPS: u64 = 40;
/// Most calls of a round.
const CALLS: usize = 12;
/// Longest error: what the agent says is cut at 1024 characters of up to four bytes.
const LONGEST: usize = 4500;
/// Memory that the process may have more than at the beginning, in pages of 4 KiB: answers of 4 MiB
/// and what becomes of them when they are decoded. An agent sends much more than that.
const PAGES: u64 = (768 << 20) / 4096;

/// The ways in which the calls of the fixed rounds end: with an answer, with what the agent says went
/// wrong, of four kinds, and without an answer in time.
const WAYS: usize = 6;

type Call = JoinHandle<Result<(), SandboxError>>;

#[test]
fn answers() {
    let before = resident();
    let mut ends = BTreeSet::new();
    let played = run("answers", ROUNDS, |random| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        ends.append(&mut runtime.block_on(round(random)));
        drop(runtime);
        let now = resident();
        assert!(now < before + PAGES, "{before} pages, now {now}");
    });
    assert!(!played.fixed || ends.len() == WAYS, "only {ends:?}");
}

/// Plays a round; gives the ways in which its calls have ended.
async fn round(random: &mut Random) -> BTreeSet<String> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let machine = Arc::new(Machine::without_processes());
    let agent = Agent::over(ours, machine.clone());
    let mut peer = Peer::new(theirs);
    let mut calls = Vec::new();
    for _ in 0..STEPS {
        random.step();
        if calls.len() < CALLS && random.one_in(3) {
            calls.push(call(random, &agent));
        }
        // An error is the end of the connection by the other side.
        if peer.step(random).await.is_err() {
            break;
        }
        if random.one_in(3) {
            yield_now().await;
        }
    }
    if peer.sent_something_else {
        let hung_up = timeout(FOR_EVER, peer.hung_up()).await;
        assert!(hung_up.is_ok(), "what is no answer was taken");
    }
    if random.one_in(4) {
        // Those that are left run into their limits, or wait for ever for the end of a process.
        yield_now().await;
        tokio::time::sleep(LONG * 2).await;
    }
    drop(peer);
    let mut ends = BTreeSet::new();
    for call in calls {
        let ended = timeout(FOR_EVER, call)
            .await
            .expect("a call without an end");
        let Err(error) = ended.unwrap() else {
            ends.insert("answered".to_owned());
            continue;
        };
        let said = error.to_string();
        assert!(said.len() < LONGEST, "{} bytes: {said}", said.len());
        assert!(!said.contains(char::is_control), "{said:?}");
        let late = said.contains("did not answer");
        ends.insert(format!(
            "{:?}{}",
            error.kind(),
            if late { ", late" } else { "" }
        ));
    }
    ends
}

/// One of the calls, under way.
fn call(random: &mut Random, agent: &Agent) -> Call {
    let agent = agent.clone();
    let large = random.one_in(8);
    match random.below(5) {
        0 => tokio::spawn(async move {
            let request = ProcessRequest::default();
            let waited = agent
                .call_without_limit(async |agent, context| agent.wait(context, &request).await);
            waited.await.map(drop)
        }),
        1 => tokio::spawn(async move {
            let mut request = ContainerRequest::default();
            if large {
                // More than the socket takes at once.
                request.container_id = "x".repeat(1 << 20);
            }
            let stats = agent.call("Stats", SHORT, async move |agent, context| {
                agent.stats(context, &request).await
            });
            stats.await.map(drop)
        }),
        2 => tokio::spawn(async move {
            let request = ContainerRequest::default();
            let list = agent.call("ListProcesses", SHORT, async move |agent, context| {
                agent.list_processes(context, &request).await
            });
            list.await.map(drop)
        }),
        3 => tokio::spawn(async move {
            let request = AddDiskRequest::default();
            let disk = agent.call("AddDisk", LONG, async move |agent, context| {
                agent.add_disk(context, &request).await
            });
            disk.await.map(|answer| drop(numbers(&answer.disks, 1)))
        }),
        _ => tokio::spawn(async move {
            let scan = agent.call("ScanBus", SHORT, async move |agent, context| {
                agent.scan_bus(context, &Empty::new()).await
            });
            scan.await.map(drop)
        }),
    }
}

/// The agent.
struct Peer {
    writer: WriteHalf<UnixStream>,
    /// The calls that it has read, until the other side has hung up.
    reader: JoinHandle<()>,
    asked: Arc<Mutex<Vec<u32>>>,
    /// Whether the other side could tell that something was no answer.
    sent_something_else: bool,
}

impl Peer {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = split(stream);
        let asked = Arc::default();
        Self {
            writer,
            reader: tokio::spawn(read(reader, Arc::clone(&asked))),
            asked,
            sent_something_else: false,
        }
    }

    /// Does something; fails when the other side has had enough, or shall think that we have.
    async fn step(&mut self, random: &mut Random) -> std::io::Result<()> {
        let stream = self.stream(random);
        match random.below(20) {
            0..11 => {
                let content = message::answer(random);
                self.send(random, &frame(stream, ANSWER, 0, &content)).await
            }
            11 if random.one_in(3) => {
                let flags = random.next() as u8;
                let content = message::nonsense(random);
                self.send(random, &frame(stream, ANSWER, flags, &content))
                    .await
            }
            12 if random.one_in(3) => {
                let depth = message::depth(random);
                self.send(random, &frame(stream, ANSWER, 0, &depth)).await
            }
            // More than an answer may have, and less than it says.
            13 if random.one_in(3) => {
                let length = random.pick(&[5 << 20, 5 << 20, (4 << 20) + 1, 1 << 24, u32::MAX]);
                let there = random.pick(&[0, 5 << 20, 5 << 20]);
                self.send(random, &framed(length, stream, ANSWER, 0, &vec![0; there]))
                    .await?;
                self.end(random, there as u64 == u64::from(length)).await
            }
            19 if random.one_in(8) => {
                let length = random.number() as u32;
                let kept = random.index(100);
                let content = vec![b'x'; kept];
                self.send(random, &framed(length, stream, ANSWER, 0, &content))
                    .await?;
                self.end(random, kept as u64 == u64::from(length)).await
            }
            // Answers that nobody waits for.
            14 => {
                let size = random.pick(&[0, 10, 1000, 100_000]);
                let content = vec![b'x'; size];
                for number in 0..random.pick(&[10, 100, 300]) {
                    self.send(
                        random,
                        &frame(stream.wrapping_add(number), ANSWER, 0, &content),
                    )
                    .await?;
                }
                Ok(())
            }
            // The same over and over, of calls that there will be.
            15 => {
                let content = message::answer(random);
                for _ in 0..random.pick(&[2, 100]) {
                    self.send(random, &frame(stream, ANSWER, 0, &content))
                        .await?;
                }
                Ok(())
            }
            // Something else than an answer, once or without an end.
            16 if random.one_in(3) => {
                let kind = random.pick(&[1, 3, 3, 3, 0, 4, 0x7f, 0xff]);
                let flags = random.pick(&[0, 0, 1, 2, 4, 7, 0xff]);
                let content = vec![b'x'; random.pick(&[0, 1, 1000, 1000, 1 << 17])];
                let times = random.pick(&[1, 200]);
                self.sent_something_else = true;
                for _ in 0..times {
                    self.send(random, &frame(stream, kind, flags, &content))
                        .await?;
                }
                Ok(())
            }
            17 if random.one_in(4) => Err(std::io::ErrorKind::ConnectionAborted.into()),
            18 if random.one_in(4) => self.end(random, false).await,
            _ => {
                yield_now().await;
                Ok(())
            }
        }
    }

    /// The number of a call under way, of one to come, or any.
    fn stream(&self, random: &mut Random) -> u32 {
        let mut asked = self.asked.lock().unwrap();
        match random.below(12) {
            0 => random.number() as u32,
            1 => random.below(40) as u32,
            _ if asked.is_empty() => random.below(20) as u32 * 2 + 1,
            _ => {
                let which = random.index(asked.len());
                asked.swap_remove(which)
            }
        }
    }

    /// Sends in pieces or at once.
    async fn send(&mut self, random: &mut Random, mut bytes: &[u8]) -> std::io::Result<()> {
        while random.one_in(3) && bytes.len() > 1 {
            let (now, later) = bytes.split_at(1 + random.index(bytes.len() - 1));
            self.writer.write_all(now).await?;
            yield_now().await;
            bytes = later;
        }
        self.writer.write_all(bytes).await
    }

    /// Says no more, unless the last frame is whole.
    async fn end(&mut self, random: &mut Random, whole: bool) -> std::io::Result<()> {
        if whole {
            return Ok(());
        }
        if random.one_in(2) {
            self.writer.shutdown().await?;
        }
        Err(std::io::ErrorKind::ConnectionAborted.into())
    }

    async fn hung_up(&mut self) {
        (&mut self.reader).await.unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It holds the socket open.
        self.reader.abort();
    }
}

/// Reads the calls and takes note of their numbers, until there are no more.
async fn read(mut stream: ReadHalf<UnixStream>, asked: Arc<Mutex<Vec<u32>>>) {
    let mut header = [0; 10];
    while stream.read_exact(&mut header).await.is_ok() {
        let [a, b, c, d, e, f, g, h, kind, _] = header;
        assert_eq!(kind, 1);
        let length = u32::from_be_bytes([a, b, c, d]);
        let mut content = vec![0; length as usize];
        if stream.read_exact(&mut content).await.is_err() {
            return;
        }
        asked.lock().unwrap().push(u32::from_be_bytes([e, f, g, h]));
    }
}

/// Pages of memory that this process has.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse().unwrap()
}
