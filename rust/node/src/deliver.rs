//! One event through a daemon: admit, process, chain, keep.

use std::sync::Arc;

use meshos_core::checkpoint::Checkpoint;
use meshos_core::config::OnError;
use meshos_core::event::{Crash, DaemonLifecycleSignal};
use meshos_core::host::Few;
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::inflow;
use meshos_core::ingress::{Admission, EventKey};
use meshos_core::journal::{Outcome, Step};
use meshos_core::route::Route;
use meshos_core::store::StoreError;

use crate::clock;
use crate::daemon::{Daemon, DeliverError, Delivered, Outputs, Process};
use crate::fed::Followed;
use crate::inside::{Inside, Snapshot};
use crate::journal::{Commit, Content};
use crate::keeping::Keeping;
use crate::lane::Job;
use crate::resumption;
use crate::revive;
use crate::slot::{Entered, Slot};

/// Checkpoints kept of one daemon; older ones are dropped.
pub const CHECKPOINTS_MAX: usize = 256;

/// What an event's caller wants back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The outputs.
    Outputs,
    /// A receipt, kept for repeated tries.
    Receipt,
}

/// An event on its way: decided, or with its coroutine running.
pub enum Begun<D: Daemon> {
    /// It is decided.
    Done(Result<Delivered<D>, DeliverError<D>>),
    /// `process` goes on elsewhere; [`finish`] takes its outputs.
    Later(EventKey, D::Later),
}

/// Takes one event, waiting on this thread for a coroutine if `process` is one.
///
/// # Errors
/// [`DeliverError`]: it did not take effect.
pub fn deliver<D: Daemon>(
    entered: &mut Entered<D>,
    event: &D::Event,
    want: Want,
) -> Result<Delivered<D>, DeliverError<D>> {
    let begun = begin(entered, event, want);
    ended(entered, event, want, begun)
}

/// As [`deliver`], of an event that follows on others of which nobody was told yet: a daemon that is ahead of the store
/// is not brought back, since those before would be gone.
///
/// # Errors
/// As [`deliver`].
pub fn deliver_after<D: Daemon>(
    entered: &mut Entered<D>,
    event: &D::Event,
    want: Want,
) -> Result<Delivered<D>, DeliverError<D>> {
    let begun = begin_after(entered, event, want);
    ended(entered, event, want, begun)
}

fn ended<D: Daemon>(
    entered: &mut Entered<D>,
    event: &D::Event,
    want: Want,
    begun: Begun<D>,
) -> Result<Delivered<D>, DeliverError<D>> {
    match begun {
        Begun::Done(outcome) => outcome,
        Begun::Later(key, later) => {
            let Some(outputs) = entered.lend(|daemon| daemon.wait(later)) else {
                return Err(DeliverError::Stale);
            };
            finish(entered, event, key, want, outputs)
        }
    }
}

/// Decides about one event and calls `process` if it is new.
pub fn begin<D: Daemon>(entered: &mut Entered<D>, event: &D::Event, want: Want) -> Begun<D> {
    match ready(entered) {
        None => begin_ready(entered, event, want),
        Some(error) => Begun::Done(Err(error)),
    }
}

/// As [`begin`], but a daemon that is ahead of the store is not brought back: what was done in the same batch, and what
/// comes before this event, is to be settled first.
pub(crate) fn begin_after<D: Daemon>(entered: &mut Entered<D>, event: &D::Event, want: Want) -> Begun<D> {
    if let Some(reason) = entered.failure() {
        return Begun::Done(Err(DeliverError::Failed(reason)));
    }
    match entered.journal.as_ref().and_then(|journal| journal.lost()) {
        None => begin_ready(entered, event, want),
        Some(error) => Begun::Done(Err(DeliverError::NotKept(error))),
    }
}

fn begin_ready<D: Daemon>(entered: &mut Entered<D>, event: &D::Event, want: Want) -> Begun<D> {
    if let Err(unleased) = entered.slot().leased() {
        return Begun::Done(Err(DeliverError::Unleased(unleased)));
    }
    let key = D::key(event);
    match entered.host.admit(key) {
        Admission::NoNumber => return Begun::Done(Err(DeliverError::NoNumber)),
        Admission::Duplicate { receipt, cursor } => {
            return Begun::Done(match (want, receipt) {
                (Want::Receipt, None) => Err(DeliverError::Unknown { cursor }),
                (Want::Receipt, receipt) => Ok(Delivered {
                    outputs: Few::new(),
                    receipt,
                    duplicate: true,
                }),
                (Want::Outputs, _) => Ok(Delivered {
                    outputs: Few::new(),
                    receipt: None,
                    duplicate: true,
                }),
            });
        }
        Admission::CallProcess => {}
    }
    call(entered, event, key, want)
}

/// A linked event that was looked at.
pub(crate) enum Linked<D: Daemon> {
    /// It is none that is to be processed.
    Decided(inflow::Admission),
    /// It is decided, or its coroutine runs. The event is there again, to be tried once more.
    Begun(D::Event, Begun<D>),
}

/// As [`begin_after`], for an event of a linked stream that was sent after the one of the number `prev`. `event` makes it,
/// if it is to be processed.
pub(crate) fn begin_linked<D: Daemon>(
    entered: &mut Entered<D>,
    key: EventKey,
    prev: u64,
    event: impl FnOnce() -> D::Event,
) -> Linked<D> {
    if let Some(reason) = entered.failure() {
        return Linked::Begun(event(), Begun::Done(Err(DeliverError::Failed(reason))));
    }
    if let Some(error) = entered.journal.as_ref().and_then(|journal| journal.lost()) {
        return Linked::Begun(event(), Begun::Done(Err(DeliverError::NotKept(error))));
    }
    if let Err(unleased) = entered.slot().leased() {
        return Linked::Begun(event(), Begun::Done(Err(DeliverError::Unleased(unleased))));
    }
    match entered.host.admit_linked(key, prev) {
        inflow::Admission::CallProcess => {
            let event = event();
            let begun = call(entered, &event, key, Want::Receipt);
            Linked::Begun(event, begun)
        }
        admission => Linked::Decided(admission),
    }
}

/// As [`begin_after`], for an event of a channel, known by this key.
pub(crate) fn begin_channel<D: Daemon>(entered: &mut Entered<D>, event: &D::Event, key: EventKey) -> Begun<D> {
    if let Some(reason) = entered.failure() {
        return Begun::Done(Err(DeliverError::Failed(reason)));
    }
    if let Some(error) = entered.journal.as_ref().and_then(|journal| journal.lost()) {
        return Begun::Done(Err(DeliverError::NotKept(error)));
    }
    if let Err(unleased) = entered.slot().leased() {
        return Begun::Done(Err(DeliverError::Unleased(unleased)));
    }
    match entered.host.admit(key) {
        Admission::NoNumber => Begun::Done(Err(DeliverError::NoNumber)),
        Admission::Duplicate { .. } => Begun::Done(Ok(Delivered {
            outputs: Few::new(),
            receipt: None,
            duplicate: true,
        })),
        Admission::CallProcess => call(entered, event, key, Want::Outputs),
    }
}

/// Calls `process` with an event that is new.
fn call<D: Daemon>(entered: &mut Entered<D>, event: &D::Event, key: EventKey, want: Want) -> Begun<D> {
    if let Some(error) = make_room(entered) {
        return Begun::Done(Err(error));
    }
    match entered.lend(|daemon| daemon.process(event)) {
        Some(Process::Done(outputs)) => Begun::Done(finish(entered, event, key, want, outputs)),
        Some(Process::Later(later)) => Begun::Later(key, later),
        None => Begun::Done(Err(DeliverError::Stale)),
    }
}

/// Why user code cannot be called now, if it cannot. A daemon that is ahead of the store is brought back first.
pub(crate) fn ready<D: Daemon>(entered: &mut Entered<D>) -> Option<DeliverError<D>> {
    if let Some(reason) = entered.failure() {
        return Some(DeliverError::Failed(reason));
    }
    let journal = entered.journal.as_ref()?;
    let error = journal.lost()?;
    if !journal.may_be_brought_back() {
        return Some(DeliverError::NotKept(error));
    }
    resumption::bring_back(entered, error).err()
}

/// Takes a snapshot where one must be taken before one more input; the error if it fails.
pub(crate) fn make_room<D: Daemon>(entered: &mut Entered<D>) -> Option<DeliverError<D>> {
    if !keeps_log(entered) || entered.is_complete && !entered.host.log_is_full() {
        return None;
    }
    match snapshot_inside(entered, Keep::Now) {
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(DeliverError::SnapshotFailed(error)),
        None => Some(DeliverError::Stale),
    }
}

/// Takes what `process` gave back into effect.
///
/// # Errors
/// [`DeliverError`]: it raised, or its outputs could not be taken.
pub fn finish<D: Daemon>(
    entered: &mut Entered<D>,
    event: &D::Event,
    key: EventKey,
    want: Want,
    outputs: Outputs<D>,
) -> Result<Delivered<D>, DeliverError<D>> {
    finish_letter(entered, event, key, want, outputs, None)
}

/// As [`finish`]; an event that was the dead letter of this number is none any more once it took effect.
///
/// # Errors
/// As [`finish`].
pub(crate) fn finish_letter<D: Daemon>(
    entered: &mut Entered<D>,
    event: &D::Event,
    key: EventKey,
    want: Want,
    outputs: Outputs<D>,
    letter: Option<u64>,
) -> Result<Delivered<D>, DeliverError<D>> {
    if entered.slot().is_forced() {
        return Err(DeliverError::Stale);
    }
    let keeps_log = keeps_log(entered);
    let outputs = match outputs {
        Ok(outputs) => outputs,
        Err(error) => return Err(raised(entered, key, error)),
    };
    let state = if keeps_every(entered) {
        match state_inside(entered) {
            Some(Ok(state)) => Some(state),
            Some(Err(error)) => return Err(unsaved(entered, error)),
            None => return Err(DeliverError::Stale),
        }
    } else {
        None
    };
    let inside: &mut Inside<D> = entered;
    let config = *inside.host.config();
    let kept = &mut inside.outputs;
    let mut journal = inside.journal.as_deref_mut();
    let tape = inside.tape.as_deref();
    let count = outputs.len();
    let mut routed = Few::<(u64, Route, D::Event)>::new();
    let epoch = inside.host.epoch();
    if inside
        .followed
        .as_ref()
        .is_some_and(|followed| followed.fed().epoch() != epoch)
    {
        drop(inside.followed.take());
    }
    let fed = inside
        .followed
        .as_ref()
        .map(Followed::fed)
        .filter(|fed| fed.has_readers());
    let mut followed = Vec::new();
    let emitted = inside.host.returned(key, outputs, |link, digest, output| {
        if let Some(journal) = &mut journal {
            journal.output(&link, output.as_ref());
        }
        if let Some(tape) = tape {
            tape.output(&link, output.as_ref());
        }
        if let Some(fed) = fed {
            followed.push((fed.shelved(link, output.as_ref()), digest));
        }
        let route = D::route(&output);
        let (event, copy) = D::emitted(link, output, config.outputs_max > 0);
        if !route.is_chain() {
            routed.push((link.sequence, route, event.clone()));
        }
        match copy {
            Some(copy) => kept.push(copy, digest, &config),
            None => {
                kept.base_sequence = link.sequence;
                kept.base_digest = digest;
            }
        }
        event
    });
    let Ok(outputs) = emitted else {
        if keeps_log {
            // User code already counted the event, the chain did not.
            return Err(revive::rebuild(entered).map_or_else(DeliverError::Failed, |()| DeliverError::Exhausted));
        }
        return Err(DeliverError::Exhausted);
    };
    let receipt = (want == Want::Receipt).then(|| inside.host.receipt(key));
    if let Some(number) = letter {
        inside.unlist(number);
        drop(inside.take_letter(number));
    }
    let exits = if routed.is_empty() {
        None
    } else {
        entered.slot().exits().cloned()
    };
    let inside: &mut Inside<D> = entered;
    if let Some(exits) = exits {
        for (sequence, route, output) in routed {
            inside.route(&exits, sequence, route, D::parts(&output).1);
        }
    }
    if !followed.is_empty() {
        inside.follow(followed);
    }
    if inside.journal.is_some() || inside.tape.is_some() {
        let (link, payload) = D::parts(event);
        inside.note_step(&Step {
            outcome: Outcome::Processed,
            receipt: receipt.is_some(),
            link,
            stream: key.stream,
            received_ns: D::received_ns(event),
            payload,
            outputs: u32::try_from(count).expect("outputs of one event are counted in 32 bits"),
            digest: inside.host.position().digest,
        });
    }
    if keeps_log {
        inside.keep(event);
    } else if inside.is_complete {
        inside.stray();
    }
    if let Some(state) = state {
        take_over_with(inside, state);
    } else if inside.host.snapshot_is_due()
        && (inside.daemon.is_stateful() || inside.journal.is_some())
        && let Some(Err(error)) = snapshot_inside(entered, Keep::Later)
    {
        // The event took effect; that its snapshot failed is an error of its own.
        let crash = crash::<D>("automatic snapshot: ", &error, None);
        entered
            .slot()
            .emit(DaemonLifecycleSignal::Crashed { crash, down: false });
    }
    if let Some(error) = entered
        .journal
        .as_ref()
        .and_then(|journal| journal.take_snapshot_error())
    {
        // The journal goes on from the snapshot before.
        not_kept(entered.slot(), error);
    }
    Ok(Delivered {
        outputs,
        receipt,
        duplicate: false,
    })
}

/// What an error is told as; `what` stands before its line.
pub fn crash<D: Daemon>(what: &str, error: &D::Error, event: Option<EventKey>) -> Crash {
    let (exception, message) = D::blame(error);
    Crash {
        reason: Arc::from(format!("{what}{}", D::describe(error))),
        exception,
        message,
        event: event.map(|key| (key.origin, key.sequence)),
    }
}

fn raised<D: Daemon>(entered: &mut Entered<D>, key: EventKey, error: D::Error) -> DeliverError<D> {
    if D::never_ran(&error) {
        return DeliverError::Raised(error);
    }
    entered.host.raised();
    let crash = crash::<D>("", &error, Some(key));
    if D::still_runs(&error) {
        entered.is_running = true;
        entered.lose("a call of process was interrupted and did not end", crash);
        return DeliverError::Raised(error);
    }
    if goes_down(entered) {
        entered.go_down(crash);
        return DeliverError::Raised(error);
    }
    entered
        .slot()
        .emit(DaemonLifecycleSignal::Crashed { crash, down: false });
    if entered.host.config().on_error != OnError::Restore {
        entered.stray();
        entered.untape();
    } else if let Err(reason) = revive::rebuild(entered) {
        return DeliverError::Lost { error, reason };
    }
    DeliverError::Raised(error)
}

/// Whether a raise of `process` is rebuilt from at once, which may take user code some time.
pub fn rebuilds<D: Daemon>(entered: &Entered<D>) -> bool {
    entered.host.config().on_error == OnError::Restore && !goes_down(entered)
}

/// Whether a raise of `process` takes the daemon down: somebody starts it again, and it can be.
fn goes_down<D: Daemon>(entered: &Entered<D>) -> bool {
    entered.slot().is_supervised() && entered.can_be_rebuilt()
}

fn keeps_log<D: Daemon>(entered: &Entered<D>) -> bool {
    let wanted = entered.host.config().on_error == OnError::Restore || entered.slot().is_supervised();
    let is_replayed = entered.journal.as_ref().is_some_and(|journal| journal.keeps_steps());
    is_replayed || wanted && entered.daemon.is_stateful()
}

/// Whether each event is kept together with a snapshot, which is written while user code waits.
pub(crate) fn keeps_every<D: Daemon>(entered: &Entered<D>) -> bool {
    entered.journal.as_ref().is_some_and(|journal| journal.keeps_every())
}

/// The event cannot be kept without a snapshot, and user code raised in it: as if it had raised in `process`.
fn unsaved<D: Daemon>(entered: &mut Entered<D>, error: D::Error) -> DeliverError<D> {
    entered.host.raised();
    let crash = crash::<D>("snapshot: ", &error, None);
    entered
        .slot()
        .emit(DaemonLifecycleSignal::Crashed { crash, down: false });
    if entered.host.config().on_error != OnError::Restore {
        entered.stray();
        entered.untape();
    } else if let Err(reason) = revive::rebuild(entered) {
        return DeliverError::Lost { error, reason };
    }
    DeliverError::SnapshotFailed(error)
}

fn not_kept<D: Daemon>(slot: &Slot<D>, error: StoreError) {
    let crash = Crash::because(&format!("snapshot: {error}"));
    slot.emit(DaemonLifecycleSignal::Crashed { crash, down: false });
}

/// Submits what the journal has of the events so far; who is told of them waits for the commit. `None`: there is none,
/// or everything is kept.
pub fn submit<D: Daemon>(entered: &mut Entered<D>) -> Option<Arc<Commit>> {
    if !entered.is_present() {
        return None;
    }
    if entered.line.is_none() {
        return entered.journal.as_mut()?.submit();
    }
    let exits = entered.slot().exits().cloned();
    entered.submit(exits.as_ref())
}

/// When what a snapshot needs is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// At once, on this thread, which waits for the disk.
    Now,
    /// By a lane, while events go on.
    Later,
}

/// Takes a snapshot at the present position, and keeps it as the newest. The disk is waited for.
///
/// # Errors
/// User code raised, which is counted; nothing else changed.
pub fn snapshot<D: Daemon>(inside: &mut Inside<D>) -> Result<Arc<Snapshot<D>>, D::Error> {
    let state = state(inside);
    take_over(inside, state)
}

/// As [`snapshot`], while others may enter as soon as the caller left: what is waited for then comes back too.
///
/// # Errors
/// User code raised, which is counted; nothing else changed.
pub fn snapshot_later<D: Daemon>(entered: &mut Entered<D>) -> Result<Taken<D>, D::Error> {
    let state = state(entered);
    let snapshot = taken(entered, state)?;
    keep_later(entered, &snapshot);
    let kept = entered.journal.as_ref().map(|journal| Arc::clone(journal.keeping()));
    Ok(Taken { snapshot, kept })
}

/// A snapshot that was taken, and what keeps it.
pub struct Taken<D: Daemon> {
    /// The snapshot.
    pub snapshot: Arc<Snapshot<D>>,
    /// What keeps it, to be waited for outside; `None`: nothing does.
    pub kept: Option<Arc<Keeping>>,
}

fn state<D: Daemon>(inside: &Inside<D>) -> Result<D::State, D::Error> {
    if inside.daemon.is_stateful() {
        inside.daemon.snapshot()
    } else {
        Ok(D::state(Vec::new()))
    }
}

/// As [`state`], so that it may be stopped by force. `None`: that happened, and there is nothing inside any more.
pub(crate) fn state_inside<D: Daemon>(entered: &mut Entered<D>) -> Option<Result<D::State, D::Error>> {
    if entered.daemon.is_stateful() {
        entered.lend(Daemon::snapshot)
    } else {
        Some(Ok(D::state(Vec::new())))
    }
}

/// As [`snapshot`], so that it may be stopped by force. `None`: that happened, and there is nothing inside any more.
pub(crate) fn snapshot_inside<D: Daemon>(
    entered: &mut Entered<D>,
    keep: Keep,
) -> Option<Result<Arc<Snapshot<D>>, D::Error>> {
    let state = state_inside(entered)?;
    if keep == Keep::Now {
        return Some(take_over(entered, state));
    }
    let snapshot = taken(entered, state);
    if let Ok(snapshot) = &snapshot {
        keep_later(entered, snapshot);
    }
    Some(snapshot)
}

pub(crate) fn take_over<D: Daemon>(
    inside: &mut Inside<D>,
    state: Result<D::State, D::Error>,
) -> Result<Arc<Snapshot<D>>, D::Error> {
    let snapshot = taken(inside, state)?;
    if let Some(journal) = &mut inside.journal {
        let content: Arc<dyn Content> = Arc::clone(&snapshot) as Arc<dyn Content>;
        // A failure is told by whoever comes next.
        let _ = D::apart(|| journal.snapshot(content));
    }
    Ok(snapshot)
}

/// Makes the snapshot of a state, which is the newest from now on.
fn taken<D: Daemon>(inside: &mut Inside<D>, state: Result<D::State, D::Error>) -> Result<Arc<Snapshot<D>>, D::Error> {
    let state = match state {
        Ok(state) => state,
        Err(error) => {
            inside.host.raised();
            return Err(error);
        }
    };
    let meta = inside.host.snapshot(
        inside.daemon.kind().to_string(),
        inside.daemon.schema(),
        clock::unix_ms(),
    );
    let snapshot: Arc<Snapshot<D>> = Arc::new(Snapshot { meta, state });
    inside.rest_on(Arc::clone(&snapshot));
    Ok(snapshot)
}

/// Keeps the steps that wait together with the snapshot after them.
fn take_over_with<D: Daemon>(inside: &mut Inside<D>, state: D::State) {
    let Ok(snapshot) = taken(inside, Ok(state)) else { return };
    if let Some(journal) = &mut inside.journal {
        D::apart(|| journal.with_snapshot(&*snapshot));
    }
}

/// Has a lane keep a snapshot.
fn keep_later<D: Daemon>(entered: &mut Entered<D>, snapshot: &Arc<Snapshot<D>>) {
    let slot = Arc::clone(entered.slot());
    let Some(journal) = &mut entered.journal else { return };
    let (older, is_to_be_asked) = journal.offer(Arc::clone(snapshot) as Arc<dyn Content>);
    drop(older);
    if !is_to_be_asked {
        return;
    }
    let job = Arc::new(Storing {
        keeping: Arc::clone(journal.keeping()),
        slot: Arc::clone(&slot),
    });
    let lanes = slot.events().map(|events| events.lanes());
    if !lanes.is_some_and(|lanes| lanes.submit(Arc::clone(&job) as Arc<dyn Job>)) {
        job.run();
    }
}

/// Keeps the snapshots of a daemon that wait to be kept, on a lane.
struct Storing<D: Daemon> {
    keeping: Arc<Keeping>,
    slot: Arc<Slot<D>>,
}

impl<D: Daemon> Job for Storing<D> {
    fn run(self: Arc<Self>) {
        self.keeping.began();
        while let Some(parcel) = self.keeping.take() {
            let kept = D::apart(|| self.keeping.keep(&parcel));
            if parcel.term.is_none()
                && kept.is_ok()
                && let Some(commit) = self.keeping.newest()
            {
                // No event waits for it, so nobody else would hear of it.
                let slot = Arc::clone(&self.slot);
                commit.then(Box::new(move |outcome| {
                    if let Err(error) = outcome {
                        not_kept(&slot, error);
                    }
                }));
            }
            drop(parcel);
            if kept.is_err()
                && let Some(error) = self.keeping.take_error()
            {
                not_kept(&self.slot, error);
            }
        }
    }
}

/// Signs a checkpoint at the head, unless the newest is there already.
///
/// # Errors
/// The node's key is public only.
pub fn checkpoint<D: Daemon>(
    inside: &mut Inside<D>,
    node: &Keypair,
) -> Result<(), meshos_core::identity::IdentityError> {
    let position = inside.host.position();
    sign(inside, node, position.sequence, position.digest)
}

/// Signs a checkpoint where the kept outputs begin, unless something vouches for that position already. Those of before this
/// node spoke for which nothing does are let go.
///
/// # Errors
/// The node's key is public only.
pub fn anchor<D: Daemon>(inside: &mut Inside<D>, node: &Keypair) -> Result<(), meshos_core::identity::IdentityError> {
    let (sequence, digest) = (inside.outputs.base_sequence, inside.outputs.base_digest);
    if inside
        .host
        .lineage()
        .iter()
        .any(|certificate| certificate.from_sequence == sequence)
    {
        return Ok(());
    }
    let begins = inside.host.lineage().last().map_or(0, |last| last.from_sequence);
    if sequence < begins {
        let vouches = |made: &Checkpoint| (made.sequence, made.digest) == (sequence, digest);
        if !inside.checkpoints.iter().any(vouches) {
            inside.outputs.drop_up_to(begins);
        }
        return Ok(());
    }
    sign(inside, node, sequence, digest)
}

fn sign<D: Daemon>(
    inside: &mut Inside<D>,
    node: &Keypair,
    sequence: u64,
    digest: meshos_core::digest::Digest,
) -> Result<(), meshos_core::identity::IdentityError> {
    let epoch = inside.host.epoch();
    if inside
        .checkpoints
        .iter()
        .any(|made| made.sequence == sequence && made.epoch == epoch)
    {
        return Ok(());
    }
    let entity: EntityId = inside.host.entity();
    let previous = inside
        .checkpoints
        .last()
        .map_or(meshos_core::digest::Digest::ZERO, Checkpoint::digest_of);
    let made = Checkpoint::sign(entity, epoch, sequence, digest, clock::unix_ms(), previous, node)?;
    if let Some(journal) = &mut inside.journal {
        journal.checkpoint(&made);
    }
    inside.checkpoints.push(made);
    if inside.checkpoints.len() > CHECKPOINTS_MAX {
        let old = inside.checkpoints.remove(0);
        if let Some(journal) = &mut inside.journal {
            journal.drop_checkpoint(&old);
        }
    }
    Ok(())
}
