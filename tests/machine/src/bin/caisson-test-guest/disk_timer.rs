//! Reading and writing a disk for the benchmark.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use caisson_machine_tests::{DiskWork, Took, random_sizes};

/// What `O_DIRECT` wants of memory; no block device has larger sectors.
const ALIGNMENT: usize = 4096;

/// Moves `bytes` bytes in all and says how long that took, from the moment at which every thread is
/// ready to the last one's end.
///
/// # Errors
/// What the system calls answer; the disk is too small.
pub(crate) fn time(path: &str, work: DiskWork, threads: u32, bytes: u64) -> io::Result<Took> {
    let file = File::options()
        .read(true)
        .write(work == DiskWork::Write)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    let operations = bytes / u64::from(threads.max(1)) / work.block();
    let ready = Barrier::new(threads as usize + 1);
    let begun = thread::scope(|scope| {
        let workers: Vec<_> = (0..u64::from(threads))
            .map(|worker| {
                let (file, ready) = (&file, &ready);
                scope.spawn(move || {
                    let places = places(work, path, worker, operations);
                    ready.wait();
                    places.and_then(|places| transfer(file, work, &places))
                })
            })
            .collect();
        ready.wait();
        let begun = Instant::now();
        for worker in workers {
            let moved = worker.join();
            moved.unwrap_or_else(|_| Err(io::Error::other("panic")))?;
        }
        Ok::<_, io::Error>(begun)
    })?;
    if work == DiskWork::Write {
        file.sync_data()?;
    }
    let nanoseconds = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Took { nanoseconds })
}

/// Where a worker's operations begin on the disk.
fn places(work: DiskWork, path: &str, worker: u64, operations: u64) -> io::Result<Vec<u64>> {
    if work != DiskWork::ReadRandomly {
        let first = worker * operations;
        return Ok((first..first + operations)
            .map(|index| index * work.block())
            .collect());
    }
    let size = io::Seek::seek(&mut File::open(path)?, io::SeekFrom::End(0))?;
    let last = (size / work.block())
        .checked_sub(1)
        .ok_or_else(|| io::Error::other("there is nothing on the disk"))?;
    let count = usize::try_from(operations).map_err(io::Error::other)?;
    let blocks = random_sizes(worker << 32, count, last).into_iter();
    Ok(blocks.map(|block| block * work.block()).collect())
}

fn transfer(file: &File, work: DiskWork, places: &[u64]) -> io::Result<()> {
    let size = work.block() as usize;
    let mut space = vec![0x5a; size + ALIGNMENT];
    let begin = space.as_ptr().align_offset(ALIGNMENT);
    let block = space.get_mut(begin..begin + size).unwrap_or_default();
    for place in places {
        match work {
            DiskWork::Write => file.write_all_at(block, *place)?,
            DiskWork::Read | DiskWork::ReadRandomly => file.read_exact_at(block, *place)?,
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "disk_timer_test.rs"]
mod tests;
