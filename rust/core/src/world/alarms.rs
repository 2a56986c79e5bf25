//! Deadlines: one for each thing that has one, and the next of all.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::UnixMs;

use super::Key;

/// What has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alarm {
    /// Something to look at.
    Look(Key),
    /// An action under way.
    Action(crate::action::ActionKey),
    /// A throttle opens.
    Throttle,
    /// A freeze ends.
    Freeze,
    /// Fingerprints are asked for.
    Fingerprints,
    /// The full sweep begins.
    Sweep,
}

/// Deadlines, one for each alarm.
#[derive(Debug, Clone, Default, Hash)]
pub struct Alarms {
    due: BTreeSet<(UnixMs, Alarm)>,
    at: BTreeMap<Alarm, UnixMs>,
}

impl Alarms {
    /// Sets the deadline of an alarm, or takes it away.
    pub fn set(&mut self, alarm: Alarm, at: Option<UnixMs>) {
        let before = match at {
            Some(at) => self.at.insert(alarm, at),
            None => self.at.remove(&alarm),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, alarm));
        }
        if let Some(at) = at {
            self.due.insert((at, alarm));
        }
    }

    /// Takes the next alarm that is due.
    pub fn pop(&mut self, now: UnixMs) -> Option<Alarm> {
        let (at, alarm) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        self.at.remove(&alarm);
        Some(alarm)
    }

    /// When the next is due.
    #[must_use]
    pub fn next(&self) -> Option<UnixMs> {
        self.due.first().map(|(at, _)| *at)
    }
}
