//! The host of one daemon: everything causal around user code, without calling it.
//!
//! `admit(event)` says whether to call `process`; `returned(outputs)` or `raised()` says what came of it.
//!
//! Invariants
//! * Cursors, counters and chain move together, in `returned`, or not at all.
//! * Output sequences are consecutive, and the sketch in their links contains the input's origin.
//! * A call without outputs leaves the chain as it was.
//! * The chain never goes back to a sequence it has emitted, except by [`Host::rewound`], which owes a certificate.

use crate::bindings::DaemonBindings;
use crate::certificate::{Certificate, Reason, Statement};
use crate::chain::{CausalChainBuilder, ChainError};
use crate::config::DaemonHostConfig;
use crate::cursors::{Cursors, Receipt};
use crate::digest::Digest;
use crate::id::{EntityId, Origin};
use crate::identity::{IdentityError, Keypair};
use crate::inflow;
use crate::ingress::{self, Admission, EventKey};
use crate::link::CausalLink;
use crate::snapshot::SnapshotMeta;
use crate::stats::DaemonStats;
use crate::time::UnixMs;

/// The outputs of one event: most often none or one, which need no allocation.
pub type Few<T> = smallvec::SmallVec<[T; 1]>;

/// What others may know of a host while somebody is inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostView {
    /// Head of the chain.
    pub head: CausalLink,
    /// Digest of the chain up to the head.
    pub digest: Digest,
    /// Term of ownership.
    pub epoch: u64,
    /// The counters.
    pub stats: DaemonStats,
    /// Entries of the subscription ledger.
    pub subscriptions: u32,
}

/// Why a snapshot cannot be continued from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// It is of another entity.
    #[error("snapshot of {snapshot} offered under {identity}")]
    Identity {
        /// Whose snapshot it is.
        snapshot: EntityId,
        /// Under which identity it was offered.
        identity: EntityId,
    },
    /// More is known to have been emitted.
    #[error("snapshot at output {snapshot}, but {known} outputs are known")]
    StaleOutputs {
        /// Chain sequence of the snapshot.
        snapshot: u64,
        /// Chain sequence known.
        known: u64,
    },
    /// More is known to have been processed.
    #[error("snapshot after {snapshot} inputs, but {known} were processed")]
    StaleInputs {
        /// Inputs the snapshot contains.
        snapshot: u64,
        /// Inputs known to have taken effect.
        known: u64,
    },
    /// Same position, other content.
    #[error("snapshot is of another chain at sequence {sequence}")]
    WrongChain {
        /// The position both have.
        sequence: u64,
    },
}

/// How far a daemon is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Head sequence of its chain.
    pub sequence: u64,
    /// Digest at the head.
    pub digest: Digest,
    /// Inputs that took effect.
    pub processed: u64,
}

impl Position {
    /// Position of a snapshot.
    #[must_use]
    pub fn of(meta: &SnapshotMeta) -> Self {
        Self {
            sequence: meta.head.sequence,
            digest: meta.digest,
            processed: meta.stats.events_processed,
        }
    }

    /// Checks that continuing at `self` loses nothing that `known` has.
    ///
    /// # Errors
    /// [`ResumeError`]: something would be lost, or the chains differ.
    pub fn reaches(&self, known: &Position) -> Result<(), ResumeError> {
        if self.sequence < known.sequence {
            return Err(ResumeError::StaleOutputs {
                snapshot: self.sequence,
                known: known.sequence,
            });
        }
        if self.sequence == known.sequence && self.digest != known.digest {
            return Err(ResumeError::WrongChain {
                sequence: self.sequence,
            });
        }
        if self.processed < known.processed {
            return Err(ResumeError::StaleInputs {
                snapshot: self.processed,
                known: known.processed,
            });
        }
        Ok(())
    }
}

/// One daemon's chain, cursors, counters and ledger.
#[derive(Debug, Clone)]
pub struct Host {
    chain: CausalChainBuilder,
    epoch: u64,
    cursors: Cursors,
    bindings: DaemonBindings,
    stats: DaemonStats,
    lineage: Vec<Certificate>,
    /// The newest span has no certificate yet: it is signed when it first leaves the process.
    owed: Option<(Reason, u64, Digest)>,
    since_snapshot: u64,
    config: DaemonHostConfig,
}

impl Host {
    /// Begins at genesis, in epoch 1.
    #[must_use]
    pub fn new(entity: EntityId, config: DaemonHostConfig) -> Self {
        Self::on_chain(CausalChainBuilder::new(entity), config)
    }

    /// Begins fresh on a chain that has a head already: a fork's genesis.
    #[must_use]
    pub fn on_chain(chain: CausalChainBuilder, config: DaemonHostConfig) -> Self {
        let owed = Some((Reason::Spawn, chain.sequence(), chain.digest()));
        Self {
            chain,
            epoch: 1,
            cursors: Cursors::default(),
            bindings: DaemonBindings::default(),
            stats: DaemonStats::default(),
            lineage: Vec::new(),
            owed,
            since_snapshot: 0,
            config,
        }
    }

    /// Continues after a snapshot in the snapshot's epoch.
    ///
    /// # Errors
    /// [`ResumeError::Identity`] when it is of another entity.
    pub fn resumed(entity: EntityId, meta: SnapshotMeta, config: DaemonHostConfig) -> Result<Self, ResumeError> {
        if meta.entity != entity {
            return Err(ResumeError::Identity {
                snapshot: meta.entity,
                identity: entity,
            });
        }
        let chain =
            CausalChainBuilder::from_head(entity, meta.head, meta.digest).map_err(|_| ResumeError::WrongChain {
                sequence: meta.head.sequence,
            })?;
        // A host without a node signs no certificates, and its snapshots carry none.
        let owed = meta
            .lineage
            .is_empty()
            .then(|| (Reason::Restart, chain.sequence(), chain.digest()));
        Ok(Self {
            chain,
            epoch: meta.epoch,
            cursors: meta.cursors,
            bindings: meta.bindings,
            stats: meta.stats,
            lineage: meta.lineage,
            owed,
            since_snapshot: 0,
            config,
        })
    }

    /// Declares a new span of ownership from the head on: what anybody emitted after it in a lower epoch is rolled back.
    ///
    /// # Panics
    /// When `epoch` does not rise.
    #[must_use]
    pub fn rewound(mut self, epoch: u64) -> Self {
        assert!(epoch > self.epoch, "epochs rise");
        self.epoch = epoch;
        self.owed = Some((Reason::Restart, self.chain.sequence(), self.chain.digest()));
        self.stats.restarts += 1;
        self
    }

    /// The same host with a certificate that was signed after the snapshot that it goes on from, and in its epoch.
    #[must_use]
    pub fn certified(mut self, certificate: Certificate) -> Self {
        if self.lineage.last().is_none_or(|last| last.epoch < certificate.epoch) {
            if certificate.epoch >= self.epoch {
                self.epoch = certificate.epoch;
                self.owed = None;
            }
            self.lineage.push(certificate);
        }
        self
    }

    /// The same host in the epoch of a certificate that begins at its head; what it owed is void.
    ///
    /// # Panics
    /// When the epoch falls, or the certificate begins elsewhere.
    #[must_use]
    pub fn under(mut self, certificate: Certificate) -> Self {
        assert!(certificate.epoch >= self.epoch, "epochs rise");
        assert_eq!(certificate.digest, self.chain.digest(), "a term begins at the head");
        self.epoch = certificate.epoch;
        self.owed = None;
        // The same term may have been begun before, and not been kept.
        self.lineage.retain(|before| before.epoch < certificate.epoch);
        self.lineage.push(certificate);
        self
    }

    /// The same host under other options.
    #[must_use]
    pub fn with_config(mut self, config: DaemonHostConfig) -> Self {
        self.config = config;
        self
    }

    /// Takes over state that is not this host's own history: the cursors and the ledger belong to the state, and so
    /// does the chain head if the snapshot is of the same entity.
    ///
    /// # Errors
    /// [`ResumeError`]: it is of the same entity, and older than what this host has emitted or processed.
    pub fn adopt(&mut self, meta: SnapshotMeta) -> Result<(), ResumeError> {
        if meta.entity == self.chain.entity() {
            Position::of(&meta).reaches(&self.position())?;
            self.chain = CausalChainBuilder::from_head(meta.entity, meta.head, meta.digest).map_err(|_| {
                ResumeError::WrongChain {
                    sequence: meta.head.sequence,
                }
            })?;
            self.stats = meta.stats;
        }
        self.cursors = meta.cursors;
        self.bindings = meta.bindings;
        self.since_snapshot = 0;
        Ok(())
    }

    /// The same host, that has taken again what led to this snapshot of itself: with the counters, the cursors, the ledger and
    /// the certificates that it has there. What it took since its own last snapshot still counts.
    ///
    /// # Errors
    /// [`ResumeError`]: it stands elsewhere.
    pub fn caught_up(self, meta: SnapshotMeta) -> Result<Self, ResumeError> {
        Position::of(&meta).reaches(&self.position())?;
        self.position().reaches(&Position::of(&meta))?;
        let since_snapshot = self.since_snapshot;
        let host = Self::resumed(self.entity(), meta, self.config)?;
        Ok(Self { since_snapshot, ..host })
    }

    /// Decides about an event before `process` is called. A duplicate is counted.
    pub fn admit(&mut self, key: EventKey) -> Admission {
        let admission = ingress::admit(&self.cursors, self.config.delivery, key);
        if matches!(admission, Admission::Duplicate { .. }) {
            self.stats.duplicates += 1;
        }
        admission
    }

    /// Decides about an event of a linked stream, which names the number that was sent before it. A duplicate is counted.
    pub fn admit_linked(&mut self, key: EventKey, prev: u64) -> inflow::Admission {
        let admission = inflow::admit(&self.cursors, key, prev);
        if matches!(
            admission,
            inflow::Admission::Duplicate(_) | inflow::Admission::Stale { .. }
        ) {
            self.stats.duplicates += 1;
        }
        admission
    }

    /// Whether a snapshot must be taken before one more input, because as many are kept as may be.
    #[must_use]
    pub fn log_is_full(&self) -> bool {
        self.since_snapshot >= u64::from(self.config.max_log_entries)
    }

    /// Whether a snapshot is due after the event that was just processed.
    #[must_use]
    pub fn snapshot_is_due(&self) -> bool {
        let interval = self.config.auto_snapshot_interval;
        interval > 0 && self.since_snapshot >= interval
    }

    /// Takes what `process` returned into effect: cursor, counters and one link for each output, all or nothing.
    ///
    /// `emitted` makes each output's event, in order, of its link, the digest of the chain up to it, and the output.
    ///
    /// # Errors
    /// [`ChainError::Exhausted`]: the chain has no numbers left; nothing changed but the error counter.
    pub fn returned<P: AsRef<[u8]>, E>(
        &mut self,
        key: EventKey,
        outputs: Few<P>,
        mut emitted: impl FnMut(CausalLink, Digest, P) -> E,
    ) -> Result<Few<E>, ChainError> {
        if u64::MAX - self.chain.sequence() < outputs.len() as u64 {
            self.stats.errors += 1;
            return Err(ChainError::Exhausted {
                origin: self.chain.origin(),
            });
        }
        self.cursors.advance(key.origin, key.stream, key.sequence);
        self.stats.events_processed += 1;
        self.since_snapshot += 1;
        if outputs.is_empty() {
            return Ok(Few::new());
        }
        self.stats.events_emitted += outputs.len() as u64;
        let horizon = self.cursors.sketch();
        let chain = &mut self.chain;
        let link_one = |output: P| {
            let link = chain.append(output.as_ref(), horizon)?;
            Ok(emitted(link, chain.digest(), output))
        };
        outputs.into_iter().map(link_one).collect()
    }

    /// Passes over an event that failed too often: its cursor moves, and nothing else happens. Returns the number of its
    /// dead letter.
    pub fn passed_over(&mut self, key: EventKey) -> u64 {
        self.cursors.advance(key.origin, key.stream, key.sequence);
        self.stats.dead_letters += 1;
        self.stats.dead_letters
    }

    /// Makes the receipt of an event that was just taken into effect, and keeps it for repeated tries.
    pub fn receipt(&mut self, key: EventKey) -> Receipt {
        let receipt = Receipt {
            sequence: key.sequence,
            epoch: self.epoch,
            processed: self.stats.events_processed,
            position: self.chain.sequence(),
            digest: self.chain.digest(),
        };
        self.cursors.keep_receipt(key.origin, key.stream, receipt);
        receipt
    }

    /// Counts an error of user code; nothing else changes.
    pub fn raised(&mut self) {
        self.stats.errors += 1;
    }

    /// Counts that user code was rebuilt from the newest snapshot and the inputs since.
    pub fn restarted(&mut self) {
        self.stats.restarts += 1;
    }

    /// Everything of a snapshot but the state; counts it as taken. The state was read at this very position.
    pub fn snapshot(&mut self, kind: String, schema: u32, at: UnixMs) -> SnapshotMeta {
        self.stats.snapshots_taken += 1;
        self.since_snapshot = 0;
        self.meta(kind, schema, at)
    }

    /// As [`Host::snapshot`], of a snapshot that travels and is not kept here: it is not counted.
    #[must_use]
    pub fn meta(&self, kind: String, schema: u32, at: UnixMs) -> SnapshotMeta {
        SnapshotMeta {
            kind,
            schema,
            entity: self.chain.entity(),
            epoch: self.epoch,
            taken_at: at,
            head: self.chain.head(),
            digest: self.chain.digest(),
            cursors: self.cursors.clone(),
            stats: self.stats,
            bindings: self.bindings.clone(),
            lineage: self.lineage.clone(),
        }
    }

    /// Whether the newest span still lacks its certificate.
    #[must_use]
    pub fn owes_certificate(&self) -> bool {
        self.owed.is_some()
    }

    /// Whether what it owes can be signed by the node that spoke before: it goes on where that node went on.
    #[must_use]
    pub fn owes_restart_by(&self, node: EntityId) -> bool {
        matches!(self.owed, Some((Reason::Restart, ..))) && self.certified_node() == Some(node)
    }

    /// Signs the certificate that the newest span lacks, if it does.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`]: there is no key to sign with.
    pub fn certify(&mut self, key: &Keypair, node: EntityId) -> Result<(), IdentityError> {
        if let Some((reason, from_sequence, digest)) = self.owed {
            let entity = self.chain.entity();
            let statement = Statement {
                entity,
                epoch: self.epoch,
                node,
                from_sequence,
                digest,
                reason,
            };
            self.lineage.push(Certificate::sign(statement, key)?);
            self.owed = None;
        }
        Ok(())
    }

    /// The epoch in which the chain last went back; 0: it never did.
    #[must_use]
    pub fn went_back_in(&self) -> u64 {
        let goes_back = |reason| matches!(reason, Reason::Restart | Reason::Takeover);
        if self.owed.is_some_and(|(reason, ..)| goes_back(reason)) {
            return self.epoch;
        }
        let mut spans = self.lineage.iter().rev();
        let last = spans.find(|certificate| goes_back(certificate.reason));
        last.map_or(0, |certificate| certificate.epoch)
    }

    /// Node named by the newest certificate.
    #[must_use]
    pub fn certified_node(&self) -> Option<EntityId> {
        self.lineage.last().map(|certificate| certificate.node)
    }

    /// Who could speak for this entity, oldest first.
    #[must_use]
    pub fn lineage(&self) -> &[Certificate] {
        &self.lineage
    }

    /// How far it has come.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            sequence: self.chain.sequence(),
            digest: self.chain.digest(),
            processed: self.stats.events_processed,
        }
    }

    /// What others may know of it.
    #[must_use]
    pub fn view(&self) -> HostView {
        HostView {
            head: self.chain.head(),
            digest: self.chain.digest(),
            epoch: self.epoch,
            stats: self.stats,
            subscriptions: u32::try_from(self.bindings.len()).unwrap_or(u32::MAX),
        }
    }

    /// The entity whose chain this is.
    #[must_use]
    pub fn entity(&self) -> EntityId {
        self.chain.entity()
    }

    /// Its handle.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.chain.origin()
    }

    /// Term of ownership.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What it has seen.
    #[must_use]
    pub fn cursors(&self) -> &Cursors {
        &self.cursors
    }

    /// The subscription ledger.
    #[must_use]
    pub fn bindings(&self) -> &DaemonBindings {
        &self.bindings
    }

    /// The subscription ledger, to change it.
    pub fn bindings_mut(&mut self) -> &mut DaemonBindings {
        &mut self.bindings
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> DaemonStats {
        self.stats
    }

    /// The options.
    #[must_use]
    pub fn config(&self) -> &DaemonHostConfig {
        &self.config
    }
}
