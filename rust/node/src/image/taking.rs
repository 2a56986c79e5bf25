//! Taking the image of a daemon at its source: everything, or what came since a copy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::checkpoint::Checkpoint;
use meshos_core::digest::{self, Digest};
use meshos_core::due::Due;
use meshos_core::id::EntityId;
use meshos_core::image::Baggage;
use meshos_core::image::seal::{Agreement, SealedIdentity};
use meshos_core::journal as core_journal;
use meshos_core::link::CausalLink;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::{Frozen, MoveOrder};
use meshos_core::rows::{KeyRange, Table, Write, entity_key, of_entity_key};
use meshos_core::snapshot::SnapshotMeta;
use meshos_core::store::StoreError;
use meshos_core::stored::StoredDaemon;

use super::{Image, Part, failed, raised, refused};
use crate::daemon::Daemon;
use crate::inside::{Inside, Outputs};
use crate::journal::Stores;
use crate::leave::Entered;
use crate::outgoing::{Emitter, Sending};
use crate::resumption::each;
use crate::slot::SharedKey;
use crate::{clock, deliver};

/// Outputs of one row at most, and bytes after which a row ends.
const ROW_OUTPUTS: usize = 4096;
const ROW_BYTES: u64 = 1 << 20;

/// What an image is made of, of a daemon that may go on meanwhile.
pub struct Gathered<D: Daemon> {
    baggage: Baggage,
    meta: SnapshotMeta,
    state: D::State,
    took: Duration,
}

impl<D: Daemon> Gathered<D> {
    /// Where the chain stands.
    #[must_use]
    pub const fn head(&self) -> (u64, Digest) {
        (self.meta.head.sequence, self.meta.digest)
    }

    /// Puts the image together. Tells where the daemon stood, and how long user code took.
    #[must_use]
    pub fn image(self) -> (Image, Frozen, Duration) {
        let (before, behind) = self.baggage.around(&self.meta, self.state.as_ref());
        let digest = digest::plain_of_parts(&[&before, self.state.as_ref(), &behind]);
        let frozen = Frozen {
            sequence: self.meta.head.sequence,
            head: self.meta.digest,
            image: digest,
        };
        let parts: Vec<Part> = vec![Arc::new(before), Arc::new(self.state), Arc::new(behind)];
        (Image::new(digest, parts), frozen, self.took)
    }
}

/// Takes the image of a daemon that is frozen: who calls is inside, and stays until it is thawed or gone. User code runs on
/// this thread. Tells where it stands, and how long user code took. The key travels if there is something to seal it with.
///
/// # Errors
/// [`Reject`]: the daemon is as it was, except that an error of user code was counted.
pub fn take<D: Daemon>(
    entered: &mut Entered<D>,
    order: &MoveOrder,
    key: &SharedKey,
    sealing: Option<&Agreement>,
) -> Result<(Image, Frozen, Duration), Reject> {
    let gathered = gather(entered, order, key, sealing)?;
    Ok(D::apart(|| gathered.image()))
}

/// As [`take`], but the image is put together later: the daemon may go on at once.
///
/// # Errors
/// [`Reject`]: the daemon is as it was, except that an error of user code was counted.
pub fn gather<D: Daemon>(
    entered: &mut Entered<D>,
    order: &MoveOrder,
    key: &SharedKey,
    sealing: Option<&Agreement>,
) -> Result<Gathered<D>, Reject> {
    drain(entered, order)?;
    let begun = Instant::now();
    let state = match deliver::state_inside(entered) {
        Some(Ok(state)) => state,
        Some(Err(error)) => {
            entered.host.raised();
            return Err(raised::<D>(&error));
        }
        None => return Err(failed("it was stopped meanwhile")),
    };
    let took = begun.elapsed();
    let tables = &[Table::Outputs, Table::Outbox];
    let (baggage, meta) = beside(entered, order, key, sealing, tables)?;
    Ok(Gathered {
        baggage,
        meta,
        state,
        took,
    })
}

/// Takes what came since a copy of a daemon that is frozen, given the rows of its steps. No user code runs.
///
/// # Errors
/// [`Reject`]: the daemon is as it was.
pub fn since<D: Daemon>(
    entered: &mut Entered<D>,
    order: &MoveOrder,
    key: &SharedKey,
    sealing: Option<&Agreement>,
    (copy, steps): (Digest, Vec<Write>),
) -> Result<(Image, Frozen), Reject> {
    drain(entered, order)?;
    let (mut baggage, meta) = beside(entered, order, key, sealing, &[Table::Outbox])?;
    baggage.copy = Some(copy);
    baggage.rows.extend(steps);
    baggage.sort();
    let state = D::state(Vec::new());
    let gathered = Gathered::<D> {
        baggage,
        meta,
        state,
        took: Duration::ZERO,
    };
    let (image, frozen, _) = D::apart(|| gathered.image());
    Ok((image, frozen))
}

/// Has everything kept that it did.
fn drain<D: Daemon>(entered: &mut Entered<D>, order: &MoveOrder) -> Result<(), Reject> {
    if let Some(failure) = entered.failure() {
        return Err(failed(failure));
    }
    if entered.host.entity() != order.entity {
        return Err(failed("it is another daemon"));
    }
    deliver::submit(entered);
    if let Some(journal) = &mut entered.journal {
        let drained = D::apart(|| journal.lost().map_or_else(|| journal.drain(), Err));
        drained.map_err(failed)?;
    }
    Ok(())
}

/// What travels beside the state.
fn beside<D: Daemon>(
    entered: &mut Entered<D>,
    order: &MoveOrder,
    key: &SharedKey,
    sealing: Option<&Agreement>,
    tables: &[Table],
) -> Result<(Baggage, SnapshotMeta), Reject> {
    let inside: &mut Inside<D> = entered;
    let meta = inside.host.meta(
        inside.daemon.kind().to_string(),
        inside.daemon.schema(),
        clock::unix_ms(),
    );
    let identity = match sealing {
        Some(agreement) => seal(key, order, agreement)?,
        None => None,
    };
    let mut baggage = Baggage {
        copy: None,
        stored: StoredDaemon {
            kind: meta.kind.clone(),
            config: *inside.host.config(),
            runs: true,
            key: None,
        },
        identity,
        rows: rows(entered, tables).map_err(failed)?,
    };
    baggage.sort();
    Ok((baggage, meta))
}

/// `None`: the daemon has only a public key here.
fn seal(key: &SharedKey, order: &MoveOrder, agreement: &Agreement) -> Result<Option<SealedIdentity>, Reject> {
    let key = key.lock();
    if key.is_read_only() {
        return Ok(None);
    }
    let sealed = SealedIdentity::seal(&key, order, agreement);
    sealed
        .map(Some)
        .map_err(|error| refused(Reason::IdentityTransportFailed, error))
}

/// What travels of a daemon beside its snapshot; of what its store has, these tables.
fn rows<D: Daemon>(entered: &mut Entered<D>, tables: &[Table]) -> Result<Vec<Write>, StoreError> {
    let exits = entered.slot().exits().cloned();
    let inside: &mut Inside<D> = entered;
    let entity = inside.host.entity();
    let config = *inside.host.config();
    inside.outputs.age(&config);
    let journal = inside.journal.as_ref().filter(|journal| journal.keeps_steps());
    let mut rows = match journal {
        Some(journal) => {
            let stores = Arc::clone(journal.stores());
            D::apart(|| kept(&stores, &entity, tables))?
        }
        None => {
            let emitter = Emitter {
                entity,
                origin: inside.host.origin(),
            };
            let unsettled = exits.map_or_else(Vec::new, |exits| exits.unsettled(&emitter));
            unsettled.into_iter().map(|sending| due(&entity, sending)).collect()
        }
    };
    // The store lets go of whole rows, and memory begins with the process: what reaches back farther travels.
    let is_output = |row: &&Write| row.table == Table::Outputs;
    let first = rows.iter().find(is_output).and_then(|row| of_entity_key::<1>(&row.key));
    let reaches_back = first.is_none_or(|(_, [first])| first > inside.outputs.base_sequence + 1);
    if tables.contains(&Table::Outputs) && reaches_back {
        rows.retain(|row| row.table != Table::Outputs);
        rows.extend(outputs_of(&inside.outputs, &entity));
    }
    rows.extend(inside.checkpoints.iter().map(|made| checkpoint(&entity, made)));
    if let Some(letters) = &inside.letters {
        rows.extend(letters.iter().map(|(number, letter)| letter.row(&entity, number)));
    }
    if let Some(sources) = &inside.sources {
        rows.extend(sources.values().map(|source| source.write(&entity)));
    }
    Ok(rows)
}

/// What the store of a daemon has of it in these tables.
fn kept(stores: &Stores, entity: &EntityId, tables: &[Table]) -> Result<Vec<Write>, StoreError> {
    let (store, mut rows) = (stores(), Vec::new());
    for &table in tables {
        let own = KeyRange::beginning_with(entity.as_bytes());
        each(&*store, table, own, |key, value| {
            rows.push(Write::put(table, key.to_vec(), value.to_vec()));
        })?;
    }
    Ok(rows)
}

fn due(entity: &EntityId, sending: Sending) -> Write {
    let Sending {
        sequence,
        to,
        stream,
        payload,
        ..
    } = sending;
    Due { to, stream, payload }.write(entity, sequence)
}

fn checkpoint(entity: &EntityId, made: &Checkpoint) -> Write {
    let key = entity_key(entity, [made.epoch, made.sequence]);
    Write::put(Table::Checkpoints, key, made.to_bytes().to_vec())
}

/// The rows that keep the outputs which are in memory.
fn outputs_of<D: Daemon>(outputs: &Outputs<D>, entity: &EntityId) -> Vec<Write> {
    let (mut rows, mut before, mut bytes) = (Vec::new(), outputs.base_digest, 0);
    let mut next: Vec<(CausalLink, &[u8])> = Vec::new();
    for kept in &outputs.kept {
        next.push(D::parts(&kept.event));
        bytes += D::payload_len(&kept.event) as u64;
        if next.len() >= ROW_OUTPUTS || bytes >= ROW_BYTES {
            rows.extend(core_journal::outputs_row(entity, &before, &next));
            (before, bytes) = (kept.digest, 0);
            next.clear();
        }
    }
    rows.extend(core_journal::outputs_row(entity, &before, &next));
    rows
}
