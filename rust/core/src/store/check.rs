//! Checks everything that a store has: every row, every binding between rows, every file of a snapshot.
//!
//! Invariants
//! * The first bad place ends it, and is named. Nothing is repaired.
//! * Rows are read in pages: what is checked need not fit into memory.

use std::collections::BTreeMap;

use crate::certificate::Certificate;
use crate::chain::ChainError;
use crate::checkpoint::Checkpoint;
use crate::codec::DecodeError;
use crate::dead_letter::DeadLetter;
use crate::digest::Digest;
use crate::due::Due;
use crate::id::EntityId;
use crate::image;
use crate::journal::{self, Emitted, Mark, SnapshotRow};
use crate::move_rows::{Item, Prepared};
use crate::resumption::Replay;
use crate::rows::{KeyRange, Table, of_entity_key};
use crate::sender;
use crate::store::{Damage, Store, StoreError};
use crate::stored::StoredDaemon;
use crate::verify;

/// Rows read at once.
const PAGE: usize = 1024;

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Daemons that the store knows.
    pub daemons: u64,
    /// Steps.
    pub steps: u64,
    /// Outputs.
    pub outputs: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Certificates and checkpoints.
    pub signed: u64,
}

/// Checks everything of every daemon, what senders reserved, and what moves have decided.
///
/// # Errors
/// [`StoreError::Damaged`] with the first bad place, or why the store cannot be read.
pub fn check(store: &dyn Store) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    reservations(store)?;
    moves(store)?;
    let mut range = KeyRange::all();
    loop {
        let page = store.page(Table::Daemons, &range, PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(checked);
        };
        range = range.after(last);
        for (key, value) in &page {
            let Some((entity, [])) = of_entity_key::<0>(key) else {
                return Err(Damage::BadKey { table: Table::Daemons }.into());
            };
            StoredDaemon::decode(value).map_err(|error| bad(Table::Daemons, entity, 0, error))?;
            checked.daemons += 1;
            Daemon {
                store,
                entity,
                checked: &mut checked,
            }
            .check()?;
        }
    }
}

fn reservations(store: &dyn Store) -> Result<(), StoreError> {
    let mut range = KeyRange::beginning_with(sender::RESERVATIONS);
    loop {
        let page = store.page(Table::Node, &range, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        range = range.after(last);
        for (name, value) in &page {
            let Some(of) = sender::of_reservation_name(name) else {
                return Err(Damage::BadKey { table: Table::Node }.into());
            };
            sender::reserved(value).map_err(|error| bad(Table::Node, of, 0, error))?;
        }
    }
}

/// Checks that rows of moves can be read, and that the image of a target in doubt is there and is what it names.
fn moves(store: &dyn Store) -> Result<(), StoreError> {
    let mut range = KeyRange::all();
    loop {
        let page = store.page(Table::Moves, &range, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        range = range.after(last);
        for (key, value) in &page {
            let Some((entity, _)) = key.split_first_chunk() else {
                return Err(Damage::BadKey { table: Table::Moves }.into());
            };
            let entity = EntityId::from_bytes(*entity);
            let read = Item::decode(key, value).map_err(|error| bad(Table::Moves, entity, 0, error))?;
            if let (.., Item::Prepared(prepared)) = read {
                image_of(store, &prepared)?;
            }
        }
    }
}

fn image_of(store: &dyn Store, prepared: &Prepared) -> Result<(), StoreError> {
    let (entity, frozen) = (prepared.order.entity, &prepared.frozen);
    let bytes = store.fetch(&frozen.image, prepared.image_bytes)?;
    let damaged = |name| StoreError::Damaged(Damage::Snapshot { name });
    let apart = StoreError::Damaged(Damage::Apart {
        table: Table::Moves,
        entity,
        number: 0,
    });
    let image = image::decode(&bytes).map_err(|_| damaged(frozen.image))?;
    let meta = &image.meta;
    if (meta.entity, meta.head.sequence, meta.digest) != (entity, frozen.sequence, frozen.head) {
        return Err(apart);
    }
    let Some(copy) = image.baggage.copy else { return Ok(()) };
    let bytes = store.fetch(&copy, u64::MAX)?;
    let (before, _) = image::read_snapshot(&bytes, u64::MAX).map_err(|_| damaged(copy))?;
    if before.entity != entity || before.head.sequence > frozen.sequence {
        return Err(apart);
    }
    Ok(())
}

fn bad(table: Table, entity: EntityId, number: u64, error: DecodeError) -> StoreError {
    StoreError::Damaged(Damage::Row {
        table,
        entity,
        number,
        error,
    })
}

struct Daemon<'a> {
    store: &'a dyn Store,
    entity: EntityId,
    checked: &'a mut Checked,
}

impl Daemon<'_> {
    fn check(mut self) -> Result<(), StoreError> {
        let (snapshots, lineage) = self.snapshots()?;
        let last = self.steps(&snapshots)?;
        let outputs = self.outputs()?;
        // Old outputs are let go, but never those after the newest snapshot, so they end where the steps end.
        let emitted = last.map_or(0, |last| last.sequence);
        let kept = snapshots.last().map_or(0, |newest| newest.mark.sequence);
        match (last, outputs) {
            (Some(last), Some(end)) if end == (last.sequence, last.digest) => {}
            (_, None) if emitted == kept => {}
            _ => return Err(self.apart(Table::Outputs, emitted)),
        }
        let certificates = self.certificates(lineage)?;
        self.checkpoints(&certificates)?;
        self.due()?;
        self.dead_letters()
    }

    fn apart(&self, table: Table, number: u64) -> StoreError {
        StoreError::Damaged(Damage::Apart {
            table,
            entity: self.entity,
            number,
        })
    }

    /// Shows each row of a table with the numbers of its key, ascending.
    fn each<const N: usize>(
        &self,
        table: Table,
        mut see: impl FnMut([u64; N], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut range = KeyRange::beginning_with(self.entity.as_bytes());
        loop {
            let page = self.store.page(table, &range, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            range = range.after(last);
            for (key, value) in &page {
                let Some((_, numbers)) = of_entity_key::<N>(key) else {
                    return Err(Damage::BadKey { table }.into());
                };
                see(numbers, value)?;
            }
        }
    }

    /// Returns the rows, and the certificates in the files.
    fn snapshots(&mut self) -> Result<(Vec<SnapshotRow>, Vec<Certificate>), StoreError> {
        let (mut rows, mut lineage) = (Vec::new(), Vec::new());
        self.each(Table::Snapshots, |[step], value| {
            let row = SnapshotRow::decode(value).map_err(|error| bad(Table::Snapshots, self.entity, step, error))?;
            if row.mark.step != step {
                return Err(self.apart(Table::Snapshots, step));
            }
            let damaged = StoreError::Damaged(Damage::Snapshot { name: row.name });
            let bytes = self.store.fetch(&row.name, row.size)?;
            let (meta, _) = image::read_snapshot(&bytes, row.size).map_err(|_| damaged)?;
            let of_row = (row.mark.sequence, row.mark.digest, row.processed, row.epoch);
            let of_file = (meta.head.sequence, meta.digest, meta.stats.events_processed, meta.epoch);
            if meta.entity != self.entity || of_row != of_file {
                return Err(self.apart(Table::Snapshots, step));
            }
            rows.push(row);
            lineage.extend(meta.lineage);
            Ok(())
        })?;
        self.checked.snapshots += rows.len() as u64;
        Ok((rows, lineage))
    }

    /// Checks that steps follow on each other, and on the snapshots among them; returns where they end.
    fn steps(&mut self, snapshots: &[SnapshotRow]) -> Result<Option<Mark>, StoreError> {
        let mut replay: Option<Replay> = None;
        let mut waiting = snapshots.iter().peekable();
        let mut steps = 0;
        self.each(Table::Journal, |[first], value| {
            let row = journal::Steps::decode(value).map_err(|error| journal::Damage::Unreadable {
                entity: self.entity,
                step: first,
                error,
            });
            let row = row.map_err(Damage::Journal)?;
            if first == 1 && row.before.binding != Mark::start(&self.entity, 0, Digest::ZERO).binding {
                return Err(self.apart(Table::Journal, first));
            }
            let replay = replay.get_or_insert(Replay::after(self.entity, row.before, row.epoch));
            // Where a snapshot was taken one row ends and the next begins.
            while let Some(snapshot) = waiting.next_if(|snapshot| snapshot.mark.step < first) {
                if snapshot.mark.step + 1 == first && snapshot.mark != row.before {
                    return Err(self.apart(Table::Snapshots, snapshot.mark.step));
                }
            }
            replay.row(first, value).map_err(Damage::Journal)?;
            steps += row.steps.len() as u64;
            Ok(())
        })?;
        self.checked.steps += steps;
        let end = replay.map(|replay| *replay.mark());
        for snapshot in waiting {
            match end {
                // Every step up to it was let go.
                None => {}
                Some(end) if end == snapshot.mark => {}
                Some(_) => return Err(self.apart(Table::Snapshots, snapshot.mark.step)),
            }
        }
        Ok(end.or(snapshots.last().map(|row| row.mark)))
    }

    fn due(&self) -> Result<(), StoreError> {
        self.each(Table::Outbox, |[sequence], value| {
            // The first output of a chain is 1.
            if sequence == 0 {
                return Err(self.apart(Table::Outbox, sequence));
            }
            let read = Due::decode(value).map(|_| ());
            read.map_err(|error| bad(Table::Outbox, self.entity, sequence, error))
        })
    }

    fn dead_letters(&self) -> Result<(), StoreError> {
        self.each(Table::DeadLetters, |[number], value| {
            let read = DeadLetter::decode(value).map(|_| ());
            read.map_err(|error| bad(Table::DeadLetters, self.entity, number, error))
        })
    }

    /// Checks that outputs are one chain; returns where it ends.
    fn outputs(&mut self) -> Result<Option<(u64, Digest)>, StoreError> {
        let (mut end, mut count) = (None, 0);
        self.each(Table::Outputs, |[first], value| {
            let row = Emitted::decode(self.entity.origin(), value)
                .map_err(|error| bad(Table::Outputs, self.entity, first, error))?;
            let (link, _) = row.outputs.first().expect("a row has outputs");
            let follows = end.is_none_or(|end| end == (first - 1, row.before));
            if link.sequence != first || !follows {
                return Err(self.apart(Table::Outputs, first));
            }
            count += row.outputs.len() as u64;
            end = Some((first - 1 + row.outputs.len() as u64, row.after));
            Ok(())
        })?;
        self.checked.outputs += count;
        Ok(end)
    }

    /// Checks that those who spoke might, each by who spoke before or by the entity; returns them by epoch.
    fn certificates(&mut self, lineage: Vec<Certificate>) -> Result<Vec<Certificate>, StoreError> {
        let mut found = BTreeMap::new();
        self.each(Table::Certificates, |[epoch], value| {
            let read =
                Certificate::decode(value).map_err(|error| bad(Table::Certificates, self.entity, epoch, error))?;
            if read.entity != self.entity || read.epoch != epoch {
                return Err(self.apart(Table::Certificates, epoch));
            }
            found.insert(epoch, read);
            Ok(())
        })?;
        self.checked.signed += found.len() as u64;
        // A daemon that began with a snapshot may have those before it there alone.
        for certificate in lineage {
            let known = *found.entry(certificate.epoch).or_insert(certificate);
            if known != certificate {
                return Err(self.apart(Table::Certificates, certificate.epoch));
            }
        }
        let found: Vec<_> = found.into_values().collect();
        let is_bad = |count: &usize| verify::vouched(&self.entity, &found[..*count], &[]).is_err();
        if !found.is_empty() && is_bad(&found.len()) {
            let first = (1..found.len()).find(is_bad).unwrap_or(found.len());
            return Err(self.apart(Table::Certificates, found[first - 1].epoch));
        }
        Ok(found)
    }

    /// Checks that each is signed by the node that spoke in its epoch, and that they agree.
    fn checkpoints(&mut self, certificates: &[Certificate]) -> Result<(), StoreError> {
        let mut found = Vec::new();
        self.each(Table::Checkpoints, |[epoch, sequence], value| {
            let read =
                Checkpoint::decode(value).map_err(|error| bad(Table::Checkpoints, self.entity, sequence, error))?;
            let speaker = certificates.iter().find(|certificate| certificate.epoch == epoch);
            let is_signed = speaker.is_some_and(|speaker| read.verify_signature(&speaker.node).is_ok());
            if !is_signed || (read.entity, read.epoch, read.sequence) != (self.entity, epoch, sequence) {
                return Err(self.apart(Table::Checkpoints, sequence));
            }
            found.push(read);
            Ok(())
        })?;
        self.checked.signed += found.len() as u64;
        if found.is_empty() {
            return Ok(());
        }
        let judged = verify::vouched(&self.entity, certificates, &Checkpoint::in_order(found));
        judged.map(drop).map_err(|error| {
            let sequence = match error {
                ChainError::BadSignature { sequence, .. } | ChainError::Broken { sequence, .. } => sequence,
                _ => 0,
            };
            self.apart(Table::Checkpoints, sequence)
        })
    }
}
