//! `Continuity` and `Span`: what can be said of a chain, and who spoke for it when.

#![allow(clippy::wrong_self_convention, reason = "a span goes from one sequence to another")]

use meshos_core::certificate::Reason;
use meshos_core::continuity::{Anchor, Continuity, Span};
use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use pyo3::prelude::*;

use crate::record::record;
use crate::record::union::union;
use crate::record::word::literal;

literal! {
    Anchor {
        Genesis = "genesis",
        Fork = "fork",
        Certificate = "certificate",
        Checkpoint = "checkpoint",
    }
}

literal! {
    Reason {
        Spawn = "spawn",
        Move = "move",
        Restart = "restart",
        Takeover = "takeover",
    }
}

record! {
    /// One node's time as the speaker of a chain, with the digests at both ends.
    pub struct PySpan in "meshos.store" as "Span", by keyword {
        /// Term of ownership.
        epoch: u64,
        /// Who spoke.
        node: EntityId,
        /// Why it began.
        reason: Reason,
        /// Last event before it.
        from_sequence: u64,
        /// Digest of the chain there.
        from_digest: Digest,
        /// Last of its events that stands; `from_sequence` if none does.
        to_sequence: u64,
        /// Digest of the chain there.
        to_digest: Digest,
        /// Sequence from which the next record declared this span rolled back.
        rolled_back_from: Option<u64>,
    }
}

impl PySpan {
    /// Shows a span to Python.
    pub fn new(span: &Span) -> Self {
        Self {
            epoch: span.epoch,
            node: span.node,
            reason: span.reason,
            from_sequence: span.from.sequence,
            from_digest: span.from.digest,
            to_sequence: span.to.sequence,
            to_digest: span.to.digest,
            rolled_back_from: span.rolled_back_from,
        }
    }
}

record! {
    /// A chain is whole, and certain.
    pub struct PyContinuous in "meshos.store" as "Continuous", kind "continuous" {
        /// Digest before its first event.
        genesis: Digest,
        /// Its last event.
        head_sequence: u64,
        /// Digest there.
        head_digest: Digest,
        /// What makes it certain.
        anchor: Anchor,
        /// Where that is.
        anchored_at: u64,
        /// Highest sequence that a checkpoint covers; 0 if none does.
        signed_through: u64,
    }
}

record! {
    /// A chain is whole and certain, and a node handed it on to another.
    pub struct PyMigrated in "meshos.store" as "Migrated", kind "migrated" {
        /// Digest before its first event.
        genesis: Digest,
        /// Its last event.
        head_sequence: u64,
        /// Digest there.
        head_digest: Digest,
        /// What makes it certain.
        anchor: Anchor,
        /// Where that is.
        anchored_at: u64,
        /// Highest sequence that a checkpoint covers; 0 if none does.
        signed_through: u64,
        /// Term that began with the newest change of nodes.
        epoch: u64,
        /// Last event before that.
        sequence: u64,
        /// Who spoke before.
        source: EntityId,
        /// Who spoke after.
        target: EntityId,
    }
}

record! {
    /// A chain is another one from an event on.
    pub struct PyForked in "meshos.store" as "Forked", kind "forked" {
        /// First event of which two histories are told; 0: their beginnings differ.
        sequence: u64,
        /// Digest that should be there.
        expected: Digest,
        /// Digest that is there.
        found: Digest,
    }
}

record! {
    /// Events of a chain are missing, so it cannot be said.
    pub struct PyUnverifiable in "meshos.store" as "Unverifiable", kind "unverifiable" {
        /// Everything up to it is certain; 0: nothing is.
        last_verified: u64,
        /// First event that is missing.
        gap_start: u64,
    }
}

union! {
    /// What can be said of a chain.
    pub enum PyContinuity, "a Continuity" {
        Continuous(PyContinuous),
        Migrated(PyMigrated),
        Forked(PyForked),
        Unverifiable(PyUnverifiable),
    }
}

impl PyContinuity {
    /// Shows a finding to Python.
    pub fn new(found: &Continuity) -> Self {
        match *found {
            Continuity::Continuous {
                genesis,
                head,
                anchor,
                anchored_at,
                signed_through,
            } => PyContinuous {
                genesis,
                head_sequence: head.sequence,
                head_digest: head.digest,
                anchor,
                anchored_at,
                signed_through,
            }
            .into(),
            Continuity::Migrated {
                genesis,
                head,
                anchor,
                anchored_at,
                signed_through,
                epoch,
                sequence,
                source,
                target,
            } => PyMigrated {
                genesis,
                head_sequence: head.sequence,
                head_digest: head.digest,
                anchor,
                anchored_at,
                signed_through,
                epoch,
                sequence,
                source,
                target,
            }
            .into(),
            Continuity::Forked {
                sequence,
                expected,
                found,
            } => PyForked {
                sequence,
                expected,
                found,
            }
            .into(),
            Continuity::Unverifiable {
                last_verified,
                gap_start,
            } => PyUnverifiable {
                last_verified,
                gap_start,
            }
            .into(),
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PySpan>()?;
    module.add_class::<PyContinuous>()?;
    module.add_class::<PyMigrated>()?;
    module.add_class::<PyForked>()?;
    module.add_class::<PyUnverifiable>()
}
