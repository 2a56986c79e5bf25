//! What a store keeps of channels: statements about tokens.
//!
//! Invariants
//! * A statement is kept before it has an effect, so that no restart undoes it.

use meshos_core::revocation::{Revocation, Revocations};
use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::store::{Batch, StoreError};

use crate::clock::{self, Deadline};
use crate::commit::Waited;
use crate::keeping::{self, Stores};
use crate::resumption;

const REVOCATION: &[u8] = b"revocation/";

fn row(revocation: &Revocation) -> Write {
    let bytes = revocation.to_bytes();
    // Issuer, what is taken back, and of what sort it is: a later statement about the same takes the place of this one.
    let key = [REVOCATION, &bytes[1..66]].concat();
    Write::put(Table::Node, key, bytes)
}

/// Reads the statements that a store has. What cannot be read, or is not signed, is none.
///
/// # Errors
/// [`StoreError`]: the store cannot be read.
pub fn revocations(stores: &Stores) -> Result<Revocations, StoreError> {
    let mut known = Revocations::default();
    let range = KeyRange::beginning_with(REVOCATION);
    resumption::each(&*stores(), Table::Node, range, |_, value| {
        if let Ok(revocation) = Revocation::decode(value) {
            let _ = known.add(&revocation);
        }
    })?;
    known.forget(clock::unix_ms());
    Ok(known)
}

/// Keeps a statement; waits on this thread until the store has it.
///
/// # Errors
/// [`StoreError`]: it is not kept.
pub fn keep(stores: &Stores, revocation: &Revocation) -> Result<(), StoreError> {
    let mut store = stores();
    let batch = Batch {
        term: store.term(),
        writes: vec![row(revocation)],
    };
    let commit = keeping::submit(&mut *store, batch, None);
    match commit.wait(Deadline::never(), &mut || false) {
        Waited::Settled(outcome) => outcome,
        Waited::TimedOut | Waited::Interrupted => Err(StoreError::Closed),
    }
}
