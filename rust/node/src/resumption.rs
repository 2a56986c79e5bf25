//! A daemon brought back from what a store has of it.
//!
//! Invariants
//! * Where steps are kept it stands where the last one left it, on the same chain, in the same epoch, or it does not come
//!   back. What it emits again is held back, and what it emitted the first time is what counts.
//! * Where only snapshots are kept it stands at the newest whole one, in an epoch that nobody spoke in before.
//! * Nothing is written, and nothing is told, while it comes back.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshos_core::bindings::DaemonBindings;
use meshos_core::certificate::Certificate;
use meshos_core::checkpoint::Checkpoint;
use meshos_core::codec::DecodeError;
use meshos_core::config::{DaemonHostConfig, Durability, OnDivergence};
use meshos_core::dead_letter::DeadLetter;
use meshos_core::event::{Crash, DaemonLifecycleSignal};
use meshos_core::host::{Few, Host};
use meshos_core::id::EntityId;
use meshos_core::image;
use meshos_core::ingress::EventKey;
use meshos_core::journal::{self as core_journal, Emitted, Mark, Outcome, SnapshotRow, Step, Steps};
use meshos_core::link::CausalLink;
use meshos_core::resumption::{self as plan, Divergence, Place, Replay};
use meshos_core::retention::OutputsHeld;
use meshos_core::rows::{KeyRange, Table, Write, entity_key, of_entity_key};
use meshos_core::source::{self, Source};
use meshos_core::store::{Damage, Store, StoreError};
use meshos_core::stored::StoredDaemon;

use crate::daemon::{Daemon, DeliverError, Process};
use crate::inside::{Inside, Snapshot};
use crate::journal::{Journal, Parts, Rows, Stores};
use crate::leave::Entered;
use crate::letters::{Letter, Letters};

/// Rows read at once.
const PAGE: usize = 1024;
/// Bytes of a snapshot that is read back at most.
const SNAPSHOT_BYTES_MAX: u64 = 16 << 30;

/// Where user code first did something else than the first time, though it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diverged {
    /// Step at which it did.
    pub step: u64,
    /// First position of the chain that would have been another.
    pub sequence: u64,
    /// Outputs of the step the first time.
    pub expected: u32,
    /// Outputs now; `None`: it raised.
    pub found: Option<u32>,
    /// Class name of what it raised; empty if it did not.
    pub exception: Arc<str>,
    /// Steps at which it did something else.
    pub steps: u64,
}

impl Diverged {
    /// As it is told.
    #[must_use]
    pub fn crash(&self) -> Crash {
        let found = match self.found {
            Some(found) => format!("{found} outputs now"),
            None => format!("{} now", self.exception),
        };
        let message = format!(
            "step {}: {} outputs the first time, {found}; the first that differs is {}",
            self.step, self.expected, self.sequence
        );
        Crash {
            reason: Arc::from(format!("diverged, and goes on from what it emitted: {message}")),
            exception: Arc::from("DivergenceError"),
            message: Arc::from(message),
            event: None,
        }
    }
}

/// How a daemon came back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
    /// Position after which outputs are declared rolled back; `None`: every step is kept.
    pub rolled_back_from: Option<u64>,
    /// Where it did something else than the first time; then what it emitted the first time is what counts.
    pub divergence: Option<Diverged>,
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
    sources: BTreeMap<u64, Arc<Source>>,
    ledger: Option<DaemonBindings>,
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
    let now = crate::clock::unix_ms();
    each_row(store, Table::Outputs, entity, |first, value| {
        // Whether the row is whole is found out when the outputs are read.
        let count = core_journal::outputs_in(value).unwrap_or(1);
        let last = first + u64::from(count) - 1;
        let after = rows.snapshots.partition_point(|row| row.mark.sequence < last);
        rows.outputs.push_back(OutputsHeld {
            first,
            count,
            bytes: value.len() as u64,
            // They were there when the snapshot after them was taken.
            at: rows.snapshots.get(after).map_or(now, |row| row.taken_at),
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
    let (mut sources, mut ledger) = (BTreeMap::new(), None);
    each_row(store, Table::Streams, entity, |stream, value| {
        if stream == source::LEDGER {
            ledger = DaemonBindings::decode(value).ok();
        } else if let Ok(source) = Source::decode(value) {
            sources.insert(stream, Arc::new(source));
        }
    })?;
    Ok(Kept {
        rows,
        certificates,
        checkpoints: Checkpoint::in_order(checkpoints),
        unreadable,
        sources,
        ledger,
    })
}

/// Brings a daemon back: restores the newest whole snapshot into `daemon`, and has it take every step since again, if
/// steps are kept. User code runs on this thread.
///
/// # Errors
/// [`ResumeFailed`].
pub fn resume<D: Daemon>(
    stores: Stores,
    entity: EntityId,
    stored: StoredDaemon,
    daemon: Arc<D>,
) -> Result<(Inside<D>, Report), ResumeFailed<D>> {
    let parts = Parts {
        stores,
        stored,
        standing: Arc::default(),
    };
    resume_with(parts, entity, daemon)
}

fn resume_with<D: Daemon>(
    parts: Parts,
    entity: EntityId,
    daemon: Arc<D>,
) -> Result<(Inside<D>, Report), ResumeFailed<D>> {
    let mut store = (parts.stores)();
    let found = {
        let store = &mut store;
        D::apart(move || kept(&**store, &entity))?
    };
    if parts.stored.config.durability == Durability::Snapshot {
        return roll_back(parts, entity, daemon, &*store, found);
    }
    let Kept {
        mut rows,
        certificates,
        checkpoints,
        unreadable,
        sources,
        ledger,
    } = found;
    let config = parts.stored.config;
    let mut whole = None;
    let found = plan::plan(&entity, &rows.snapshots, rows.steps.make_contiguous(), |row| {
        // Another one leads to the same place.
        whole = whole_snapshot::<D>(&*store, &entity, row).ok().flatten();
        whole.is_some()
    })?;
    let (mut inside, mark) = begin(entity, config, daemon, whole.zip(found.snapshot))?;
    read_from(&mut inside, sources, ledger);
    let mut replay = Replay::after(entity, mark, inside.host.epoch());
    let mut diverged = None;
    let mut from = found.first;
    let mut certificates = certificates.into_iter().peekable();
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
            // A term begins where a row begins: what was acknowledged in it is so again.
            while let Some(begun) = certificates.next_if(|next| next.epoch <= steps.epoch) {
                inside.host = inside.host.certified(begun);
            }
            let emitted = if config.on_divergence == OnDivergence::Continue {
                first_time(&*store, &entity, &steps)?
            } else {
                None
            };
            let mut emitted = emitted.as_deref();
            for (place, step) in Place::all(&steps).zip(&steps.steps) {
                let of_step = emitted.and_then(|emitted| emitted.split_at_checked(step.outputs as usize));
                emitted = of_step.map(|(_, rest)| rest);
                let of_step = of_step.map(|(of_step, _)| of_step);
                take_again(&mut inside, &mut replay, place, step, of_step, &mut diverged)?;
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
    inside.letters = letters(&*store, &entity, &inside)?;
    inside.is_complete = inside.newest.is_some();
    if diverged.is_some() {
        inside.host.raised();
        // What user code is now is kept before it takes one event more.
        inside.stray();
    }
    let position = inside.host.position();
    let report = Report {
        snapshot_sequence: found.snapshot.map_or(0, |row| row.mark.sequence),
        sequence: position.sequence,
        epoch: inside.host.epoch(),
        replayed: replay.steps(),
        suppressed: replay.suppressed(),
        snapshots_skipped: found.skipped + unreadable,
        rolled_back_from: None,
        divergence: diverged,
    };
    let Parts {
        stores,
        stored,
        standing,
    } = parts;
    let mark = (*replay.mark(), inside.host.epoch());
    let journal = Journal::with_standing(entity, stores, stored, mark, rows, standing);
    inside.journal = Some(Box::new(journal));
    Ok((inside, report))
}

/// Has a daemon know the channels that it reads, and how far it came in each.
fn read_from<D: Daemon>(inside: &mut Inside<D>, sources: BTreeMap<u64, Arc<Source>>, ledger: Option<DaemonBindings>) {
    if !sources.is_empty() {
        inside.sources = Some(sources);
    }
    // The ledger changes between snapshots too.
    if let Some(ledger) = ledger {
        *inside.host.bindings_mut() = ledger;
    }
}

fn letters<D: Daemon>(
    store: &dyn Store,
    entity: &EntityId,
    inside: &Inside<D>,
) -> Result<Option<Box<Letters<D>>>, ResumeFailed<D>> {
    let (mut letters, mut bad) = (None::<Box<Letters<D>>>, None);
    each_row(
        store,
        Table::DeadLetters,
        entity,
        |number, value| match DeadLetter::decode(value) {
            Ok(row) => {
                let letter = Letter::read(&row, inside.source(row.stream));
                letters.get_or_insert_default().put(number, letter);
            }
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

/// Brings a daemon back of which only snapshots are kept: restores the newest that is whole, in an epoch of its own. The
/// certificate of that epoch is owed, and has to be kept before it takes an event.
fn roll_back<D: Daemon>(
    parts: Parts,
    entity: EntityId,
    daemon: Arc<D>,
    store: &dyn Store,
    found: Kept,
) -> Result<(Inside<D>, Report), ResumeFailed<D>> {
    let Kept {
        mut rows,
        certificates,
        checkpoints,
        unreadable,
        sources,
        ledger,
    } = found;
    let mut whole = None;
    for row in rows.snapshots.iter().rev() {
        whole = whole_snapshot::<D>(store, &entity, row)?.map(|snapshot| (snapshot, *row));
        if whole.is_some() {
            break;
        }
    }
    let Some((snapshot, row)) = whole else {
        return Err(ResumeFailed::from(core_journal::Damage::NoBeginning {
            entity,
            snapshots: u32::try_from(rows.snapshots.len()).unwrap_or(u32::MAX) + unreadable,
            found: None,
        }));
    };
    let spoken = rows.snapshots.iter().map(|row| row.epoch);
    let spoken = spoken.chain(certificates.iter().map(|certificate| certificate.epoch));
    let spoken = spoken.chain(checkpoints.iter().map(|checkpoint| checkpoint.epoch));
    let epoch = spoken.max().unwrap_or(0).max(snapshot.meta.epoch) + 1;
    let (mut inside, mark) = begin(entity, parts.stored.config, daemon, Some((snapshot, row)))?;
    read_from(&mut inside, sources, ledger);
    for certificate in certificates {
        inside.host = inside.host.certified(certificate);
    }
    inside.host = inside.host.rewound(epoch);
    inside.checkpoints = checkpoints;
    inside.letters = letters(store, &entity, &inside)?;
    let kept = rows.snapshots.partition_point(|other| other.mark.step <= row.mark.step);
    // They are of a past that is rolled back, and must not be newer than what comes.
    let damaged = rows.snapshots.split_off(kept);
    let report = Report {
        snapshot_sequence: row.mark.sequence,
        sequence: row.mark.sequence,
        epoch,
        snapshots_skipped: u32::try_from(damaged.len()).unwrap_or(u32::MAX) + unreadable,
        rolled_back_from: Some(row.mark.sequence),
        ..Report::default()
    };
    let mut journal = Journal::after(entity, parts.stores, parts.stored, mark, epoch, rows);
    for row in damaged {
        let key = entity_key(&entity, [row.mark.step]);
        journal.also(Write::remove(Table::Snapshots, key));
    }
    inside.journal = Some(Box::new(journal));
    Ok((inside, report))
}

/// The payloads that the steps of a row emitted the first time; `None`: they were let go.
fn first_time(store: &dyn Store, entity: &EntityId, steps: &Steps<'_>) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
    let (before, count) = (steps.before.sequence, steps.after.sequence - steps.before.sequence);
    if count == 0 {
        return Ok(Some(Vec::new()));
    }
    let Some(row) = store.get(Table::Outputs, &entity_key(entity, [before + 1]))? else {
        return Ok(None);
    };
    let unbound = core_journal::Damage::Unbound {
        entity: *entity,
        step: steps.first,
    };
    let unreadable = |error| core_journal::Damage::Unreadable {
        entity: *entity,
        step: steps.first,
        error,
    };
    let damaged = |damage: core_journal::Damage| StoreError::Damaged(damage.into());
    let emitted = Emitted::decode(entity.origin(), &row).map_err(|error| damaged(unreadable(error)))?;
    if emitted.outputs.len() as u64 != count || emitted.after != steps.after.digest {
        return Err(damaged(unbound));
    }
    Ok(Some(
        emitted.outputs.iter().map(|(_, payload)| payload.to_vec()).collect(),
    ))
}

/// The snapshot of a row; `None`: it is damaged.
fn whole_snapshot<D: Daemon>(
    store: &dyn Store,
    entity: &EntityId,
    row: &SnapshotRow,
) -> Result<Option<Arc<Snapshot<D>>>, StoreError> {
    let bytes = match store.fetch(&row.name, row.size.min(SNAPSHOT_BYTES_MAX)) {
        Ok(bytes) => bytes,
        // It may be whole.
        Err(error @ (StoreError::Io { .. } | StoreError::Closed)) => return Err(error),
        Err(_) => return Ok(None),
    };
    let Ok((meta, state)) = image::read_snapshot(&bytes, SNAPSHOT_BYTES_MAX) else {
        return Ok(None);
    };
    let is_his = meta.entity == *entity && meta.head.sequence == row.mark.sequence && meta.digest == row.mark.digest;
    Ok(is_his.then(|| {
        Arc::new(Snapshot {
            meta,
            state: D::state_in(&bytes[state]),
        })
    }))
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

/// Has user code take a step again. `first` is what it emitted the first time, if that is to count when it differs.
pub(crate) fn take_again<D: Daemon>(
    inside: &mut Inside<D>,
    replay: &mut Replay,
    place: Place,
    step: &Step<'_>,
    first: Option<&[Vec<u8>]>,
    diverged: &mut Option<Diverged>,
) -> Result<(), ResumeFailed<D>> {
    let event = match inside.source(step.stream) {
        Some(source) => D::arrived(step.link, step.payload, step.received_ns, source),
        None => D::received(step.link, step.payload, step.received_ns),
    };
    let key = EventKey {
        origin: step.link.origin,
        stream: step.stream,
        sequence: step.link.sequence,
    };
    let outputs = match step.outcome {
        // What failed every time the first time is not tried again.
        Outcome::PassedOver => {
            inside.host.passed_over(key);
            return replay
                .emitted(place, step, 0, inside.host.position().digest)
                .map_err(ResumeFailed::Diverged);
        }
        Outcome::Processed => match inside.daemon.process(&event) {
            Process::Done(outputs) => outputs,
            Process::Later(later) => inside.daemon.wait(later),
        },
    };
    let says_nothing = |error: &D::Error| D::never_ran(error) || D::still_runs(error) || D::ends_process(error);
    let now: Result<Few<D::Output>, Arc<str>> = match outputs {
        Ok(outputs) => Ok(outputs),
        Err(error) if first.is_none() || says_nothing(&error) => return Err(ResumeFailed::Raised(error)),
        Err(error) => Err(D::blame(&error).0),
    };
    let differs = first.and_then(|first| difference(place, first, now.as_ref().map(AsRef::as_ref)));
    let emitted = match (&differs, &now) {
        (None, Ok(outputs)) => u32::try_from(outputs.len()).unwrap_or(u32::MAX),
        _ => step.outputs,
    };
    let config = *inside.host.config();
    let kept = &mut inside.outputs;
    let mut keep = |copy: Option<D::Event>, link: CausalLink, digest| match copy {
        Some(copy) => kept.push(copy, digest, &config),
        None => {
            kept.base_sequence = link.sequence;
            kept.base_digest = digest;
        }
    };
    let returned = match (differs, now) {
        (None, Ok(outputs)) => {
            let emitted = |link, digest, output| keep(D::emitted(link, output, config.outputs_max > 0).1, link, digest);
            inside.host.returned(key, outputs, emitted).map(drop)
        }
        (differs, _) => {
            if let Some(differs) = differs {
                diverged.get_or_insert(differs).steps += 1;
            }
            let outputs: Few<&Vec<u8>> = first.into_iter().flatten().collect();
            let emitted = |link: CausalLink, digest, output: &Vec<u8>| {
                let again = (config.outputs_max > 0).then(|| D::received(link, output, step.received_ns));
                keep(again, link, digest);
            };
            inside.host.returned(key, outputs, emitted).map(drop)
        }
    };
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

/// How what user code emitted now differs from what it emitted the first time.
fn difference<P: AsRef<[u8]>>(place: Place, first: &[Vec<u8>], now: Result<&[P], &Arc<str>>) -> Option<Diverged> {
    let (found, same, exception) = match now {
        Ok(now) => {
            let same = first.iter().zip(now).take_while(|(first, now)| **first == now.as_ref());
            (Some(now.len()), same.count(), Arc::default())
        }
        Err(exception) => (None, 0, Arc::clone(exception)),
    };
    if found == Some(first.len()) && same == first.len() {
        return None;
    }
    let count = |length| u32::try_from(length).unwrap_or(u32::MAX);
    Some(Diverged {
        step: place.step,
        sequence: place.sequence + same as u64,
        expected: count(first.len()),
        found: found.map(count),
        exception,
        steps: 0,
    })
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
    let Some(journal) = entered.journal.take() else {
        return Ok(());
    };
    let parts = D::apart(|| journal.into_parts());
    // Whoever comes next finds it as it is now, if it does not come back.
    let before = entered.host.clone();
    let resumed = fresh.and_then(|fresh| resume_with(parts, entity, fresh));
    match resumed {
        Ok((mut inside, report)) => {
            inside.told = entered.told.clone();
            inside.checkpoints = std::mem::take(&mut entered.checkpoints);
            // What was not kept does not leave; what was, leaves before what comes.
            inside.line = entered.line.take();
            inside.host.restarted();
            **entered = inside;
            if let Some(divergence) = report.divergence {
                let crash = divergence.crash();
                entered
                    .slot()
                    .emit(DaemonLifecycleSignal::Crashed { crash, down: false });
            }
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
