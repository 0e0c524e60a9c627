//! Telling the guest of volumes that the kubelet updates.
//!
//! Programs that reload a ConfigMap or Secret wait for events of inotify(7), and there are none in
//! the guest for what the host does. So the guest keeps a copy of such a volume (`agent/guest`,
//! `mirror`), and here the host's is watched: when it changes, the agent is told what it consists of
//! now, takes the files from the file server, and exchanges them as the kubelet does.
//!
//! Only volumes that are mounted read-only and laid out as the kubelet does it are watched. One
//! inotify instance serves a pod, because a user has few of them (128 unless
//! fs.inotify.max_user_instances says otherwise); where there is none left, the container sees the
//! host's files, as those of any other volume. An event only makes us look: however many there are,
//! the guest is told once of what has changed since the last time.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use caisson_protocol::agent::{UpdateVolumeRequest, UpdatedVolume};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::ErrorKind;
use crate::agent::{Agent, LONG};
use crate::mounts::{Version, Volume};

/// A volume at one of the mounts of a container.
#[derive(Debug)]
pub(crate) struct Updated {
    /// Its place among the mounts of the configuration.
    pub(crate) mount: u32,
    /// The volume.
    pub(crate) volume: Weak<Volume>,
}

/// The volumes of a pod that are watched.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    watch: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    watch: Arc<Watch>,
    /// It holds on to the machine, whose last holder ends it.
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Watch {
    /// The inotify instance: events are read from it as from a pipe.
    inotify: Receiver,
    /// By container.
    watched: Mutex<HashMap<String, Vec<Watched>>>,
    /// There may be something to tell.
    look: Notify,
}

#[derive(Debug)]
struct Watched {
    updated: Updated,
    /// The number of the watch, which the same volume in another container shares.
    number: i32,
    /// What the agent knows.
    told: Version,
    /// Whether the agent has the container.
    created: bool,
}

impl Updates {
    /// Begins to watch volumes for a container that is to be created. Answers with those that the
    /// agent is to be told of, as they are now. Blocks; call it where there is an event loop.
    pub(crate) fn watch(
        &self,
        agent: &Agent,
        container: &str,
        updated: Vec<Updated>,
    ) -> Vec<UpdatedVolume> {
        if updated.is_empty() {
            return Vec::new();
        }
        let watch = match self.running(agent) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(
                    "programs in container {container} get no events (inotify) when volumes \
                     change: {error}; fs.inotify.max_user_instances may be too low"
                );
                return Vec::new();
            }
        };
        let mut watched = Vec::new();
        for updated in updated {
            match watch.add(updated) {
                Ok(volume) => watched.extend(volume),
                Err(error) => tracing::warn!("container {container}: a volume: {error}"),
            }
        }
        let told = watched
            .iter()
            .map(|volume| message(volume.updated.mount, &volume.told))
            .collect();
        watch.lock().insert(container.to_owned(), watched);
        told
    }

    /// Says that the agent has the container.
    pub(crate) fn created(&self, container: &str) {
        let Some(watch) = self.existing() else { return };
        for volume in watch.lock().get_mut(container).into_iter().flatten() {
            volume.created = true;
        }
        // It may have changed since.
        watch.look.notify_one();
    }

    /// Ends the watch for a container.
    pub(crate) fn forget(&self, container: &str) {
        if let Some(watch) = self.existing() {
            watch.forget(container, |_| true);
        }
    }

    fn running(&self, agent: &Agent) -> io::Result<Arc<Watch>> {
        let mut running = self.lock();
        if let Some(running) = &*running {
            return Ok(running.watch.clone());
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let watch = Arc::new(Watch {
            inotify: Receiver::from_owned_fd_unchecked(inotify)?,
            watched: Mutex::default(),
            look: Notify::new(),
        });
        let task = tokio::spawn(watch.clone().run(agent.clone()));
        *running = Some(Running {
            watch: watch.clone(),
            task,
        });
        Ok(watch)
    }

    fn existing(&self) -> Option<Arc<Watch>> {
        self.lock().as_ref().map(|running| running.watch.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Watches a volume, if it still is one that the kubelet updates.
    fn add(&self, updated: Updated) -> io::Result<Option<Watched>> {
        let Some(volume) = updated.volume.upgrade() else {
            return Ok(None);
        };
        let Some(directory) = volume.updated() else {
            return Ok(None);
        };
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let flags = WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::DELETE;
        let number = inotify::add_watch(&self.inotify, path, flags | WatchFlags::ONLYDIR)?;
        // Read after the watch has begun: no change can be missed.
        let watched = volume.version()?.map(|told| Watched {
            updated,
            number,
            told,
            created: false,
        });
        Ok(watched)
    }

    async fn run(self: Arc<Self>, agent: Agent) {
        loop {
            tokio::select! {
                ready = self.inotify.readable() => {
                    // One read at a time: what is not read yet makes us look once more.
                    let mut events = [0; 8192];
                    let read = ready.and_then(|()| self.inotify.try_read(&mut events));
                    if let Err(error) = read
                        && error.kind() != io::ErrorKind::WouldBlock
                    {
                        tracing::warn!("volumes that change are no longer seen: {error}");
                        return;
                    }
                }
                () = self.look.notified() => {}
            }
            let watch = self.clone();
            let Ok(changed) = tokio::task::spawn_blocking(move || watch.changed()).await else {
                return;
            };
            for (container, mount, version) in changed {
                self.tell(&agent, container, mount, version).await;
            }
        }
    }

    /// What the agent does not know yet.
    fn changed(&self) -> Vec<(String, u32, Version)> {
        let mut changed = Vec::new();
        for (container, volumes) in &*self.lock() {
            for watched in volumes.iter().filter(|watched| watched.created) {
                let Some(volume) = watched.updated.volume.upgrade() else {
                    continue;
                };
                // In the middle of an update it may be anything, and another event will come.
                if let Ok(Some(version)) = volume.version()
                    && version != watched.told
                {
                    changed.push((container.clone(), watched.updated.mount, version));
                }
            }
        }
        changed
    }

    async fn tell(&self, agent: &Agent, container: String, mount: u32, version: Version) {
        let request = UpdateVolumeRequest {
            container_id: container.clone(),
            volume: Some(message(mount, &version)).into(),
            ..Default::default()
        };
        let answer = agent
            .call("UpdateVolume", LONG, async move |agent, context| {
                agent.update_volume(context, &request).await
            })
            .await;
        match answer {
            Ok(_) => {
                for watched in self.lock().get_mut(&container).into_iter().flatten() {
                    if watched.updated.mount == mount {
                        watched.told = version.clone();
                    }
                }
            }
            // It is being deleted.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(
                    "programs in container {container} got no event (inotify) of a volume that \
                     changed: {error}"
                );
                if error.kind() == ErrorKind::FailedPrecondition {
                    self.forget(&container, |watched| watched.updated.mount == mount);
                }
            }
        }
    }

    /// Ends the watch of those volumes of a container for which `which` holds.
    fn forget(&self, container: &str, which: impl Fn(&Watched) -> bool) {
        let mut watched = self.lock();
        let Some(volumes) = watched.get_mut(container) else {
            return;
        };
        let (gone, kept): (Vec<_>, Vec<_>) = volumes.drain(..).partition(which);
        if kept.is_empty() {
            watched.remove(container);
        } else {
            *volumes = kept;
        }
        for gone in gone {
            let mut all = watched.values().flatten();
            if !all.any(|watched| watched.number == gone.number) {
                // The kernel may have ended it, with the volume.
                let _ = inotify::remove_watch(&self.inotify, gone.number);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Watched>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn message(mount: u32, version: &Version) -> UpdatedVolume {
    UpdatedVolume {
        mount,
        version: version.directory.clone(),
        names: version.names.clone(),
        ..Default::default()
    }
}
