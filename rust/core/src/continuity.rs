//! Decision: is a chain whole, what makes that certain, and who spoke for it when.
//!
//! Invariants
//! * Everything is compared by 32-byte digests. A digest that is certain makes everything certain that it was made of, so
//!   a chain whose beginning was let go is proven by any signed digest within it.
//! * A chain is certain from its genesis, which follows from the entity alone, or for a fork from its record; or from what
//!   a certificate or a checkpoint of the surviving line says. Records are judged as [`verify`] does.
//! * A hole is never passed over, and nothing is mended.

use std::collections::BTreeMap;

use crate::certificate::{Certificate, Reason};
use crate::chain::ChainError;
use crate::checkpoint::Checkpoint;
use crate::digest::{self, Digest};
use crate::fork::ForkRecord;
use crate::id::EntityId;
use crate::link::CausalLink;
use crate::verify::{self, OwnerSpan, Vouched};

/// A position of a chain, and its digest there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The last event up to it.
    pub sequence: u64,
    /// Digest after that event.
    pub digest: Digest,
}

/// Where the chain of an entity begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Genesis {
    entity: EntityId,
    lineage: Digest,
}

impl Genesis {
    /// Of an entity that is no fork.
    #[must_use]
    pub const fn of(entity: EntityId) -> Self {
        Self {
            entity,
            lineage: Digest::ZERO,
        }
    }

    /// Of the child of a fork.
    ///
    /// # Errors
    /// [`ChainError::BadSignature`]: the record is not signed by both.
    pub fn of_fork(record: &ForkRecord) -> Result<Self, ChainError> {
        record.verify()?;
        Ok(Self {
            entity: record.child,
            lineage: record.lineage(),
        })
    }

    /// Whose chain it is.
    #[must_use]
    pub const fn entity(&self) -> EntityId {
        self.entity
    }

    /// Whether the chain is that of a fork.
    #[must_use]
    pub fn is_fork(&self) -> bool {
        self.lineage != Digest::ZERO
    }

    /// Before the first event.
    #[must_use]
    pub fn point(&self) -> Point {
        Point {
            sequence: 0,
            digest: digest::genesis(&self.entity, &self.lineage),
        }
    }
}

/// What makes a chain certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anchor {
    /// Its genesis, which follows from the entity.
    Genesis,
    /// The record of its fork.
    Fork,
    /// Where a certificate begins.
    Certificate,
    /// A checkpoint.
    Checkpoint,
}

/// One node's time as the speaker of a chain, with the digests at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Term of ownership.
    pub epoch: u64,
    /// Key of the node.
    pub node: EntityId,
    /// Why it began.
    pub reason: Reason,
    /// Before its first event.
    pub from: Point,
    /// After its last event that stands; the same as `from` if none does.
    pub to: Point,
    /// What it emitted after this sequence was declared rolled back.
    pub rolled_back_from: Option<u64>,
}

/// What is certain of a chain: where it begins, and what its signed records say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchors {
    genesis: Genesis,
    certificates: Vec<Certificate>,
    vouched: Vouched,
}

impl Anchors {
    /// Judges the signed records of a chain: certificates in epoch order, checkpoints in any.
    ///
    /// # Errors
    /// The first of: a bad certificate, a bad checkpoint, two of them that disagree.
    pub fn judge(
        genesis: Genesis,
        certificates: Vec<Certificate>,
        checkpoints: Vec<Checkpoint>,
    ) -> Result<Self, ChainError> {
        let vouched = if certificates.is_empty() && checkpoints.is_empty() {
            Vouched {
                digests: BTreeMap::new(),
                signed_through: 0,
            }
        } else {
            verify::vouched(&genesis.entity, &certificates, &Checkpoint::in_order(checkpoints))?
        };
        Ok(Self {
            genesis,
            certificates,
            vouched,
        })
    }

    /// The digest that a signed record names at a position.
    #[must_use]
    pub fn vouched_at(&self, sequence: u64) -> Option<Digest> {
        self.vouched.digests.get(&sequence).copied()
    }

    /// The signed positions up to one, the highest first.
    pub fn vouched_up_to(&self, sequence: u64) -> impl Iterator<Item = Point> {
        let below = self.vouched.digests.range(..=sequence).rev();
        below.map(|(&sequence, &digest)| Point { sequence, digest })
    }

    /// Who could speak, by ascending epoch, for a chain that ends at `head`.
    #[must_use]
    pub fn spans(&self, head: Point) -> Vec<Span> {
        let spans = verify::owners(&self.certificates, head.sequence);
        let span = |(certificate, span): (&Certificate, OwnerSpan)| {
            let from = Point {
                sequence: certificate.from_sequence,
                digest: certificate.digest,
            };
            let last = span.last_sequence;
            // A span ends where it began, where a later one begins, or with the chain.
            let ends = self.certificates.iter().find(|later| later.from_sequence == last);
            let to = match ends {
                _ if last == from.sequence => from,
                Some(later) => Point {
                    sequence: last,
                    digest: later.digest,
                },
                None => head,
            };
            Span {
                epoch: span.epoch,
                node: span.node,
                reason: certificate.reason,
                from,
                to,
                rolled_back_from: span.rolled_back_from,
            }
        };
        self.certificates.iter().zip(spans).map(span).collect()
    }

    /// Before the first event: what the spawn certificate says, or what follows from entity and fork record.
    fn first(&self) -> Point {
        let own = self.genesis.point();
        match self.vouched_at(0) {
            Some(digest) if !self.genesis.is_fork() => Point { sequence: 0, digest },
            _ => own,
        }
    }

    fn kind_at(&self, point: Point) -> Anchor {
        let is_it = |certificate: &Certificate| {
            certificate.from_sequence == point.sequence && certificate.digest == point.digest
        };
        if point == self.genesis.point() {
            if self.genesis.is_fork() {
                Anchor::Fork
            } else {
                Anchor::Genesis
            }
        } else if self.certificates.iter().any(is_it) {
            Anchor::Certificate
        } else {
            Anchor::Checkpoint
        }
    }

    /// The last change of nodes: the epoch that began with it, and both nodes.
    fn newest_move(&self) -> Option<(&Certificate, EntityId)> {
        let pairs = self.certificates.iter().zip(self.certificates.iter().skip(1));
        let mut moves = pairs.filter(|(before, after)| before.node != after.node);
        moves.next_back().map(|(before, after)| (after, before.node))
    }
}

/// What can be said of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// It is whole, and certain.
    Continuous {
        /// Digest before its first event.
        genesis: Digest,
        /// Where it ends.
        head: Point,
        /// What makes it certain.
        anchor: Anchor,
        /// Where that is.
        anchored_at: u64,
        /// Highest sequence that a checkpoint covers; 0 if none does.
        signed_through: u64,
    },
    /// It is whole and certain, and a node handed it on to another.
    Migrated {
        /// Digest before its first event.
        genesis: Digest,
        /// Where it ends.
        head: Point,
        /// What makes it certain.
        anchor: Anchor,
        /// Where that is.
        anchored_at: u64,
        /// Highest sequence that a checkpoint covers; 0 if none does.
        signed_through: u64,
        /// Term that began with the newest change of nodes.
        epoch: u64,
        /// Last event before it.
        sequence: u64,
        /// Who spoke before.
        source: EntityId,
        /// Who spoke after.
        target: EntityId,
    },
    /// It is another one from an event on.
    Forked {
        /// The first event of which two histories are told; 0: their beginnings differ.
        sequence: u64,
        /// Digest that should be there: before the event, or after it where a signed record names it.
        expected: Digest,
        /// Digest that is there.
        found: Digest,
    },
    /// Events are missing, so it cannot be said.
    Unverifiable {
        /// Everything up to it is certain; 0: nothing is.
        last_verified: u64,
        /// First event that is missing.
        gap_start: u64,
    },
}

impl Continuity {
    /// Whether the chain is whole and certain.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        matches!(self, Self::Continuous { .. } | Self::Migrated { .. })
    }
}

/// Goes along a chain, row by row, and compares it with what is certain.
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    anchors: &'a Anchors,
    at: Point,
    anchored: Option<Point>,
    found: Option<Continuity>,
}

impl<'a> Walk<'a> {
    /// Begins where the events that are kept begin.
    #[must_use]
    pub fn begin(anchors: &'a Anchors, base: Point) -> Self {
        let mut walk = Self {
            anchors,
            at: base,
            anchored: None,
            found: None,
        };
        let first = anchors.first();
        match anchors.vouched_at(0) {
            // The record of the fork and the spawn certificate name two beginnings.
            Some(digest) if digest != first.digest => walk.fork(0, first.digest, digest),
            _ if base.sequence == 0 && base.digest != first.digest => walk.fork(1, first.digest, base.digest),
            _ if base.sequence == 0 => walk.anchored = Some(base),
            _ => walk.compare(base),
        }
        walk
    }

    /// Where it is.
    #[must_use]
    pub const fn at(&self) -> Point {
        self.at
    }

    /// Whether what was found ends it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.found.is_some()
    }

    /// Goes on over events that follow on each other from `before` to `after`, which their reader checked.
    pub fn row(&mut self, before: Point, events: &[(CausalLink, &[u8])], after: Point) {
        if self.is_over() {
            return;
        }
        if before.sequence != self.at.sequence {
            return self.gap();
        }
        if before.digest != self.at.digest {
            return self.fork(before.sequence.saturating_add(1), self.at.digest, before.digest);
        }
        let inside = before.sequence.saturating_add(1)..after.sequence;
        if !inside.is_empty() && self.anchors.vouched.digests.range(inside).next().is_some() {
            let mut at = before;
            for (link, payload) in events {
                at = Point {
                    sequence: at.sequence + 1,
                    digest: digest::event(&at.digest, &link.to_bytes(), payload),
                };
                if at.sequence < after.sequence {
                    self.compare(at);
                }
            }
        }
        if !self.is_over() {
            self.compare(after);
            self.at = after;
        }
    }

    /// Ends it where the events end. `last` is where the owner of the events says that they do, if it says so.
    #[must_use]
    pub fn end(mut self, last: Option<Point>) -> Continuity {
        let signed = self.anchors.vouched.digests.last_key_value();
        let reaches = signed.map_or(0, |(sequence, _)| *sequence);
        let reaches = reaches.max(last.map_or(0, |last| last.sequence));
        match last {
            _ if self.is_over() => {}
            Some(last) if last.sequence == self.at.sequence && last.digest != self.at.digest => {
                self.fork(last.sequence, last.digest, self.at.digest);
            }
            _ if reaches > self.at.sequence => self.gap(),
            _ => {}
        }
        if let Some(found) = self.found {
            return found;
        }
        let Some(anchored) = self.anchored else {
            return Continuity::Unverifiable {
                last_verified: 0,
                gap_start: 1,
            };
        };
        let (genesis, head) = (self.anchors.first().digest, self.at);
        let (anchor, anchored_at) = (self.anchors.kind_at(anchored), anchored.sequence);
        let signed_through = self.anchors.vouched.signed_through;
        match self.anchors.newest_move() {
            None => Continuity::Continuous {
                genesis,
                head,
                anchor,
                anchored_at,
                signed_through,
            },
            Some((after, source)) => Continuity::Migrated {
                genesis,
                head,
                anchor,
                anchored_at,
                signed_through,
                epoch: after.epoch,
                sequence: after.from_sequence,
                source,
                target: after.node,
            },
        }
    }

    /// Compares a digest that was computed with the signed one, if there is one.
    fn compare(&mut self, at: Point) {
        match self.anchors.vouched_at(at.sequence) {
            _ if self.is_over() => {}
            Some(digest) if digest != at.digest => self.fork(at.sequence, digest, at.digest),
            Some(_) if self.anchored.is_none() => self.anchored = Some(at),
            _ => {}
        }
    }

    const fn fork(&mut self, sequence: u64, expected: Digest, found: Digest) {
        self.found = Some(Continuity::Forked {
            sequence,
            expected,
            found,
        });
    }

    const fn gap(&mut self) {
        let last_verified = if self.anchored.is_some() { self.at.sequence } else { 0 };
        self.found = Some(Continuity::Unverifiable {
            last_verified,
            gap_start: self.at.sequence.saturating_add(1),
        });
    }
}
