//! What is in a slot, owned by who is inside: the machine, user code, and what is kept of both.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use meshos_core::checkpoint::Checkpoint;
use meshos_core::config::DaemonHostConfig;
use meshos_core::digest::Digest;
use meshos_core::event::DaemonHealth;
use meshos_core::host::Host;
use meshos_core::id::NodeId;
use meshos_core::journal::Step;
use meshos_core::name::ChannelName;
use meshos_core::snapshot::SnapshotMeta;
use meshos_core::source::{self, Source};
use meshos_core::time::UnixMs;

use crate::clock;
use crate::daemon::Daemon;
use crate::fed::Followed;
use crate::journal::{Content, Journal};
use crate::letters::Letters;
use crate::outgoing::Line;
use crate::tape::Tape;

/// A snapshot with the state as user code gave it.
pub struct Snapshot<D: Daemon> {
    /// Everything but the state.
    pub meta: SnapshotMeta,
    /// The state.
    pub state: D::State,
}

impl<D: Daemon> Content for Snapshot<D> {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn state(&self) -> &[u8] {
        self.state.as_ref()
    }
}

/// An output kept for export.
pub struct Kept<D: Daemon> {
    /// The event.
    pub event: D::Event,
    /// Digest of the chain up to it.
    pub digest: Digest,
    /// When it was kept; only if age matters.
    at: UnixMs,
}

/// The outputs kept for export, oldest first, and where they begin.
pub struct Outputs<D: Daemon> {
    /// The events.
    pub kept: VecDeque<Kept<D>>,
    /// Payload bytes in `kept`.
    pub bytes: u64,
    /// Sequence before the first kept.
    pub base_sequence: u64,
    /// Digest before the first kept.
    pub base_digest: Digest,
}

impl<D: Daemon> Outputs<D> {
    /// Nothing yet, after this position.
    #[must_use]
    pub fn after(sequence: u64, digest: Digest) -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            base_sequence: sequence,
            base_digest: digest,
        }
    }

    /// Keeps one more, and drops the oldest beyond the bounds.
    pub fn push(&mut self, event: D::Event, digest: Digest, bounds: &DaemonHostConfig) {
        let now = bounds.outputs_age_max_ms.map_or(UnixMs::new(0), |_| clock::unix_ms());
        self.bytes += D::payload_len(&event) as u64;
        self.kept.push_back(Kept { event, digest, at: now });
        self.drop_beyond(bounds, now);
    }

    /// Drops what is beyond the bounds by now.
    pub fn age(&mut self, bounds: &DaemonHostConfig) {
        if bounds.outputs_age_max_ms.is_some() {
            self.drop_beyond(bounds, clock::unix_ms());
        }
    }

    fn drop_beyond(&mut self, bounds: &DaemonHostConfig, now: UnixMs) {
        let is_old = |kept: &Kept<D>| {
            let age = now.get().saturating_sub(kept.at.get());
            bounds.outputs_age_max_ms.is_some_and(|max| age > max)
        };
        while self.kept.len() > bounds.outputs_max as usize
            || self.bytes > bounds.outputs_bytes_max
            || self.kept.front().is_some_and(is_old)
        {
            if !self.drop_oldest() {
                break;
            }
        }
    }

    /// Drops what is not after a sequence.
    pub(crate) fn drop_up_to(&mut self, sequence: u64) {
        while self.base_sequence < sequence && self.drop_oldest() {}
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.kept.pop_front() else {
            return false;
        };
        self.bytes -= D::payload_len(&oldest.event) as u64;
        self.base_sequence = D::parts(&oldest.event).0.sequence;
        self.base_digest = oldest.digest;
        true
    }
}

/// What is in a slot, owned by who is inside.
pub struct Inside<D: Daemon> {
    /// The machine.
    pub host: Host,
    /// User code.
    pub daemon: Arc<D>,
    /// Outputs for export.
    pub outputs: Outputs<D>,
    /// Inputs since `newest`, when `on_error` is `Restore` or somebody watches over the daemon.
    pub log: Vec<D::Event>,
    /// The newest snapshot taken here or started from.
    pub newest: Option<Arc<Snapshot<D>>>,
    /// Whether `newest` and `log` lead to the present state.
    pub is_complete: bool,
    /// Whether a call of this instance was given up while it still runs.
    pub is_running: bool,
    /// Checkpoints in the order they were signed.
    pub checkpoints: Vec<Checkpoint>,
    /// What it did on its way to the store; `None`: nothing of it is kept.
    pub journal: Option<Box<Journal>>,
    /// Events that were passed over; `None`: none.
    pub letters: Option<Box<Letters<D>>>,
    /// What it emitted for elsewhere and has not left; `None`: it never emitted anything for elsewhere.
    pub(crate) line: Option<Box<Line>>,
    /// Who follows its chain from other nodes; `None`: nobody ever did.
    pub(crate) followed: Option<Followed>,
    /// Where its streams from channels come from, by stream; `None`: it never had one.
    pub(crate) sources: Option<BTreeMap<u64, Arc<Source>>>,
    /// What takes effect since a copy of it was made; `None`: there is no copy, or what came since does not lead here.
    pub(crate) tape: Option<Arc<Tape>>,
    /// Health and load as last told.
    pub told: (DaemonHealth, f64),
}

impl<D: Daemon> Inside<D> {
    /// A daemon that has told and kept nothing yet, with the state of `newest` if there is one.
    #[must_use]
    pub fn new(host: Host, daemon: Arc<D>, newest: Option<Arc<Snapshot<D>>>) -> Self {
        let position = host.position();
        Self {
            host,
            daemon,
            outputs: Outputs::after(position.sequence, position.digest),
            log: Vec::new(),
            is_complete: newest.is_some(),
            is_running: false,
            newest,
            checkpoints: Vec::new(),
            journal: None,
            letters: None,
            line: None,
            followed: None,
            sources: None,
            tape: None,
            told: (DaemonHealth::Healthy, 0.0),
        }
    }

    /// Notes where a stream comes from, before its first event: the row is kept together with that.
    pub(crate) fn note_source(&mut self, stream: u64, source: &Arc<Source>) {
        let sources = self.sources.get_or_insert_default();
        if sources.contains_key(&stream) {
            return;
        }
        sources.insert(stream, Arc::clone(source));
        if let Some(journal) = &mut self.journal {
            journal.also(source.write(&self.host.entity()));
        }
    }

    /// Where a stream comes from.
    pub(crate) fn source(&self, stream: u64) -> Option<&Arc<Source>> {
        self.sources.as_ref()?.get(&stream)
    }

    /// How far a channel was read: the latest life of its numbers, and the number in it.
    pub(crate) fn read_up_to(&self, publisher: NodeId, channel: &ChannelName) -> Option<(u64, u64)> {
        let sources = self.sources.as_ref()?.iter();
        let of_it = sources.filter(|(_, source)| source.channel == *channel && source.publisher.node_id() == publisher);
        let (stream, latest) = of_it.max_by_key(|(_, source)| source.log)?;
        Some((latest.log, self.host.cursors().get(latest.publisher.origin(), *stream)))
    }

    /// Has the ledger of subscriptions kept with what comes next.
    pub fn keep_ledger(&mut self) {
        let row = source::ledger(&self.host.entity(), self.host.bindings());
        if let Some(journal) = &mut self.journal {
            journal.also(row);
        }
    }

    /// Whether it is noted what takes effect, for a copy of it.
    #[must_use]
    pub const fn is_taped(&self) -> bool {
        self.tape.is_some()
    }

    /// Notes a step where that is done.
    pub(crate) fn note_step(&mut self, step: &Step<'_>) {
        if let Some(journal) = &mut self.journal {
            journal.step(step);
        }
        if let Some(tape) = &self.tape
            && !tape.step(step)
        {
            self.tape = None;
        }
    }

    /// Steps since a copy do not lead to the present state any more.
    pub(crate) fn untape(&mut self) {
        if let Some(tape) = self.tape.take() {
            tape.end();
        }
    }

    /// Begins anew from a snapshot of the present state.
    pub fn rest_on(&mut self, snapshot: Arc<Snapshot<D>>) {
        self.newest = Some(snapshot);
        self.log.clear();
        self.is_complete = true;
    }

    /// Keeps an input that took effect.
    pub fn keep(&mut self, event: &D::Event) {
        if self.is_complete {
            self.log.push(event.clone());
        }
    }

    /// Says that the present state is not what the snapshot and the inputs lead to.
    pub fn stray(&mut self) {
        self.is_complete = false;
        self.log = Vec::new();
    }

    /// Whether user code can be rebuilt at the present position.
    #[must_use]
    pub fn can_be_rebuilt(&self) -> bool {
        self.is_complete || !self.daemon.is_stateful()
    }
}
