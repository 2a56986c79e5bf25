//! A process that is killed at any instant. `KILLS` sets how often.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use meshos_core::store::{Batch, Store};
use meshos_core::testing::random::SplitMix64;

use crate::{Scratch, numbers, open, row};

const KILLS: u64 = 12;
/// Kills of one store.
const FRESH: u64 = 20;
const FOLDER: &str = "MESHOS_TEST_STORE";

/// The process that is killed: keeps numbers one after another, with some on the way, and prints each that is kept.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (mut store, _) = open(Path::new(&folder));
    let first = numbers(&store).last().map_or(0, |last| last + 1);
    let (told, heard) = std::sync::mpsc::sync_channel(64);
    let writer = std::thread::spawn(move || {
        let mut out = std::io::stdout().lock();
        for number in heard {
            writeln!(out, "kept {number}")
                .and_then(|()| out.flush())
                .expect("the pipe is open");
        }
    });
    for number in first.. {
        let told = told.clone();
        let batch = Batch {
            term: store.term(),
            writes: vec![row(number, 12_000)],
        };
        let done = move |outcome: Result<u64, _>| {
            outcome.expect("the disk is good");
            let _ = told.send(number);
        };
        store.submit(batch, Box::new(done));
        if number % 1000 == 999 {
            store.commit(Vec::new()).expect("the disk is good");
        }
    }
    writer.join().expect("it never ends");
}

#[test]
fn nothing_acknowledged_is_lost_however_often_it_is_killed() {
    let kills = std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"));
    let mut scratch = Scratch::new();
    let mut random = SplitMix64::new(u64::from(std::process::id()));
    let mut acknowledged = None;
    for kill in 0..kills {
        if kill % FRESH == 0 {
            // All of it is read each time, so it must not grow for ever.
            (scratch, acknowledged) = (Scratch::new(), None);
        }
        let mut process = Command::new(std::env::current_exe().expect("this is one"))
            .args(["--exact", "killed::child", "--nocapture", "--test-threads=1"])
            .env(FOLDER, scratch.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("it can be started");
        let out = BufReader::new(process.stdout.take().expect("it is piped"));
        let until = random.below(1000);
        let heard = std::thread::spawn(move || {
            let (told, heard) = std::sync::mpsc::channel();
            let reader = std::thread::spawn(move || {
                for line in out.lines().map_while(Result::ok) {
                    if let Some(number) = line.split("kept ").nth(1) {
                        let _ = told.send(number.trim().parse::<u64>().expect("a number"));
                    }
                }
            });
            let mut last = None;
            for _ in 0..=until {
                match heard.recv_timeout(Duration::from_secs(20)) {
                    Ok(number) => last = Some(number),
                    Err(_) => break,
                }
            }
            (last, heard, reader)
        });
        let (mut last, heard, reader) = heard.join().expect("it reads");
        process.kill().expect("it runs");
        process.wait().expect("it ends");
        // What it said before it was killed counts.
        reader.join().expect("the pipe ended");
        last = heard.into_iter().last().or(last);
        acknowledged = last.or(acknowledged);

        // Every other time the next process finds the store as the last one left it.
        if kill % 2 == 0 && kill + 1 < kills {
            continue;
        }
        let (store, opened) = open(&scratch.path());
        let found = numbers(&store);
        assert_eq!(
            found,
            (0..found.len() as u64).collect::<Vec<_>>(),
            "kill {kill}: in order and once"
        );
        let through = acknowledged.map_or(0, |last| last + 1);
        assert!(
            found.len() as u64 >= through,
            "kill {kill}: {} found, {through} acknowledged, {opened:?}",
            found.len()
        );
        if kill + 1 == kills {
            store.verify().expect("nothing is damaged");
        }
    }
}
