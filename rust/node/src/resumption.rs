//! A daemon brought back from what a store has of it.
//!
//! Invariants
//! * It stands where its last kept step left it, on the same chain, in the same epoch, or it does not come back.
//! * Nothing is written, and nothing is told, while it comes back; what it emits again is held back and compared.

use std::sync::Arc;

use meshos_core::certificate::Certificate;
use meshos_core::checkpoint::Checkpoint;
use meshos_core::codec::DecodeError;
use meshos_core::config::DaemonHostConfig;
use meshos_core::dead_letter::DeadLetter;
use meshos_core::host::Host;
use meshos_core::id::EntityId;
use meshos_core::ingress::EventKey;
use meshos_core::journal::{self as core_journal, Mark, Outcome, SnapshotRow, Step};
use meshos_core::resumption::{self as plan, Divergence, Place, Replay};
use meshos_core::retention::OutputsHeld;
use meshos_core::rows::{KeyRange, Table, entity_key, of_entity_key};
use meshos_core::snapshot;
use meshos_core::store::{Damage, Store, StoreError};
use meshos_core::stored::StoredDaemon;

use crate::daemon::{Daemon, DeliverError, Process};
use crate::inside::{Inside, Snapshot};
use crate::journal::{Journal, Rows};
use crate::leave::Entered;
use crate::letters::{Letter, Letters};

/// Rows read at once.
const PAGE: usize = 1024;
/// Bytes of a snapshot that is read back at most.
const SNAPSHOT_BYTES_MAX: u64 = 16 << 30;

/// How a daemon came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Position of its chain in the snapshot that it began with; 0: it began with nothing.
    pub snapshot_sequence: u64,
    /// Position of its chain now.
    pub sequence: u64,
    /// Term of ownership.
    pub epoch: u64,
    /// Inputs that it took again.
    pub replayed: u64,
    /// Outputs that it made again, and that were held back.
    pub suppressed: u64,
    /// Damaged snapshots that were passed over.
    pub snapshots_skipped: u32,
}

/// Why a daemon did not come back. Nothing was written.
#[derive(Debug)]
pub enum ResumeFailed<D: Daemon> {
    /// The store could not be read, or what it has is damaged.
    Store(StoreError),
    /// Its class is another than the one whose state is kept.
    WrongKind {
        /// Kind in the snapshot.
        snapshot: String,
    },
    /// It did something else than the first time.
    Diverged(Divergence),
    /// User code raised.
    Raised(D::Error),
    /// Only one instance of it can be had, which has the state that is not kept.
    NoInstance,
}

impl<D: Daemon> From<StoreError> for ResumeFailed<D> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<D: Daemon> From<core_journal::Damage> for ResumeFailed<D> {
    fn from(damage: core_journal::Damage) -> Self {
        Self::Store(StoreError::Damaged(damage.into()))
    }
}

impl<D: Daemon> ResumeFailed<D> {
    /// In one line.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Store(error) => error.to_string(),
            Self::WrongKind { snapshot } => format!("its snapshot is of the kind {snapshot:?}"),
            Self::Diverged(divergence) => divergence.to_string(),
            Self::Raised(error) => D::describe(error),
            Self::NoInstance => "there is no other instance of it".to_owned(),
        }
    }
}

/// Calls `see` with the key and value of each row of a range, in order.
///
/// # Errors
/// [`StoreError`]: it cannot be read.
pub fn each(
    store: &dyn Store,
    table: Table,
    mut range: KeyRange,
    mut see: impl FnMut(&[u8], &[u8]),
) -> Result<(), StoreError> {
    loop {
        let page = store.page(table, &range, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        for (key, value) in &page {
            see(key, value);
        }
        range = range.after(last);
    }
}

/// Calls `see` with the number and value of each row of a daemon, in order.
fn each_row(
    store: &dyn Store,
    table: Table,
    entity: &EntityId,
    mut see: impl FnMut(u64, &[u8]),
) -> Result<(), StoreError> {
    each(
        store,
        table,
        KeyRange::beginning_with(entity.as_bytes()),
        |key, value| {
            if let Some((_, [number])) = of_entity_key::<1>(key) {
                see(number, value);
            }
        },
    )
}

/// What a store has of a daemon, without the steps themselves.
struct Kept {
    rows: Rows,
    certificates: Vec<Certificate>,
    checkpoints: Vec<Checkpoint>,
    /// Snapshots whose rows cannot be read.
    unreadable: u32,
}

fn kept(store: &dyn Store, entity: &EntityId) -> Result<Kept, StoreError> {
    let mut rows = Rows::default();
    let (mut certificates, mut unreadable) = (Vec::new(), 0);
    each_row(store, Table::Snapshots, entity, |_, value| {
        match SnapshotRow::decode(value) {
            Ok(row) => rows.snapshots.push(row),
            Err(_) => unreadable += 1,
        }
    })?;
    each_row(store, Table::Journal, entity, |first, _| {
        rows.steps.push_back(first);
    })?;
    each_row(store, Table::Outputs, entity, |first, value| {
        rows.outputs.push_back(OutputsHeld {
            first,
            // Whether the row is whole is found out when the outputs are read.
            count: core_journal::outputs_in(value).unwrap_or(1),
            bytes: value.len() as u64,
            at: crate::clock::unix_ms(),
        });
    })?;
    each_row(store, Table::Certificates, entity, |_, value| {
        let read: Result<Certificate, DecodeError> = Certificate::decode(value);
        certificates.extend(read);
    })?;
    let mut checkpoints = Vec::new();
    let own = KeyRange::beginning_with(entity.as_bytes());
    each(store, Table::Checkpoints, own, |_, value| {
        checkpoints.extend(Checkpoint::decode(value))
    })?;
    Ok(Kept {
        rows,
        certificates,
        checkpoints: Checkpoint::in_order(checkpoints),
        unreadable,
    })
}

/// Brings a daemon back: restores the newest whole snapshot into `daemon`, and has it take every step since again. User
/// code runs on this thread.
///
/// # Errors
/// [`ResumeFailed`].
pub fn resume<D: Daemon>(
    mut store: Box<dyn Store>,
    entity: EntityId,
    stored: StoredDaemon,
    daemon: Arc<D>,
) -> Result<(Inside<D>, Report), ResumeFailed<D>> {
    let Kept {
        mut rows,
        certificates,
        checkpoints,
        unreadable,
    } = {
        let store = &mut store;
        D::apart(move || kept(&**store, &entity))?
    };
    let mut whole = None;
    let found = plan::plan(&entity, &rows.snapshots, rows.steps.make_contiguous(), |row| {
        whole = whole_snapshot::<D>(&*store, &entity, row);
        whole.is_some()
    })?;
    let (mut inside, mark) = begin(entity, stored.config, daemon, whole.zip(found.snapshot))?;
    let mut replay = Replay::after(entity, mark, inside.host.epoch());
    let mut from = found.first;
    loop {
        let mut range = KeyRange::beginning_with(entity.as_bytes());
        range.from = entity_key(&entity, [from]);
        let page = {
            let (store, range) = (&mut store, &range);
            D::apart(move || store.page(Table::Journal, range, PAGE))?
        };
        for (key, value) in &page {
            let Some((_, [first])) = of_entity_key::<1>(key) else {
                continue;
            };
            let steps = replay.row(first, value)?;
            for (place, step) in Place::all(&steps).zip(&steps.steps) {
                take_again(&mut inside, &mut replay, place, step)?;
            }
            from = steps.after.step + 1;
        }
        if page.is_empty() {
            break;
        }
    }
    for certificate in certificates {
        inside.host = inside.host.certified(certificate);
    }
    inside.checkpoints = checkpoints;
    inside.letters = letters(&*store, &entity)?;
    inside.is_complete = inside.newest.is_some();
    let position = inside.host.position();
    let report = Report {
        snapshot_sequence: found.snapshot.map_or(0, |row| row.mark.sequence),
        sequence: position.sequence,
        epoch: inside.host.epoch(),
        replayed: replay.steps(),
        suppressed: replay.suppressed(),
        snapshots_skipped: found.skipped + unreadable,
    };
    let journal = Journal::after(entity, store, stored, *replay.mark(), inside.host.epoch(), rows);
    inside.journal = Some(Box::new(journal));
    Ok((inside, report))
}

fn letters<D: Daemon>(store: &dyn Store, entity: &EntityId) -> Result<Option<Box<Letters<D>>>, ResumeFailed<D>> {
    let (mut letters, mut bad) = (None::<Box<Letters<D>>>, None);
    each_row(
        store,
        Table::DeadLetters,
        entity,
        |number, value| match DeadLetter::decode(value) {
            Ok(row) => letters.get_or_insert_default().put(number, Letter::read(&row)),
            Err(error) => bad = bad.or(Some((number, error))),
        },
    )?;
    match bad {
        None => Ok(letters),
        Some((number, error)) => Err(StoreError::Damaged(Damage::Row {
            table: Table::DeadLetters,
            entity: *entity,
            number,
            error,
        })
        .into()),
    }
}

fn whole_snapshot<D: Daemon>(store: &dyn Store, entity: &EntityId, row: &SnapshotRow) -> Option<Arc<Snapshot<D>>> {
    let bytes = store.fetch(&row.name, row.size.min(SNAPSHOT_BYTES_MAX)).ok()?;
    let (meta, state) = snapshot::decode(&bytes, SNAPSHOT_BYTES_MAX).ok()?;
    let is_his = meta.entity == *entity && meta.head.sequence == row.mark.sequence && meta.digest == row.mark.digest;
    is_his.then(|| {
        Arc::new(Snapshot {
            meta,
            state: D::state(bytes[state].to_vec()),
        })
    })
}

fn begin<D: Daemon>(
    entity: EntityId,
    config: DaemonHostConfig,
    daemon: Arc<D>,
    found: Option<(Arc<Snapshot<D>>, SnapshotRow)>,
) -> Result<(Inside<D>, Mark), ResumeFailed<D>> {
    let Some((snapshot, row)) = found else {
        let host = Host::new(entity, config);
        let mark = Mark::start(&entity, 0, host.position().digest);
        return Ok((Inside::new(host, daemon, None), mark));
    };
    if snapshot.meta.kind != **daemon.kind() {
        return Err(ResumeFailed::WrongKind {
            snapshot: snapshot.meta.kind.clone(),
        });
    }
    let host = Host::resumed(entity, snapshot.meta.clone(), config).map_err(|_| core_journal::Damage::Unbound {
        entity,
        step: row.mark.step,
    })?;
    if daemon.is_stateful() {
        daemon
            .restore(&snapshot.state, snapshot.meta.schema)
            .map_err(ResumeFailed::Raised)?;
    }
    Ok((Inside::new(host, daemon, Some(snapshot)), row.mark))
}

fn take_again<D: Daemon>(
    inside: &mut Inside<D>,
    replay: &mut Replay,
    place: Place,
    step: &Step<'_>,
) -> Result<(), ResumeFailed<D>> {
    let event = D::received(step.link, step.payload, step.received_ns);
    let key = EventKey {
        origin: step.link.origin,
        stream: step.stream,
        sequence: step.link.sequence,
    };
    let outputs = match step.outcome {
        Outcome::PassedOver => {
            inside.host.passed_over(key);
            return replay
                .emitted(place, step, 0, inside.host.position().digest)
                .map_err(ResumeFailed::Diverged);
        }
        Outcome::Processed => match inside.daemon.process(&event) {
            Process::Done(outputs) => outputs,
            Process::Later(later) => inside.daemon.wait(later),
        }
        .map_err(ResumeFailed::Raised)?,
    };
    let emitted = u32::try_from(outputs.len()).unwrap_or(u32::MAX);
    let config = *inside.host.config();
    let kept = &mut inside.outputs;
    let returned = inside.host.returned(key, outputs, |link, digest, output| {
        let (_, copy) = D::emitted(link, output, config.outputs_max > 0);
        match copy {
            Some(copy) => kept.push(copy, digest, config.outputs_max, config.outputs_bytes_max),
            None => {
                kept.base_sequence = link.sequence;
                kept.base_digest = digest;
            }
        }
    });
    let digest = inside.host.position().digest;
    let compared = replay.emitted(place, step, emitted, digest);
    compared.map_err(ResumeFailed::Diverged)?;
    returned.map_err(|_| core_journal::Damage::Unbound {
        entity: inside.host.entity(),
        step: place.step,
    })?;
    if step.receipt {
        inside.host.receipt(key);
    }
    inside.log.push(event);
    Ok(())
}

/// Brings a daemon back whose last commits are not kept, after `error`.
///
/// # Errors
/// [`DeliverError::NotKept`]: the store still refuses. [`DeliverError::NotResumed`]: it is lost to this process.
pub(crate) fn bring_back<D: Daemon>(entered: &mut Entered<D>, error: StoreError) -> Result<(), DeliverError<D>> {
    let entity = entered.host.entity();
    let fresh = entered
        .daemon
        .fresh()
        .map_err(ResumeFailed::<D>::Raised)
        .and_then(|fresh| fresh.map(Arc::new).ok_or(ResumeFailed::NoInstance));
    let Some(mut journal) = entered.journal.take() else {
        return Ok(());
    };
    let (store, stored) = D::apart(|| {
        // What it was ahead with is refused, and told so, before the store is read.
        let _ = journal.drain();
        journal.into_parts()
    });
    // Whoever comes next finds it as it is now, if it does not come back.
    let before = entered.host.clone();
    let resumed = fresh.and_then(|fresh| resume(store, entity, stored, fresh));
    match resumed {
        Ok((mut inside, _)) => {
            inside.told = entered.told.clone();
            inside.checkpoints = std::mem::take(&mut entered.checkpoints);
            inside.host.restarted();
            **entered = inside;
            entered.slot().restall();
            Ok(())
        }
        Err(failed) => {
            entered.host = before;
            let reason: Arc<str> = Arc::from(format!("{error}; {}", failed.reason()));
            entered.fail(&reason);
            Err(DeliverError::NotResumed(reason))
        }
    }
}
