//! Installing a daemon that is in standby: the rows of it that are kept, in one commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshos_core::id::EntityId;
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::journal as core_journal;
use meshos_core::ownership::OwnershipRecord;
use meshos_core::retention::OutputsHeld;
use meshos_core::rows::{KeyRange, Table, Write, entity_key};
use meshos_core::source;
use meshos_core::store::StoreError;
use meshos_core::stored::SealedKey;
use meshos_core::time::UnixMs;
use thiserror::Error;

use super::{Standby, last_number};
use crate::daemon::Daemon;
use crate::journal::{Journal, Rows, Stores};
use crate::resumption::each;
use crate::{clock, keys};

/// What a store has of a daemon, except who may speak for it and what became of its moves.
const OWN: [Table; 8] = [
    Table::Daemons,
    Table::Journal,
    Table::Outputs,
    Table::Snapshots,
    Table::Checkpoints,
    Table::DeadLetters,
    Table::Outbox,
    Table::Streams,
];

/// A standby cannot be installed as it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotInstalled {
    /// The record does not give this daemon, as it stands, to this node.
    #[error("the record does not fit: {0}")]
    Record(&'static str),
    /// The key of the node cannot seal that of the daemon.
    #[error(transparent)]
    Key(#[from] IdentityError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<D: Daemon> Standby<D> {
    /// Puts it under the record that gives it to this node, and returns all rows of it that are to be kept, in one commit: what
    /// the store had of it goes. After that commit it may go live. May be called again if the commit failed.
    ///
    /// # Errors
    /// [`NotInstalled`]: it is as it was.
    pub fn install(
        &mut self,
        lineage: &[OwnershipRecord],
        record: &OwnershipRecord,
        stores: &Stores,
        node: &Keypair,
    ) -> Result<Vec<Write>, NotInstalled> {
        let (entity, certificate) = (self.inside.host.entity(), record.certificate);
        let begins = (certificate.from_sequence, certificate.digest);
        if (record.entity(), record.node()) != (entity, node.entity_id()) {
            return Err(NotInstalled::Record("it is of another daemon or node"));
        }
        if begins != (self.frozen.sequence, self.frozen.head) || record.epoch() < self.inside.host.epoch() {
            return Err(NotInstalled::Record("it begins elsewhere"));
        }
        let sealed = {
            let key = self.key.lock();
            // Of what is not kept nothing is read again.
            let whole = !key.is_read_only() && self.is_kept();
            whole.then(|| SealedKey::seal(&key, node, keys::random_bytes()))
        };
        self.stored.key = sealed.transpose()?;
        let old = D::apart(|| old(stores, &entity))?;
        let mut host = self.inside.host.clone();
        for before in lineage.iter().filter(|before| before.epoch() < record.epoch()) {
            host = host.certified(before.certificate);
        }
        self.inside.host = host.under(certificate);
        let mut writes: Vec<Write> = lineage.iter().map(OwnershipRecord::write).collect();
        writes.push(record.write());
        if self.is_kept() {
            self.keep(stores, &mut writes);
        }
        let new: BTreeSet<_> = writes.iter().map(|row| (row.table, row.key.clone())).collect();
        let gone = old.into_iter().filter(|place| !new.contains(place));
        writes.extend(gone.map(|(table, key)| Write::remove(table, key)));
        Ok(writes)
    }

    /// Begins its journal, and adds what the store has to have of it.
    fn keep(&mut self, stores: &Stores, writes: &mut Vec<Write>) {
        let entity = self.inside.host.entity();
        writes.push(self.stored.write(&entity));
        writes.push(self.base.write(&entity));
        for certificate in self.inside.host.lineage() {
            let key = entity_key(&entity, [certificate.epoch]);
            writes.push(Write::put(Table::Certificates, key, certificate.to_bytes().to_vec()));
        }
        let (keeps_steps, now) = (self.keeps_steps(), clock::unix_ms());
        let mut held = Rows {
            snapshots: vec![self.base],
            ..Rows::default()
        };
        for row in &self.rows {
            // Of outputs and of what is due there are rows only where there are steps.
            if !keeps_steps && matches!(row.table, Table::Journal | Table::Outputs | Table::Outbox) {
                continue;
            }
            if row.table == Table::Journal {
                held.steps.push_back(last_number(&row.key));
            }
            held.outputs.extend(held_in(row, now));
            writes.push(row.clone());
        }
        if self.images().1.is_some() {
            // That in the first snapshot is of before.
            writes.push(source::ledger(&entity, self.inside.host.bindings()));
        }
        let (stores, stored) = (Arc::clone(stores), self.stored.clone());
        let epoch = self.inside.host.epoch();
        let journal = Journal::after(entity, stores, stored, self.mark, epoch, held);
        self.inside.journal = Some(Box::new(journal));
    }
}

fn held_in(row: &Write, at: UnixMs) -> Option<OutputsHeld> {
    let value = row.value.as_ref().filter(|_| row.table == Table::Outputs)?;
    Some(OutputsHeld {
        first: last_number(&row.key),
        count: core_journal::outputs_in(value)?,
        bytes: value.len() as u64,
        at,
    })
}

/// The rows that a store has of a daemon from an earlier time.
fn old(stores: &Stores, entity: &EntityId) -> Result<Vec<(Table, Vec<u8>)>, StoreError> {
    let (store, mut rows) = (stores(), Vec::new());
    for table in OWN {
        let own = KeyRange::beginning_with(entity.as_bytes());
        each(&*store, table, own, |key, _| rows.push((table, key.to_vec())))?;
    }
    Ok(rows)
}
