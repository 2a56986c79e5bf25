//! Decision: the control state that an audit tells of.
//!
//! Invariants
//! * The same records give the same state, record by record, as in the loop that wrote them.
//! * A record that was written too late to count is followed by one of the same number that says so: its command has no
//!   effect.

use std::collections::BTreeMap;

use crate::command::{Command, Verdict};
use crate::control_state::ControlState;
use crate::time::UnixMs;
use crate::trail::Entry;

/// Something that changes the state, or may.
#[derive(Debug, Clone)]
enum Step {
    Run(UnixMs),
    Command(UnixMs, Command),
}

/// Entries of an audit, gathered to be replayed.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    steps: Vec<Step>,
    /// Where the commands of the present run are that were obeyed, by the numbers of their records.
    obeyed: BTreeMap<u64, usize>,
}

/// What an audit tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The state after the last record.
    pub state: ControlState,
    /// Commands that took effect.
    pub obeyed: u64,
    /// Commands that were refused.
    pub rejected: u64,
    /// Runs that wrote the audit.
    pub runs: u64,
    /// When the last of them was made, or the last run began; `None`: there is none.
    pub last_at: Option<UnixMs>,
}

impl Replay {
    /// Takes the next entry; what is no command and no run is passed over.
    pub fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Run { at, .. } => {
                self.obeyed.clear();
                self.steps.push(Step::Run(at));
            }
            Entry::Audit(record) => self.command(record.seq, record.at, record.command),
            Entry::Signed { .. } | Entry::Log(_) | Entry::Failure(_) | Entry::Action(_) => {}
        }
    }

    fn command(&mut self, seq: u64, at: UnixMs, command: Command) {
        let rejected = matches!(command.verdict, Verdict::Rejected { .. });
        match self.obeyed.remove(&seq) {
            // In its place stands what became of it, which changes nothing.
            Some(place) if rejected => self.steps[place] = Step::Command(at, command),
            _ => {
                if !rejected {
                    self.obeyed.insert(seq, self.steps.len());
                }
                self.steps.push(Step::Command(at, command));
            }
        }
    }

    /// The state, after what was recorded until that time, or after everything.
    #[must_use]
    pub fn finish(self, until: Option<UnixMs>) -> Replayed {
        let mut replayed = Replayed {
            state: ControlState::default(),
            obeyed: 0,
            rejected: 0,
            runs: 0,
            last_at: None,
        };
        for step in &self.steps {
            let (Step::Run(at) | Step::Command(at, _)) = step;
            if until.is_some_and(|until| *at > until) {
                continue;
            }
            replayed.last_at = Some(*at);
            match step {
                Step::Run(at) => {
                    replayed.runs += 1;
                    replayed.state.begin_run(*at);
                }
                Step::Command(at, command) => {
                    match command.verdict {
                        Verdict::Rejected { .. } => replayed.rejected += 1,
                        Verdict::Accepted | Verdict::Open => replayed.obeyed += 1,
                    }
                    replayed.state.apply(*at, command);
                }
            }
        }
        replayed
    }
}
