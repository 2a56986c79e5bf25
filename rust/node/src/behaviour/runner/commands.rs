//! Commands whose record has to be kept before they take effect, and who waits for what became of one.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::command::Command;
use meshos_core::signal::Signal;
use meshos_core::time::UnixMs;

use super::Runner;
use crate::clock::Deadline;
use crate::verdicts;

/// How long an appender may take to keep a record that must come first.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(5);

impl Runner {
    /// Has the record of a command kept before the command takes effect.
    pub(super) fn hold(&mut self, at: UnixMs, command: Command) {
        let Some(envelope_id) = command.envelope_id else { return };
        let intake = Arc::clone(&self.shared.intake);
        let told = move |kept| intake.result(Signal::Recorded { envelope_id, kept });
        let seq = self.shared.parts.records.audit_first(at, command, told);
        self.held.insert(envelope_id, (seq, Deadline::after(AUDIT_TIMEOUT)));
    }

    /// Gives up on records that were not kept in time.
    pub(super) fn give_up(&self) {
        for (envelope_id, (seq, until)) in &self.held {
            if until.passed() && self.shared.parts.records.give_up(*seq) {
                let (envelope_id, kept) = (*envelope_id, false);
                self.shared.intake.result(Signal::Recorded { envelope_id, kept });
            }
        }
    }

    /// Tells those who wait, once the snapshot that shows it is out.
    pub(super) fn tell_verdicts(&mut self) {
        let generation = self.shared.published.generation();
        for (told, audit_seq) in self.verdicts.drain(..) {
            let verdict = verdicts::Verdict {
                refused: told.refused,
                audit_seq,
                generation,
            };
            self.shared.verdicts.tell(told.envelope_id, verdict);
        }
    }
}
