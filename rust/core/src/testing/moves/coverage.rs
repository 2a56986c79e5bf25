//! Which machine was given which signal in which phase, and how often.
//!
//! A message of another move than the one under way is a signal of its own.

use std::collections::BTreeMap;

use crate::move_chunks;
use crate::move_frame::Body;
use crate::move_order;
use crate::move_source;
use crate::move_target;
use crate::ownership::MigrationId;

/// Names of messages, in the order of [`body`].
const BODIES: [&str; 14] = [
    "prepare",
    "accept",
    "reject",
    "freeze",
    "final",
    "prepared",
    "commit",
    "committed",
    "retire",
    "abort",
    "abort req",
    "outcome",
    "pull",
    "chunk",
];
/// What a machine hears beside messages.
const SIGNALS: [&str; 17] = [
    "event",
    "frozen",
    "freeze failed",
    "fenced",
    "kept",
    "failed",
    "timer",
    "restored",
    "restore failed",
    "activated",
    "install refused",
    "abort",
    "chunk that is asked for",
    "chunk that is held",
    "chunk of another image",
    "chunk of another length",
    "chunk timer",
];
/// Where messages of other moves begin, and where other signals do.
const OTHER: usize = BODIES.len();
const REST: usize = 2 * OTHER;

const SOURCE: usize = 0;
const TARGET: usize = 1;
const ORDER: usize = 2;
const CHUNKS: usize = 3;

/// One machine: its name, the messages that it may hear, and its other signals.
const MACHINES: [(&str, &[usize], &[usize]); 4] = [
    ("source", &[0, 2, 3, 5, 7, 8, 10, 11, 12], &[0, 1, 2, 3, 4, 5, 6]),
    ("target", &[0, 4, 6, 9], &[3, 4, 5, 6, 7, 8, 9, 10]),
    ("orchestrator", &[1, 2, 6, 7, 11], &[4, 5, 6, 11]),
    ("chunks", &[], &[12, 13, 14, 15, 16]),
];

/// A machine in a phase, and a signal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Which machine.
    pub machine: &'static str,
    /// In which phase.
    pub phase: String,
    /// Which signal.
    pub signal: String,
}

/// How often each pair was there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Coverage(BTreeMap<(usize, usize, usize), u64>);

const fn body(body: &Body<'_>) -> Option<usize> {
    Some(match body {
        Body::Prepare(_) => 0,
        Body::Accept => 1,
        Body::Reject(_) => 2,
        Body::Freeze => 3,
        Body::Final { .. } => 4,
        Body::Prepared { .. } => 5,
        Body::Commit { .. } => 6,
        Body::Committed => 7,
        Body::Retire => 8,
        Body::Abort => 9,
        Body::AbortReq => 10,
        Body::Outcome { .. } => 11,
        Body::Pull { .. } => 12,
        Body::Chunk { .. } => 13,
        Body::Aside(_) => return None,
    })
}

fn phases(machine: usize) -> Vec<String> {
    match machine {
        SOURCE => move_source::Phase::ALL
            .iter()
            .map(|phase| format!("{phase:?}"))
            .collect(),
        TARGET => move_target::Phase::ALL
            .iter()
            .map(|phase| format!("{phase:?}"))
            .collect(),
        ORDER => move_order::Phase::ALL
            .iter()
            .map(|phase| format!("{phase:?}"))
            .collect(),
        _ => vec!["Pulling".to_owned()],
    }
}

impl Coverage {
    fn count(&mut self, machine: usize, phase: usize, signal: Option<usize>) {
        if let Some(signal) = signal {
            *self.0.entry((machine, phase, signal)).or_insert(0) += 1;
        }
    }

    fn heard(heard: &Body<'_>, mid: &MigrationId, under_way: Option<MigrationId>) -> Option<usize> {
        let is_other = under_way.is_some_and(|under_way| under_way != *mid);
        body(heard).map(|body| if is_other { OTHER + body } else { body })
    }

    pub(super) fn source(
        &mut self,
        phase: move_source::Phase,
        under_way: Option<MigrationId>,
        signal: &move_source::Signal<'_>,
    ) {
        let signal = match signal {
            move_source::Signal::Heard { frame, .. } => Self::heard(&frame.body, &frame.mid, under_way),
            move_source::Signal::Event(_) => Some(REST),
            move_source::Signal::Frozen { .. } => Some(REST + 1),
            move_source::Signal::FreezeFailed(_) => Some(REST + 2),
            move_source::Signal::Fenced(_) => Some(REST + 3),
            move_source::Signal::Kept(_) => Some(REST + 4),
            move_source::Signal::Failed(_) => Some(REST + 5),
            move_source::Signal::Timer => Some(REST + 6),
        };
        self.count(SOURCE, phase as usize, signal);
    }

    pub(super) fn target(
        &mut self,
        phase: move_target::Phase,
        under_way: Option<MigrationId>,
        signal: &move_target::Signal<'_>,
    ) {
        let signal = match signal {
            move_target::Signal::Heard { frame, .. } => Self::heard(&frame.body, &frame.mid, under_way),
            move_target::Signal::Fenced(_) => Some(REST + 3),
            move_target::Signal::Kept(_) => Some(REST + 4),
            move_target::Signal::Failed(_) => Some(REST + 5),
            move_target::Signal::Timer => Some(REST + 6),
            move_target::Signal::Restored(_) => Some(REST + 7),
            move_target::Signal::RestoreFailed(_) => Some(REST + 8),
            move_target::Signal::Activated { .. } => Some(REST + 9),
            move_target::Signal::InstallRefused => Some(REST + 10),
        };
        self.count(TARGET, phase as usize, signal);
    }

    pub(super) fn order(&mut self, phase: move_order::Phase, signal: &move_order::Signal<'_>) {
        let signal = match signal {
            move_order::Signal::Heard { body: heard, .. } => body(heard),
            move_order::Signal::Kept(_) => Some(REST + 4),
            move_order::Signal::Failed(_) => Some(REST + 5),
            move_order::Signal::Timer => Some(REST + 6),
            move_order::Signal::Abort => Some(REST + 11),
        };
        self.count(ORDER, phase as usize, signal);
    }

    /// What a receiver of chunks made of a signal.
    pub(super) fn chunk(&mut self, before: move_chunks::Counters, after: move_chunks::Counters, is_chunk: bool) {
        let signal = match is_chunk {
            false => 16,
            true if after.foreign > before.foreign => 14,
            true if after.unfit > before.unfit => 15,
            true if after.repeated > before.repeated => 13,
            true => 12,
        };
        self.count(CHUNKS, 0, Some(REST + signal));
    }

    /// Adds what another run counted.
    pub fn add(&mut self, other: &Self) {
        for (pair, count) in &other.0 {
            *self.0.entry(*pair).or_insert(0) += count;
        }
    }

    /// Every pair that there could be, and how often it was there.
    #[must_use]
    pub fn pairs(&self) -> Vec<(Pair, u64)> {
        let mut all = Vec::new();
        for (machine, (name, bodies, rest)) in MACHINES.into_iter().enumerate() {
            for (index, phase) in phases(machine).into_iter().enumerate() {
                // An orchestrator sees to one move, and without one under way there is no other.
                let has_others = machine < ORDER && index > 0;
                let others = bodies.iter().filter(|_| has_others).map(|body| OTHER + body);
                let signals = bodies
                    .iter()
                    .copied()
                    .chain(others)
                    .chain(rest.iter().map(|signal| REST + signal));
                for signal in signals {
                    let said = match signal {
                        signal if signal < OTHER => BODIES[signal].to_owned(),
                        signal if signal < REST => format!("{} of another move", BODIES[signal - OTHER]),
                        signal => SIGNALS[signal - REST].to_owned(),
                    };
                    let pair = Pair {
                        machine: name,
                        phase: phase.clone(),
                        signal: said,
                    };
                    all.push((pair, self.0.get(&(machine, index, signal)).copied().unwrap_or(0)));
                }
            }
        }
        all
    }
}
