//! The image of a daemon that travels: taken from one that is frozen, and restored at the node that it goes to.
//!
//! Invariants
//! * What came since a copy is taken without user code, and restored by having user code take the same steps again: if it does
//!   something else, nothing of it is.
//! * Taking an image changes nothing of the daemon: if it is thawed it goes on as if nothing had been.
//! * The state is not copied for it: an image is read in pieces.
//! * What is restored stands exactly where the daemon was frozen, and does nothing before it is installed.
//! * What is installed is kept in one commit, or nothing of it is. The image is its first snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::checkpoint::Checkpoint;
use meshos_core::codec::DecodeError;
use meshos_core::config::{DaemonHostConfig, Durability, OnDivergence};
use meshos_core::dead_letter::{DeadLetter, cut};
use meshos_core::digest::{self, Digest};
use meshos_core::due::Due;
use meshos_core::host::Host;
use meshos_core::id::EntityId;
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::image::seal::{Agreement, SealedIdentity};
use meshos_core::image::{self, Baggage, Unpacked};
use meshos_core::journal::{self as core_journal, Emitted, Mark, SnapshotRow};
use meshos_core::link::CausalLink;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::{Frozen, MoveOrder};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::resumption::{Place, Replay};
use meshos_core::retention::OutputsHeld;
use meshos_core::rows::{KeyRange, Table, Write, entity_key, of_entity_key};
use meshos_core::snapshot::SnapshotMeta;
use meshos_core::source::{self, Source};
use meshos_core::store::StoreError;
use meshos_core::stored::{SealedKey, StoredDaemon};
use meshos_core::time::UnixMs;
use thiserror::Error;

use crate::daemon::Daemon;
use crate::deliver;
use crate::inside::{Inside, Outputs, Snapshot};
use crate::journal::{Journal, Rows, Stores};
use crate::leave::Entered;
use crate::letters::Letter;
use crate::outgoing::{Emitter, Sending};
use crate::resumption::{self, each};
use crate::slot::SharedKey;
use crate::sync::Mutex;
use crate::{clock, keys};

/// Bytes of a text that says why something was refused.
const TEXT_MAX: usize = 1024;
/// Outputs of one row at most, and bytes after which a row ends.
const ROW_OUTPUTS: usize = 4096;
const ROW_BYTES: u64 = 1 << 20;
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

/// Bytes that an image is made of.
pub type Part = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The plain bytes of what travels, in parts.
pub struct Image {
    /// BLAKE3 of the bytes; the name under which a store keeps them.
    pub digest: Digest,
    /// How many they are.
    pub len: u64,
    parts: Vec<Part>,
}

impl Image {
    /// An image of these parts, which are one after the other.
    #[must_use]
    pub fn new(digest: Digest, parts: Vec<Part>) -> Self {
        let len = parts.iter().map(|part| (**part).as_ref().len() as u64).sum();
        Self { digest, len, parts }
    }

    /// Appends the bytes of a range, as far as there are so many.
    pub fn slice(&self, range: Range<u64>, out: &mut Vec<u8>) {
        let mut at = 0;
        for part in self.parts() {
            let (begin, end) = (at, at + part.len() as u64);
            let cut = |place: u64| usize::try_from(place.clamp(begin, end) - begin).expect("it is within a slice");
            let (first, last) = (cut(range.start), cut(range.end));
            if first < last {
                out.extend_from_slice(&part[first..last]);
            }
            at = end;
        }
    }

    /// The parts, in order.
    #[must_use]
    pub fn parts(&self) -> Vec<&[u8]> {
        self.parts.iter().map(|part| (**part).as_ref()).collect()
    }
}

fn refused(reason: Reason, why: impl std::fmt::Display) -> Reject {
    let text = why.to_string();
    Reject {
        reason,
        text: cut(&text, TEXT_MAX).to_owned(),
    }
}

fn failed(why: impl std::fmt::Display) -> Reject {
    refused(Reason::StateFailed, why)
}

/// An error of user code, as another node is told of it.
fn raised<D: Daemon>(error: &D::Error) -> Reject {
    let (exception, message) = D::blame(error);
    if exception.is_empty() {
        failed(D::describe(error))
    } else {
        failed(format_args!("{exception}: {message}"))
    }
}

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

/// A daemon that was restored from an image, and is not installed.
pub struct Standby<D: Daemon> {
    /// Everything of it; it stands where it was frozen, and has no journal.
    pub inside: Inside<D>,
    /// Its key; public only if it did not travel.
    pub key: SharedKey,
    /// Where it stands.
    pub frozen: Frozen,
    /// Outputs that are due to other daemons, in their order; they leave when it is live.
    pub due: Vec<Sending>,
    stored: StoredDaemon,
    rows: Vec<Write>,
    /// Its first snapshot, and how far the steps lead that were taken since.
    base: SnapshotRow,
    mark: Mark,
}

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

/// Restores a daemon from the bytes of an image, of this digest, as a store computed it that keeps them. `make` is given its kind and makes a fresh instance; user code runs on this
/// thread. Who sent the image is not checked: where it stands is compared with what the source said.
///
/// # Errors
/// [`Reject`]: nothing happened, except that user code may have seen the state.
pub fn restore<D: Daemon>(
    bytes: Arc<Vec<u8>>,
    digest: Digest,
    order: &MoveOrder,
    (node, known): (&Keypair, Option<&Agreement>),
    make: impl FnOnce(&str) -> Result<D, Reject>,
) -> Result<Standby<D>, Reject> {
    let unpacked = D::apart(|| image::decode(&bytes));
    let Unpacked { baggage, meta, state } = unpacked.map_err(failed)?;
    is_of(order, &meta)?;
    let Baggage {
        copy,
        stored,
        identity,
        rows,
    } = baggage;
    if copy.is_some() {
        return Err(failed("it is not whole"));
    }
    let key = opened(identity, order, node, known)?;
    let host = Host::resumed(meta.entity, meta.clone(), stored.config).map_err(failed)?;
    let daemon = make(&meta.kind)?;
    if **daemon.kind() != *meta.kind {
        return Err(refused(
            Reason::NoFactory,
            format_args!("the kind is {}", daemon.kind()),
        ));
    }
    if !daemon.is_stateful() && !state.is_empty() {
        return Err(failed("the class has no state here"));
    }
    let state = D::state_in(&bytes[state]);
    if daemon.is_stateful() {
        daemon
            .restore(&state, meta.schema)
            .map_err(|error| raised::<D>(&error))?;
    }
    let position = host.position();
    let base = SnapshotRow {
        name: digest,
        size: bytes.len() as u64,
        mark: Mark::start(&meta.entity, position.sequence, position.digest),
        processed: position.processed,
        epoch: meta.epoch,
        taken_at: meta.taken_at,
    };
    let frozen = Frozen {
        sequence: position.sequence,
        head: position.digest,
        image: digest,
    };
    let snapshot = Arc::new(Snapshot { meta, state });
    let mut standby = Standby {
        inside: Inside::new(host, Arc::new(daemon), Some(snapshot)),
        key: Arc::new(Mutex::new(key)),
        frozen,
        due: Vec::new(),
        stored,
        rows,
        base,
        mark: base.mark,
    };
    standby.unpack()?;
    let rows = std::mem::take(&mut standby.rows);
    standby.unpack_outputs(&rows, true)?;
    standby.rows = rows;
    Ok(standby)
}

fn is_of(order: &MoveOrder, meta: &SnapshotMeta) -> Result<(), Reject> {
    if meta.entity != order.entity || meta.kind != order.kind || meta.epoch > order.epoch {
        return Err(failed("it is not the daemon of the order"));
    }
    Ok(())
}

/// The key that came with a daemon; public only if none did.
fn opened(
    identity: Option<SealedIdentity>,
    order: &MoveOrder,
    node: &Keypair,
    known: Option<&Agreement>,
) -> Result<Keypair, Reject> {
    let Some(sealed) = identity else {
        return Ok(Keypair::public_only(order.entity));
    };
    let opened = sealed.open(order, node, known);
    opened.map_err(|error| refused(Reason::IdentityTransportFailed, error))
}

fn differs(why: impl std::fmt::Display) -> Reject {
    failed(format_args!("the replay differs: {why}"))
}

/// Has a daemon that was restored from a copy take again what came since, from the bytes of that image. What it emits is held
/// back, and compared; user code runs on this thread. It then stands where it was frozen.
///
/// # Errors
/// [`Reject`]: user code did something else than the first time, or the image is not one that fits.
pub fn catch_up<D: Daemon>(
    mut standby: Standby<D>,
    bytes: &[u8],
    order: &MoveOrder,
    (node, known): (&Keypair, Option<&Agreement>),
) -> Result<Standby<D>, Reject> {
    let (digest, unpacked) = D::apart(|| (digest::plain(bytes), image::decode(bytes)));
    let Unpacked { baggage, meta, .. } = unpacked.map_err(failed)?;
    is_of(order, &meta)?;
    let Baggage {
        copy,
        stored,
        identity,
        rows,
    } = baggage;
    if copy != Some(standby.base.name) {
        return Err(differs("the copy is another one"));
    }
    let key = opened(identity, order, node, known)?;
    standby.key = Arc::new(Mutex::new(key));
    let (mut since, mut rows): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row| matches!(row.table, Table::Journal | Table::Outputs));
    standby.stored = stored;
    std::mem::swap(&mut standby.rows, &mut rows);
    standby.unpack()?;
    standby.take_again(&since)?;
    let inside = &mut standby.inside;
    let host = inside.host.clone().caught_up(meta).map_err(differs)?;
    inside.host = host.with_config(standby.stored.config);
    let position = inside.host.position();
    standby.frozen = Frozen {
        sequence: position.sequence,
        head: position.digest,
        image: digest,
    };
    standby.unpack_outputs(&since, false)?;
    // Of the copy the outputs count, of what came since everything.
    rows.retain(|row| row.table == Table::Outputs);
    standby.rows.append(&mut rows);
    standby.rows.append(&mut since);
    Ok(standby)
}

fn bad(table: Table) -> impl Fn(DecodeError) -> Reject {
    move |error| failed(format_args!("{table:?}: {error}"))
}

impl<D: Daemon> Standby<D> {
    /// Whether each step of it is kept.
    #[must_use]
    pub fn keeps_steps(&self) -> bool {
        self.stored.config.durability == Durability::Journal
    }

    /// Whether each step of it is kept together with a snapshot.
    #[must_use]
    pub fn keeps_every(&self) -> bool {
        self.keeps_steps() && self.stored.config.on_divergence == OnDivergence::SnapshotEveryEvent
    }

    /// Whether anything of it is kept: then the image is its first snapshot once it is installed.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.stored.config.durability != Durability::None
    }

    /// The image that it was restored from, and that of what came since, if there is one.
    #[must_use]
    pub fn images(&self) -> (Digest, Option<Digest>) {
        let (whole, last) = (self.base.name, self.frozen.image);
        (whole, Some(last).filter(|last| *last != whole))
    }

    /// Has user code take steps again.
    fn take_again(&mut self, rows: &[Write]) -> Result<(), Reject> {
        let inside = &mut self.inside;
        let mut replay = Replay::after(inside.host.entity(), self.mark, inside.host.epoch());
        for row in rows.iter().filter(|row| row.table == Table::Journal) {
            let value = row.value.as_deref().unwrap_or_default();
            let steps = replay.row(last_number(&row.key), value).map_err(differs)?;
            for (place, step) in Place::all(&steps).zip(&steps.steps) {
                let taken = resumption::take_again(inside, &mut replay, place, step, None, &mut None);
                taken.map_err(|why| differs(why.reason()))?;
            }
        }
        self.mark = *replay.mark();
        Ok(())
    }

    /// Puts into memory what the rows say, except outputs.
    fn unpack(&mut self) -> Result<(), Reject> {
        let rows = std::mem::take(&mut self.rows);
        let (mut sources, mut checkpoints) = (BTreeMap::new(), Vec::new());
        let of = |table: Table| {
            let of_it = rows.iter().filter(move |row| row.table == table);
            of_it.filter_map(|row| Some((last_number(&row.key), row.value.as_deref()?)))
        };
        for (stream, value) in of(Table::Streams) {
            let source = Source::decode(value).map_err(bad(Table::Streams))?;
            if source.stream() != stream {
                return Err(failed("a source is another one"));
            }
            sources.insert(stream, Arc::new(source));
        }
        self.inside.sources = Some(sources).filter(|sources| !sources.is_empty());
        for (sequence, value) in of(Table::Checkpoints) {
            let made = Checkpoint::decode(value).map_err(bad(Table::Checkpoints))?;
            if (made.entity, made.sequence) != (self.inside.host.entity(), sequence) {
                return Err(failed("a checkpoint is another one"));
            }
            checkpoints.push(made);
        }
        self.inside.checkpoints = Checkpoint::in_order(checkpoints);
        self.inside.letters = None;
        self.due.clear();
        for (number, value) in of(Table::DeadLetters) {
            let row = DeadLetter::decode(value).map_err(bad(Table::DeadLetters))?;
            let letter = Letter::read(&row, self.inside.source(row.stream));
            self.inside.letters.get_or_insert_default().put(number, letter);
        }
        let has_row = self.keeps_steps();
        for (sequence, value) in of(Table::Outbox) {
            let Due { to, stream, payload } = Due::decode(value).map_err(bad(Table::Outbox))?;
            self.due.push(Sending {
                sequence,
                to,
                stream,
                payload,
                has_row,
            });
        }
        self.rows = rows;
        Ok(())
    }

    /// Reads outputs, which have to be the end of the chain, and has them ready for export if that is wanted.
    fn unpack_outputs(&mut self, rows: &[Write], is_kept: bool) -> Result<(), Reject> {
        let (origin, config) = (self.inside.host.origin(), self.stored.config);
        let received_ns = self.base.taken_at.get().saturating_mul(1_000_000);
        let mut end = None;
        for row in rows.iter().filter(|row| row.table == Table::Outputs) {
            let (first, value) = (last_number(&row.key), row.value.as_deref().unwrap_or_default());
            let row = Emitted::decode(origin, value).map_err(bad(Table::Outputs))?;
            let starts = row.outputs.first().map(|(link, _)| link.sequence) == Some(first);
            if !starts || end.is_some_and(|end| end != (first - 1, row.before)) {
                return Err(failed("the outputs are not one chain"));
            }
            if is_kept && end.is_none() {
                self.inside.outputs = Outputs::after(first - 1, row.before);
            }
            let mut digest = row.before;
            for (link, payload) in &row.outputs {
                digest = digest::event(&digest, &link.to_bytes(), payload);
                if is_kept {
                    let event = D::received(*link, payload, received_ns);
                    self.inside.outputs.push(event, digest, &config);
                }
                end = Some((link.sequence, digest));
            }
        }
        if end.is_some_and(|end| end != (self.frozen.sequence, self.frozen.head)) {
            return Err(failed("the outputs do not end where the chain ends"));
        }
        Ok(())
    }

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

    /// Gives it other options.
    pub fn configure(&mut self, config: DaemonHostConfig) {
        self.inside.host = self.inside.host.clone().with_config(config);
        self.stored.config = config;
        let has_row = self.keeps_steps();
        self.due.iter_mut().for_each(|due| due.has_row = has_row);
    }

    /// The options that it has.
    #[must_use]
    pub const fn config(&self) -> &DaemonHostConfig {
        &self.stored.config
    }
}

fn last_number(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |number| u64::from_be_bytes(*number))
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
