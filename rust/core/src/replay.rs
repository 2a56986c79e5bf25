//! Decision: the control state that an audit tells of.
//!
//! Invariants
//! * The same records give the same state, record by record, as in the loop that wrote them.
//! * A record that was written too late to count is followed by one of the same number that says so: its command has no
//!   effect.
//! * However long an audit is, what is kept of it is bounded.

use std::collections::{BTreeMap, VecDeque};

use crate::command::{Command, Verdict};
use crate::control_state::ControlState;
use crate::status::AuditRecord;
use crate::time::UnixMs;
use crate::trail::Entry;

/// Commands that may be taken back yet. A loop lets fewer wait for their records.
const OPEN_MAX: usize = 16_384;
/// Refusals that may be counted once more.
const REFUSED_MAX: usize = 16_384;

/// Reads an audit, entry by entry.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    until: Option<UnixMs>,
    replayed: Replayed,
    /// Commands that took effect unless they are taken back, with the numbers of their records.
    open: VecDeque<(u64, UnixMs, Command)>,
    /// How often the newest refusals were counted, by their numbers.
    refused: BTreeMap<u64, u64>,
}

/// What an audit tells of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// The state after the last record.
    pub state: ControlState,
    /// Commands that took effect.
    pub obeyed: u64,
    /// Commands that were refused.
    pub rejected: u64,
    /// Runs that wrote the audit.
    pub runs: u64,
    /// When the last record was made, or the last run began; `None`: there is none.
    pub last_at: Option<UnixMs>,
}

impl Replay {
    /// Passes over what was recorded later than that.
    #[must_use]
    pub const fn until(mut self, until: Option<UnixMs>) -> Self {
        self.until = until;
        self
    }

    /// Takes the next entry; what is no command and no run is passed over.
    pub fn take(&mut self, entry: &Entry) {
        match entry {
            Entry::Run { at, .. } if self.is_wanted(*at) => {
                self.settle(0);
                self.refused.clear();
                self.replayed.runs += 1;
                self.replayed.state.begin_run(*at);
            }
            Entry::Audit(record) if self.is_wanted(record.at) => self.command(record),
            Entry::Run { .. } | Entry::Audit(_) => {}
            Entry::Signed { .. } | Entry::Log(_) | Entry::Failure(_) | Entry::Action(_) => {}
        }
    }

    fn is_wanted(&mut self, at: UnixMs) -> bool {
        let wanted = self.until.is_none_or(|until| at <= until);
        if wanted {
            self.replayed.last_at = Some(at);
        }
        wanted
    }

    fn command(&mut self, record: &AuditRecord) {
        if matches!(record.command.verdict, Verdict::Rejected { .. }) {
            if let Ok(place) = self.open.binary_search_by_key(&record.seq, |(seq, ..)| *seq) {
                self.open.remove(place);
            }
            let before = self.refused.insert(record.seq, record.times).unwrap_or(0);
            self.replayed.rejected += record.times.saturating_sub(before);
            if self.refused.len() > REFUSED_MAX {
                self.refused.pop_first();
            }
        } else {
            self.open.push_back((record.seq, record.at, record.command.clone()));
            self.settle(OPEN_MAX);
        }
    }

    /// Applies all but the newest commands.
    fn settle(&mut self, newest: usize) {
        while self.open.len() > newest
            && let Some((_, at, command)) = self.open.pop_front()
        {
            self.replayed.obeyed += 1;
            self.replayed.state.apply(at, &command);
        }
    }

    /// The state after everything that was taken.
    #[must_use]
    pub fn finish(mut self) -> Replayed {
        self.settle(0);
        self.replayed
    }
}
