//! Work inside a long-lived container of each contender, and on the host beside them: files, disks,
//! the network, the processor and the kernel.

use std::time::Duration;

use crate::bench::Bench;
use crate::contender::Contender;
use crate::peer;
use crate::table::{Aim, HOST, RUNC, Table, ms};

/// What is done where.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// How its rows begin.
    place: &'static str,
    /// What the program is asked for.
    name: &'static str,
    folder: &'static str,
    aim: Option<Aim>,
}

/// A speed of 0.3, 0.7 and 0.9 of another's is a time of so many times the other's.
const SHARED: Option<Aim> = Some(Aim::Times(1.0 / 0.3, RUNC));
const ON_A_DISK: Option<Aim> = Some(Aim::Times(1.0 / 0.7, RUNC));
const DEVICE: Option<Aim> = Some(Aim::Times(1.0 / 0.9, HOST));

const fn piece(
    place: &'static str,
    name: &'static str,
    folder: &'static str,
    aim: Option<Aim>,
) -> Piece {
    Piece {
        place,
        name,
        folder,
        aim,
    }
}

const PIECES: [Piece; 11] = [
    piece("processor", "processor", "", None),
    piece(NETWORK, NETWORK, "", DEVICE),
    piece("root", "disk", Bench::ROOT, None),
    piece("root", "source", Bench::ROOT, SHARED),
    piece("root", "packages", Bench::ROOT, SHARED),
    piece("volume", "disk", Bench::VOLUME, None),
    piece("volume", "source", Bench::VOLUME, SHARED),
    piece("volume", "packages", Bench::VOLUME, SHARED),
    piece(BLOCK, "disk", Bench::BLOCK, DEVICE),
    piece(BLOCK, "source", Bench::BLOCK, ON_A_DISK),
    piece(BLOCK, "packages", Bench::BLOCK, ON_A_DISK),
];
const NETWORK: &str = "network";
const BLOCK: &str = "block device";

/// Measures the work in whose row `wanted` occurs, the contenders taking turns.
pub(crate) fn measure(
    rounds: usize,
    contenders: &[&'static Contender],
    wanted: &str,
    table: &mut Table,
) {
    peer::listen();
    let benches = benches(contenders);
    let mut pieces = PIECES.to_vec();
    let mut rows = Vec::new();
    for round in 0..=rounds {
        // A piece that has done nothing for anybody is not wanted.
        pieces.retain(|piece| {
            let mut is_wanted = false;
            for bench in &benches {
                eprintln!(
                    "round {round} of {rounds}, {}: {}",
                    bench.who,
                    piece.title()
                );
                for (row, took) in piece.work(bench, wanted) {
                    is_wanted = true;
                    eprintln!("{row}: {:.1} ms", ms(took));
                    table.note(round, &row, bench.who, took);
                    if let Some(aim) = piece.aim {
                        table.aim(&row, aim);
                    }
                    if !rows.contains(&row) {
                        rows.push(row);
                    }
                }
            }
            is_wanted
        });
    }
    for row in rows {
        table.done(&row);
    }
}

/// The host, and a container of each contender that starts.
fn benches(contenders: &[&'static Contender]) -> Vec<Bench> {
    let host = [(HOST, Bench::host())];
    let containers = contenders
        .iter()
        .enumerate()
        .map(|(index, contender)| (contender.name, Bench::of(contender, index + 1)));
    let benches = host.into_iter().chain(containers);
    let started = benches.filter_map(|(who, bench)| match bench {
        Ok(bench) => Some(bench),
        Err(reason) => {
            println!("without work of {who}: {reason}");
            None
        }
    });
    started.collect()
}

impl Piece {
    fn title(&self) -> String {
        format!("{}, {}", self.place, self.name)
    }

    /// Has it done; the rows with what they took. What cannot be done is told.
    fn work(&self, bench: &Bench, wanted: &str) -> Vec<(String, Duration)> {
        if self.place == BLOCK && !bench.has_block() {
            return Vec::new();
        }
        let folder = bench.folder(self.folder);
        let argument = match self.name {
            NETWORK => bench.address(),
            _ => &folder,
        };
        let finished = bench.work(&[wanted, self.place, self.name, argument]);
        if finished.code != 0 {
            let (who, title, said) = (bench.who, self.title(), finished.stderr.trim());
            println!("{who} cannot do {title}: {said}");
        }
        let text = finished.text();
        let rows = text.lines().filter_map(|line| line.split_once('\t'));
        rows.filter_map(|(row, nanoseconds)| {
            let took = Duration::from_nanos(nanoseconds.parse().ok()?);
            Some((row.to_owned(), took))
        })
        .collect()
    }
}
