//! The moves of one entity at one node: its source and its target, and what is under way for them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::image::seal::{self, Agreement, Opener, Sealer, Transcript};
use meshos_core::move_chunks::{self, ChunkReceiver};
use meshos_core::move_frame::{Aside, Body, MoveFrame, Reason, Reject, Report, Stage};
use meshos_core::move_known::{Known, Recovered};
use meshos_core::move_rows::{Frozen, MoveOrder, Outcome, Queued};
use meshos_core::move_source::{self, Gate, MoveSource, SourceConfig, Waiting};
use meshos_core::move_target::{self, MoveTarget, TargetConfig};
use meshos_core::ownership::{MigrationId, OwnershipRecord};
use meshos_core::stream::{Flow, Frame};

use super::buffers::Buffers;
use super::chunks::{Open, Opened, Seal, Sealed, Spool};
use super::copy::{Given, Taken};
use super::{Item, MoveStats, Moves, Role, Work};
use crate::clock;
use crate::hands::{Arrived, FreezeOpts, Frost, Waits};
use crate::image::Image;
use crate::keys;
use crate::sync::Mutex;

/// Time between two reports of bytes that were sent.
const REPORT_EVERY: Duration = Duration::from_millis(20);
/// How long what is told of a small image waits for the end of the move, which says all of it.
const TOLD_LATE: Duration = Duration::from_millis(5);
/// Images that are sent with the word that they are there.
const PUSHED: u64 = 16 << 10;
/// Who asks for one of these so soon did not have it yet.
const ON_ITS_WAY: Duration = Duration::from_millis(5);
/// When an event is tried again for which there was no room, in milliseconds.
const FULL_RETRY_MS: u32 = 20;
/// What is told of what is so small is mostly told at the end.
const SMALL: u64 = 1 << 20;
/// The largest image that is taken on.
const IMAGE_MAX: u64 = 1 << 34;

/// What an entry works with.
pub(super) struct Scene<'a> {
    pub(super) moves: &'a Moves,
    pub(super) now: Duration,
    pub(super) work: &'a mut Work,
    pub(super) stats: &'a mut MoveStats,
}

/// Records that a target is shown before the freeze at most; of longer lineages the newest.
const SHOWN_MAX: usize = 8;

fn shown(record: Box<OwnershipRecord>) -> MoveFrame<'static> {
    MoveFrame {
        mid: keys::random_bytes(),
        entity: record.entity(),
        epoch: record.epoch(),
        step: 1,
        body: Body::Aside(Box::new(Aside::Show(record))),
    }
}

/// An image that is being sent.
pub(super) struct Sending {
    pub(super) image: Arc<Image>,
    sealer: Arc<Sealer>,
    buffers: Arc<Buffers>,
    pub(super) order: Arc<MoveOrder>,
    /// When the next chunk may leave.
    next_at: Option<Instant>,
    /// Chunks that were asked for, and wait for their turn.
    waiting: BTreeSet<u32>,
    /// When all of it was sent before anybody asked.
    pushed_at: Option<Duration>,
}

impl Sending {
    pub(super) fn new(image: Arc<Image>, order: MoveOrder, agreement: &Agreement) -> Self {
        let transcript = Transcript::of(&order, image.digest, image.len);
        Self {
            image,
            sealer: Arc::new(Sealer::new(&transcript, agreement)),
            buffers: Arc::default(),
            order: Arc::new(order),
            next_at: None,
            waiting: BTreeSet::new(),
            pushed_at: None,
        }
    }

    /// Sends all of a small image at once: whoever is told of it has not to ask.
    fn push(&mut self, to: EntityId, scene: &mut Scene<'_>) {
        if self.image.len <= PUSHED && self.order.terms.rate_max == 0 {
            self.send(to, 0, scene);
            self.pushed_at = Some(scene.now);
        }
    }

    /// A chunk was sent, or could not be: who asks for it again gets it again.
    fn left(&mut self, image: &Digest, index: u32) {
        if self.image.digest == *image {
            self.waiting.remove(&index);
        }
    }

    /// Has a chunk sent, as fast as it may be. Whoever asks again for one that waits for its turn gets it once.
    pub(super) fn send(&mut self, to: EntityId, index: u32, scene: &mut Scene<'_>) {
        let is_chunk = seal::plain_range(self.image.len, index).is_some();
        if !is_chunk || !self.waiting.insert(index) {
            return;
        }
        let rate = self.order.terms.rate_max;
        let mut at = None;
        if rate > 0 {
            let now = Instant::now();
            let begin = self.next_at.map_or(now, |next| next.max(now));
            let takes = Duration::from_secs_f64(seal::CHUNK_PLAIN as f64 / rate as f64);
            self.next_at = begin.checked_add(takes);
            at = Some(begin);
        }
        scene.work.seals.push(Seal {
            to,
            order: Arc::clone(&self.order),
            image: Arc::clone(&self.image),
            sealer: Arc::clone(&self.sealer),
            buffers: Arc::clone(&self.buffers),
            index,
            at,
        });
    }
}

/// An image that is being pulled.
pub(super) struct Pulling {
    pub(super) receiver: ChunkReceiver,
    pub(super) order: Arc<MoveOrder>,
    pub(super) image: Digest,
    opener: Arc<Opener>,
    spool: Arc<Spool>,
}

impl Pulling {
    pub(super) fn begin(
        order: MoveOrder,
        digest: Digest,
        image_bytes: u64,
        scene: &Scene<'_>,
    ) -> Result<(Self, Vec<move_chunks::Action>), Reject> {
        let no_size = || Reject::new(Reason::TooLarge, "the image is of no size that there is");
        let plain = seal::plain_len(image_bytes).ok_or_else(no_size)?;
        let size = usize::try_from(plain).map_err(|_| no_size())?;
        let opener = Opener::new(&Transcript::of(&order, digest, plain), &scene.moves.key);
        let opener = opener.map_err(|_| Reject::from(Reason::IdentityTransportFailed))?;
        let mut actions = Vec::new();
        let seed = keys::random_u64();
        let begun = ChunkReceiver::begin(scene.now, (digest, image_bytes), IMAGE_MAX, [], seed, &mut actions);
        let pulling = Self {
            receiver: begun.map_err(|_| Reject::from(Reason::TooLarge))?,
            order: Arc::new(order),
            image: digest,
            opener: Arc::new(opener),
            spool: Arc::new(Spool(Mutex::new(vec![0; size]))),
        };
        Ok((pulling, actions))
    }

    /// Whether a node sends chunks of this.
    fn is_of(&self, from: EntityId, mid: MigrationId, image: Digest) -> bool {
        (self.order.source, self.order.mid, self.image) == (from, mid, image)
    }

    /// Asks the source for a chunk.
    pub(super) fn ask(&self, index: u32, scene: &mut Scene<'_>) {
        let body = Body::Pull {
            image: self.image,
            index,
        };
        let order = &self.order;
        let frame = MoveFrame {
            mid: order.mid,
            entity: order.entity,
            epoch: order.epoch,
            step: 1,
            body,
        };
        scene.work.posts.push((order.source, frame));
    }

    /// The bytes, when they are whole.
    pub(super) fn arrived(&self) -> Arrived {
        Arrived {
            bytes: Arc::new(std::mem::take(&mut *self.spool.0.lock())),
            opener: Some(Arc::clone(&self.opener)),
            active: None,
        }
    }
}

/// What a source tells of a move.
#[derive(Default)]
struct Told {
    frozen_at: Option<Instant>,
    snapshot_took: Duration,
    image_bytes: u64,
    moved: u64,
    /// Bytes of the copy before.
    before: u64,
    rounds: u32,
    last: Option<Instant>,
    stage: Option<Stage>,
    /// What is to be told if nothing more can be until then.
    held_back: Option<(Duration, EntityId, MoveFrame<'static>)>,
}

pub(super) struct Entry {
    pub(super) entity: EntityId,
    known: Known,
    source: MoveSource,
    target: MoveTarget,
    /// What is agreed with the target of a move away from here.
    agreement: Option<(MigrationId, Arc<Agreement>)>,
    sending: Option<Sending>,
    pulling: Option<Pulling>,
    /// The last record that its source named, in the newest final message.
    active: Option<OwnershipRecord>,
    /// A copy that was made here.
    pub(super) given: Option<Given>,
    /// An instance for it is being made.
    is_making: bool,
    /// Who asked for that, and is answered when it is made.
    asked: Option<(EntityId, MoveFrame<'static>)>,
    /// There is an instance that nobody took yet.
    is_made: bool,
    /// A copy that is being pulled, or held.
    pub(super) taken: Option<Taken>,
    told: Told,
    /// Who saw to the move that was under way last.
    last_order: Option<(EntityId, MigrationId, u64)>,
    due: Option<Duration>,
    /// Something was under way here.
    was_engaged: bool,
}

impl Entry {
    pub(super) fn new(node: EntityId, entity: EntityId, directory: EntityId, recovered: Recovered) -> Self {
        let source = SourceConfig {
            seed: keys::random_u64(),
            ..SourceConfig::default()
        };
        let target = TargetConfig {
            image_max: IMAGE_MAX,
            authorities: vec![directory],
            seed: keys::random_u64(),
            ..TargetConfig::default()
        };
        Self {
            entity,
            known: recovered.known,
            source: MoveSource::new(node, entity, source, recovered.unretired),
            target: MoveTarget::new(node, entity, target, recovered.prepared),
            agreement: None,
            sending: None,
            pulling: None,
            active: None,
            given: None,
            is_making: false,
            asked: None,
            is_made: false,
            taken: None,
            told: Told::default(),
            last_order: None,
            due: None,
            was_engaged: false,
        }
    }

    /// The same, of which a turn is noted.
    pub(super) fn due_at(mut self, at: Duration) -> Self {
        self.due = Some(at);
        self
    }

    /// Notes when it has its next turn; returns when it would have had.
    pub(super) fn set_due(&mut self, due: Option<Duration>) -> Option<Duration> {
        std::mem::replace(&mut self.due, due)
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        let pulling = self.pulling.as_ref().and_then(|pulling| pulling.receiver.wake_at());
        let machines = [self.source.wake_at(), self.target.wake_at()];
        let copies = [
            self.given.as_ref().map(Given::wake_at),
            self.taken.as_ref().and_then(Taken::wake_at),
        ];
        let told = self.told.held_back.as_ref().map(|(at, ..)| *at);
        let waking = machines.into_iter().chain(copies).chain([told]).flatten();
        waking.chain(pulling).min()
    }

    /// Whether nothing is under way: what is known can be read again.
    pub(super) fn is_idle(&self) -> bool {
        self.source.phase() == move_source::Phase::Idle && self.target.phase() == move_target::Phase::Idle
    }

    /// Whether nothing ever came of what was said about it, so that nothing is lost when it is read again. Whoever speaks of
    /// entities that are not moved takes no room.
    pub(super) fn is_idle_talk(&mut self) -> bool {
        self.was_engaged |= !self.is_idle() || self.given.is_some() || self.taken.is_some();
        let has_instance = self.is_making || self.is_made;
        !self.was_engaged && !has_instance && !self.source.is_answering() && self.wake_at().is_none()
    }

    /// Whether a move of it away from here is under way.
    pub(super) fn is_engaged(&self) -> bool {
        self.source.phase() != move_source::Phase::Idle
    }

    /// Takes the counters of another one over.
    pub(super) fn after(mut self, before: &mut Self, stats: &mut MoveStats) -> Self {
        before.count(stats);
        self.due = before.due;
        self.was_engaged |= before.was_engaged;
        self.agreement = before.agreement.take();
        self.given = before.given.take();
        self.taken = before.taken.take();
        self.is_making = before.is_making;
        self.asked = before.asked.take();
        self.is_made = before.is_made;
        self
    }

    pub(super) fn count(&self, stats: &mut MoveStats) {
        let (source, target) = (self.source.counters(), self.target.counters());
        stats.queued += source.queued;
        stats.shipped += source.shipped;
        stats.thawed += source.thawed;
        stats.redirected += source.redirected;
        stats.sent_on += target.redirected;
        stats.waiting += self.source.waits() as u64;
        stats.refused += source.refused;
        stats.taken_in += target.taken_in;
    }

    pub(super) fn hear_source(
        &mut self,
        from: EntityId,
        frame: MoveFrame<'_>,
        refusal: Option<Reject>,
        scene: &mut Scene<'_>,
    ) {
        if let Body::Pull { image, index } = frame.body
            && self.give(from, frame.mid, image, index, scene)
        {
            return;
        }
        if self.target.order().is_some_and(|order| order.mid == frame.mid) {
            // It is not this node that decides about what comes here.
            return;
        }
        let says_committed = matches!(frame.body, Body::Committed);
        // Whoever asks about another move than the one that is under way learns what became of it, and ends nothing.
        let is_asked = matches!(frame.body, Body::AbortReq);
        let is_other = self.source.order().is_none_or(|order| order.mid != frame.mid);
        let refusal = refusal.filter(|_| !(is_asked && is_other));
        let before = self.source.phase();
        let orchestrator = self.orchestrator();
        let signal = move_source::Signal::Heard {
            from,
            frame: Box::new(frame),
            wall: clock::unix_ms(),
            owned: self.owned(scene),
            refusal,
        };
        self.step_source(signal, scene);
        self.last_order = self.orchestrator().or(self.last_order);
        if before != self.source.phase() && self.source.phase() == move_source::Phase::Reserved {
            // While the daemon still works. What cannot be agreed is told when it is to freeze.
            if let Some(order) = self.source.order().cloned() {
                let _ = self.agree(&order);
                self.show_lineage(&order, scene);
            }
        }
        if says_committed && before == move_source::Phase::Committed && self.source.phase() != before {
            self.report(Stage::Complete, None, orchestrator, scene);
        } else if before == move_source::Phase::Frozen && self.source.phase() == move_source::Phase::Committing {
            self.report(Stage::Cutover, None, orchestrator, scene);
        }
    }

    pub(super) fn hear_target(
        &mut self,
        from: EntityId,
        frame: MoveFrame<'_>,
        refusal: Option<Reject>,
        scene: &mut Scene<'_>,
    ) {
        if let Body::Final { lineage, .. } = &frame.body {
            self.active = lineage.last().copied();
        }
        if refusal.is_none() && self.makes(from, &frame, scene) {
            return;
        }
        let signal = move_target::Signal::Heard {
            from,
            frame: Box::new(frame),
            wall: clock::unix_ms(),
            owned: self.owned(scene),
            refusal,
        };
        self.step_target(signal, scene);
    }

    /// Whether somebody asks that it is taken on, and an instance for it has to be made before that is answered: its source
    /// does not stand still meanwhile. Of a copy it was made before.
    fn makes(&mut self, from: EntityId, frame: &MoveFrame<'_>, scene: &mut Scene<'_>) -> bool {
        let order = match &frame.body {
            Body::Prepare(order) => order,
            Body::Abort => {
                let is_his = |(_, asked): &mut (EntityId, MoveFrame<'_>)| {
                    let of_it = matches!(&asked.body, Body::Prepare(order) if order.source == from);
                    of_it && asked.mid == frame.mid
                };
                return self.asked.take_if(is_his).is_some();
            }
            _ => return false,
        };
        let is_new = !self.is_made && self.target.would_agree(&self.known, order, clock::unix_ms());
        let has_copy = order.terms.live && self.taken.as_ref().is_some_and(|taken| taken.is_held);
        if !is_new || has_copy || from != order.orchestrator || order.target != scene.moves.node {
            return false;
        }
        let prepare = MoveFrame {
            mid: frame.mid,
            entity: frame.entity,
            epoch: frame.epoch,
            step: frame.step,
            body: Body::Prepare(order.clone()),
        };
        // Whoever asks last is answered; who asked before asks again.
        self.asked = Some((from, prepare));
        if !std::mem::replace(&mut self.is_making, true) {
            let order = order.clone();
            let making = Making(Some((scene.moves.me.clone(), self.entity)));
            let done = Box::new(move |made| making.ends(made));
            let construct = move |hands: &dyn crate::hands::Hands| hands.construct(&order, done);
            scene.work.calls.push(Box::new(construct));
        }
        true
    }

    /// The instance that was asked for is made, or cannot be. Tells who is to be answered.
    pub(super) fn made(&mut self, is_made: bool, scene: &mut Scene<'_>) -> Option<(EntityId, MoveFrame<'static>)> {
        (self.is_making, self.is_made) = (false, is_made);
        let asked = self.asked.take();
        if asked.is_none() {
            self.unmake(scene);
        }
        asked
    }

    /// Lets go of an instance that nobody is going to take.
    fn unmake(&mut self, scene: &mut Scene<'_>) {
        if std::mem::take(&mut self.is_made) {
            let entity = self.entity;
            let drop_made = move |hands: &dyn crate::hands::Hands| hands.drop_made(&entity);
            scene.work.calls.push(Box::new(drop_made));
        }
    }

    /// A chunk that is being waited for.
    pub(super) fn chunk(
        &mut self,
        from: EntityId,
        (mid, image, index): (MigrationId, Digest, u32),
        sealed: Sealed,
        scene: &mut Scene<'_>,
    ) {
        let copy = self.taken.as_ref().and_then(|taken| taken.pulling.as_ref());
        let mut pullings = self.pulling.iter().chain(copy);
        if let Some(pulling) = pullings.find(|pulling| pulling.is_of(from, mid, image)) {
            scene.work.opens.push(Open {
                entity: self.entity,
                mid,
                image,
                index,
                sealed,
                opener: Arc::clone(&pulling.opener),
                spool: Arc::clone(&pulling.spool),
            });
        }
    }

    pub(super) fn opened(&mut self, opened: Opened, scene: &mut Scene<'_>) {
        let is_it = |pulling: &&mut Pulling| pulling.order.mid == opened.mid && pulling.image == opened.image;
        let Some(pulling) = self.pulling.as_mut().filter(is_it) else {
            return self.opened_copy(&opened, scene);
        };
        if !opened.is_whole {
            let text = format!("chunk {} of the image cannot be opened", opened.index);
            self.pulling = None;
            let why = Reject::new(Reason::IdentityTransportFailed, &text);
            return self.step_target(move_target::Signal::RestoreFailed(why), scene);
        }
        let mut actions = Vec::new();
        let signal = move_chunks::Signal::Chunk {
            image: opened.image,
            index: opened.index,
            length: opened.length,
        };
        pulling.receiver.step(scene.now, signal, &mut actions);
        self.do_chunks(actions, scene);
    }

    pub(super) fn frozen(&mut self, mid: MigrationId, frost: Result<Box<Frost>, Reject>, scene: &mut Scene<'_>) {
        let order = self.source.order().filter(|order| order.mid == mid).cloned();
        let is_awaited = self.source.phase() == move_source::Phase::Freezing;
        let (Some(order), true) = (order, is_awaited) else {
            return;
        };
        let frost = match frost {
            Ok(frost) => frost,
            Err(why) => return self.step_source(move_source::Signal::FreezeFailed(why), scene),
        };
        let Frost {
            frozen,
            frozen_at,
            image,
            lineage,
            record,
            snapshot_took,
            rounds,
        } = *frost;
        let agreement = match self.agree(&order) {
            Ok(agreement) => agreement,
            Err(why) => return self.step_source(move_source::Signal::FreezeFailed(why), scene),
        };
        let sending = Sending::new(Arc::clone(&image), order, &agreement);
        let image_bytes = seal::sealed_len(image.len);
        self.told.snapshot_took = self.told.snapshot_took.max(snapshot_took);
        self.told.frozen_at = Some(frozen_at);
        self.told.image_bytes = image_bytes;
        self.told.rounds = rounds;
        self.sending = Some(sending);
        let signal = move_source::Signal::Frozen {
            frozen,
            image_bytes,
            lineage,
            record,
        };
        self.step_source(signal, scene);
        if self.source.phase() == move_source::Phase::Frozen
            && let Some((sending, order)) = self.sending.as_mut().zip(self.source.order())
        {
            sending.push(order.target, scene);
        }
        let orchestrator = self.orchestrator();
        self.report(Stage::Transfer, None, orchestrator, scene);
    }

    /// An event that came while the daemon stood still, as its mailbox saw it.
    pub(super) fn event(&mut self, queued: Queued, scene: &mut Scene<'_>) {
        match self.source.gate() {
            Gate::Wait => {
                self.step_source(move_source::Signal::Event(queued), scene);
                let is_due = self.told.last.is_none_or(|last| last.elapsed() >= REPORT_EVERY);
                if is_due || self.source.waits() == 1 {
                    let (stage, orchestrator) = (self.told.stage.unwrap_or(Stage::Snapshot), self.orchestrator());
                    self.report(stage, None, orchestrator, scene);
                }
            }
            // It was thawed meanwhile, or handed over.
            Gate::Open => {
                let entity = self.entity;
                let thaw = move |hands: &dyn crate::hands::Hands| hands.thaw(&entity, vec![queued]);
                scene.work.calls.push(Box::new(thaw));
            }
            Gate::Elsewhere => self.redirect(vec![queued], scene),
        }
    }

    pub(super) fn sent(&mut self, mid: MigrationId, (image, index, bytes): (Digest, u32, u64), scene: &mut Scene<'_>) {
        let copy = self.given.as_mut().and_then(Given::sending);
        for sending in self.sending.iter_mut().chain(copy) {
            sending.left(&image, index);
        }
        if self.source.order().is_none_or(|order| order.mid != mid) {
            return;
        }
        self.told.moved += bytes;
        let is_whole = self.told.moved >= self.told.image_bytes;
        let is_due = self.told.last.is_none_or(|last| last.elapsed() >= REPORT_EVERY);
        if is_whole || is_due {
            let stage = if is_whole { Stage::Restore } else { Stage::Transfer };
            let orchestrator = self.orchestrator();
            self.report(stage, None, orchestrator, scene);
        }
    }

    pub(super) fn restored(&mut self, mid: MigrationId, restored: Result<Frozen, Reject>, scene: &mut Scene<'_>) {
        if self.target.order().is_none_or(|order| order.mid != mid) {
            return;
        }
        let signal = match restored {
            Ok(frozen) => move_target::Signal::Restored(frozen),
            Err(why) => move_target::Signal::RestoreFailed(why),
        };
        self.step_target(signal, scene);
    }

    pub(super) fn installed(&mut self, mid: MigrationId, installed: &Result<u64, String>, scene: &mut Scene<'_>) {
        if self.target.order().is_none_or(|order| order.mid != mid) {
            return;
        }
        let signal = match installed {
            Ok(epoch) => move_target::Signal::Activated { epoch: *epoch },
            Err(_) => move_target::Signal::InstallRefused,
        };
        self.step_target(signal, scene);
    }

    /// A record became durable here that no machine of this entry wrote.
    pub(super) fn fenced(&mut self, record: &OwnershipRecord, scene: &mut Scene<'_>) {
        self.step_source(move_source::Signal::Fenced(Box::new(*record)), scene);
        self.step_target(move_target::Signal::Fenced(Box::new(*record)), scene);
    }

    pub(super) fn written(&mut self, is_source: bool, ticket: u64, is_kept: bool, scene: &mut Scene<'_>) {
        match (is_source, is_kept) {
            _ if ticket == 0 => {}
            (true, true) => self.step_source(move_source::Signal::Kept(ticket), scene),
            (true, false) => self.step_source(move_source::Signal::Failed(ticket), scene),
            (false, true) => self.step_target(move_target::Signal::Kept(ticket), scene),
            (false, false) => self.step_target(move_target::Signal::Failed(ticket), scene),
        }
    }

    pub(super) fn timer(&mut self, scene: &mut Scene<'_>) {
        self.copy_timer(scene);
        if let Some((_, to, frame)) = self.told.held_back.take_if(|(at, ..)| *at <= scene.now) {
            scene.work.posts.push((to, frame));
        }
        self.step_source(move_source::Signal::Timer, scene);
        self.step_target(move_target::Signal::Timer, scene);
        if let Some(pulling) = &mut self.pulling
            && pulling.receiver.wake_at().is_some_and(|at| at <= scene.now)
        {
            let mut actions = Vec::new();
            pulling
                .receiver
                .step(scene.now, move_chunks::Signal::Timer, &mut actions);
            self.do_chunks(actions, scene);
        }
    }

    /// Epoch in which this node may act for it now.
    pub(super) fn owned(&self, scene: &Scene<'_>) -> Option<u64> {
        let owned = scene.moves.ownership.owned(&self.entity);
        owned.map(|(epoch, _)| epoch)
    }

    fn orchestrator(&self) -> Option<(EntityId, MigrationId, u64)> {
        let order = self.source.order()?;
        Some((order.orchestrator, order.mid, order.epoch))
    }

    fn step_source(&mut self, signal: move_source::Signal<'_>, scene: &mut Scene<'_>) {
        let mut actions = Vec::new();
        self.source.step(scene.now, &mut self.known, signal, &mut actions);
        for action in actions {
            self.do_source(action, scene);
        }
    }

    fn do_source(&mut self, action: move_source::Action, scene: &mut Scene<'_>) {
        let entity = self.entity;
        match action {
            move_source::Action::Send { to, frame } => scene.work.posts.push((to, frame)),
            move_source::Action::SendChunk { to, image, index } => self.send_chunk(to, image, index, scene),
            move_source::Action::Keep { ticket, writes } => {
                scene.work.keeps.push((entity, Role::Source, ticket, writes));
            }
            move_source::Action::Freeze { order } => self.freeze(*order, scene),
            move_source::Action::Waits(waiting) => {
                let frame = Frame::Queued {
                    flow: self.flow(&waiting),
                    sequence: waiting.sequence,
                };
                scene.work.streams.push((waiting.from, frame));
            }
            move_source::Action::Busy(waiting) => {
                let frame = Frame::Busy {
                    flow: self.flow(&waiting),
                    sequence: waiting.sequence,
                    retry_after_ms: FULL_RETRY_MS,
                };
                scene.work.streams.push((waiting.from, frame));
            }
            move_source::Action::Thaw { queue } => {
                self.sending = None;
                self.given = None;
                self.agreement = None;
                let thaw = move |hands: &dyn crate::hands::Hands| hands.thaw(&entity, queue);
                scene.work.calls.push(Box::new(thaw));
            }
            move_source::Action::Redirect { queue } => self.redirect(queue, scene),
            move_source::Action::Fence(record) => {
                self.agreement = None;
                let spent = (self.sending.take(), self.given.take());
                let hand_over = move |hands: &dyn crate::hands::Hands| {
                    hands.hand_over(&record);
                    hands.dispose(&entity, Box::new(spent));
                };
                scene.work.calls.push(Box::new(hand_over));
            }
            move_source::Action::Retire { mid } => {
                if let Some(record) = self.known.committed(&mid).copied() {
                    // What stays is dropped when the node begins anew, if this is not kept.
                    let retire = move |hands: &dyn crate::hands::Hands| hands.retire(&record, Box::new(drop));
                    scene.work.calls.push(Box::new(retire));
                }
            }
            move_source::Action::Ended { mid, outcome, why } => match outcome {
                Outcome::Committed => scene.stats.committed += 1,
                Outcome::Aborted => {
                    scene.stats.aborted += 1;
                    let about = self.order_of(&mid);
                    self.report(self.told.stage.unwrap_or(Stage::Snapshot), why, about, scene);
                }
            },
        }
    }

    fn freeze(&mut self, order: MoveOrder, scene: &mut Scene<'_>) {
        let asked = Duration::from_millis(u64::from(order.freeze_ms));
        let default = SourceConfig::default();
        let within = if asked.is_zero() {
            default.freeze
        } else {
            asked.min(default.freeze_max)
        };
        let agreement = match self.agree(&order) {
            Ok(agreement) => agreement,
            Err(why) => return self.step_source(move_source::Signal::FreezeFailed(why), scene),
        };
        let opts = FreezeOpts {
            sealing: Some(agreement).filter(|_| !order.terms.key_stays),
            within,
        };
        if !order.terms.live {
            // The target holds none.
            self.drop_given(scene);
        }
        let copy = self.given.as_ref().filter(|given| given.order.mid == order.mid);
        self.told = Told {
            before: copy.map_or(0, |given| given.moved),
            snapshot_took: copy.map_or(Duration::ZERO, |given| given.snapshot_took),
            ..Told::default()
        };
        let me = scene.moves.me.clone();
        let (entity, mid) = (self.entity, order.mid);
        let waits = Arc::new(Queue {
            moves: me.clone(),
            entity,
        });
        let done = Box::new(move |frost: Result<Frost, Reject>| {
            if let Some(moves) = me.upgrade() {
                moves.put(Item::Frozen(entity, mid, frost.map(Box::new)), 0);
            }
        });
        let freeze = move |hands: &dyn crate::hands::Hands| hands.freeze(&order, opts, waits, done);
        scene.work.calls.push(Box::new(freeze));
    }

    /// What is agreed with the target of an order: made once, and one for all that is sealed for it.
    pub(super) fn agree(&mut self, order: &MoveOrder) -> Result<Arc<Agreement>, Reject> {
        if let Some((mid, agreement)) = &self.agreement
            && *mid == order.mid
        {
            return Ok(Arc::clone(agreement));
        }
        let made = Agreement::with(&order.target, &keys::ephemeral());
        let made = made.map_err(|_| Reject::new(Reason::IdentityTransportFailed, "the target's key is none"))?;
        let made = Arc::new(made);
        self.agreement = Some((order.mid, Arc::clone(&made)));
        Ok(made)
    }

    /// Shows the target by which records the daemon came to be here: it has checked their signatures when they come again
    /// with the image, and the daemon stands still.
    fn show_lineage(&self, order: &MoveOrder, scene: &mut Scene<'_>) {
        let lineage = scene.moves.ownership.lineage(&self.entity).unwrap_or_default();
        for record in &lineage[lineage.len().saturating_sub(SHOWN_MAX)..] {
            scene.work.posts.push((order.target, shown(Box::new(*record))));
        }
    }

    fn send_chunk(&mut self, to: EntityId, image: Digest, index: u32, scene: &mut Scene<'_>) {
        let Some(sending) = self.sending.as_mut().filter(|sending| sending.image.digest == image) else {
            return;
        };
        let is_on_its_way = |at: Duration| scene.now < at + ON_ITS_WAY;
        if sending.pushed_at.take().is_some_and(is_on_its_way) {
            // It crossed with what was sent. Who asks again does not have it.
            return;
        }
        sending.send(to, index, scene);
    }

    fn redirect(&self, queue: Vec<Queued>, scene: &mut Scene<'_>) {
        let Some(owner) = self.known.highest() else { return };
        for queued in queue {
            let flow = Flow {
                entity: self.entity,
                origin: queued.origin,
                stream: queued.stream,
            };
            let frame = Frame::Moved {
                flow,
                sequence: queued.sequence,
                node: owner.node(),
                epoch: owner.epoch(),
            };
            scene.work.streams.push((queued.from, frame));
        }
    }

    fn flow(&self, waiting: &Waiting) -> Flow {
        Flow {
            entity: self.entity,
            origin: waiting.origin,
            stream: waiting.stream,
        }
    }

    /// To whom a move is reported: also after it ended here.
    fn order_of(&self, mid: &MigrationId) -> Option<(EntityId, MigrationId, u64)> {
        self.orchestrator().or(self.last_order).filter(|(_, of, _)| of == mid)
    }

    fn report(
        &mut self,
        stage: Stage,
        refused: Option<Reject>,
        to: Option<(EntityId, MigrationId, u64)>,
        scene: &mut Scene<'_>,
    ) {
        let Some((orchestrator, mid, epoch)) = to else { return };
        let told = &mut self.told;
        told.last = Some(Instant::now());
        told.stage = Some(stage);
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let blackout = match stage {
            Stage::Complete => told.frozen_at.map_or(0, |at| micros(at.elapsed())),
            _ => 0,
        };
        let report = Report {
            stage,
            image_bytes: told.image_bytes,
            moved: told.before + told.moved,
            blackout_us: blackout,
            snapshot_us: micros(told.snapshot_took),
            waiting: self.source.waits() as u64,
            rounds: told.rounds,
            refused,
        };
        let is_refused = report.refused.is_some();
        let frame = MoveFrame {
            mid,
            entity: self.entity,
            epoch,
            step: 1,
            body: Body::Aside(Box::new(Aside::Report(report))),
        };
        let is_end = stage == Stage::Complete || is_refused;
        if is_end || self.told.image_bytes > SMALL {
            self.told.held_back = None;
            scene.work.posts.push((orchestrator, frame));
        } else {
            let at = self.told.held_back.take().map_or(scene.now + TOLD_LATE, |(at, ..)| at);
            self.told.held_back = Some((at, orchestrator, frame));
        }
    }

    fn step_target(&mut self, signal: move_target::Signal<'_>, scene: &mut Scene<'_>) {
        let mut actions = Vec::new();
        self.target.step(scene.now, &mut self.known, signal, &mut actions);
        for action in actions {
            self.do_target(action, scene);
        }
        if !matches!(
            self.target.phase(),
            move_target::Phase::Reserved | move_target::Phase::Restoring
        ) {
            self.unmake(scene);
        }
    }

    fn do_target(&mut self, action: move_target::Action, scene: &mut Scene<'_>) {
        let entity = self.entity;
        match action {
            move_target::Action::Send { to, frame } => scene.work.posts.push((to, frame)),
            move_target::Action::Keep { ticket, writes } => {
                scene.work.keeps.push((entity, Role::Target, ticket, writes));
            }
            move_target::Action::Restore {
                order,
                image,
                image_bytes,
            } => self.pull(*order, image, image_bytes, scene),
            move_target::Action::Discard { image } => {
                self.pulling = None;
                self.drop_taken(scene);
                let discard = move |hands: &dyn crate::hands::Hands| hands.discard(&entity, &image);
                scene.work.calls.push(Box::new(discard));
            }
            move_target::Action::Install {
                record,
                prepared,
                writes,
            } => {
                let me = scene.moves.me.clone();
                let mid = prepared.order.mid;
                let done = Box::new(move |installed: Result<u64, String>| {
                    if let Some(moves) = me.upgrade() {
                        moves.put(Item::Installed(entity, mid, installed), 0);
                    }
                });
                let install = move |hands: &dyn crate::hands::Hands| hands.install(&record, &prepared, writes, done);
                scene.work.calls.push(Box::new(install));
            }
            move_target::Action::GoLive { queue } => {
                scene.stats.arrived += 1;
                self.taken = None;
                // That it owns is said once others find it here: whoever hears it may ask for it at once.
                let is_said = |frame: &MoveFrame<'_>| frame.entity == entity && matches!(frame.body, Body::Committed);
                let posts = &mut scene.work.posts;
                let said: Vec<_> = posts.extract_if(.., |(_, frame)| is_said(frame)).collect();
                let me = scene.moves.me.clone();
                let done = Box::new(move |()| {
                    if let Some(moves) = me.upgrade() {
                        moves.put(Item::Said(said), 0);
                    }
                });
                let go_live = move |hands: &dyn crate::hands::Hands| hands.go_live(&entity, queue, done);
                scene.work.calls.push(Box::new(go_live));
            }
            move_target::Action::Redirect { queue } => self.redirect(queue, scene),
            move_target::Action::Show { to, record } => {
                scene.work.posts.push((to, shown(record)));
            }
            move_target::Action::Alarm(_) => scene.stats.alarms += 1,
        }
    }

    fn pull(&mut self, order: MoveOrder, digest: Digest, image_bytes: u64, scene: &mut Scene<'_>) {
        match Pulling::begin(order, digest, image_bytes, scene) {
            Err(why) => self.step_target(move_target::Signal::RestoreFailed(why), scene),
            Ok((pulling, actions)) => {
                self.pulling = Some(pulling);
                self.do_chunks(actions, scene);
            }
        }
    }

    fn do_chunks(&mut self, actions: Vec<move_chunks::Action>, scene: &mut Scene<'_>) {
        for action in actions {
            let Some(pulling) = &self.pulling else { return };
            match action {
                move_chunks::Action::Pull { index } => pulling.ask(index, scene),
                move_chunks::Action::Take { .. } => {}
                move_chunks::Action::Whole => self.restore(scene),
            }
        }
    }

    fn restore(&mut self, scene: &mut Scene<'_>) {
        let Some(pulling) = self.pulling.take() else { return };
        let me = scene.moves.me.clone();
        let mut image = pulling.arrived();
        image.active = self.active;
        let (entity, order) = (self.entity, pulling.order);
        let mid = order.mid;
        let done = Box::new(move |restored: Result<Frozen, Reject>| {
            if let Some(moves) = me.upgrade() {
                moves.put(Item::Restored(entity, mid, restored), 0);
            }
        });
        let restore = move |hands: &dyn crate::hands::Hands| hands.restore(&order, image, done);
        scene.work.calls.push(Box::new(restore));
    }
}

/// An instance that is being made. Where nobody makes it any more, as with a runtime that is gone, that is told too.
struct Making(Option<(std::sync::Weak<Moves>, EntityId)>);

impl Making {
    fn ends(mut self, made: Result<(), Reject>) {
        self.tell(made);
    }

    fn tell(&mut self, made: Result<(), Reject>) {
        if let Some((moves, entity)) = self.0.take()
            && let Some(moves) = moves.upgrade()
        {
            moves.put(Item::Made(entity, made), 0);
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.tell(Err(Reason::NotReady.into()));
    }
}

/// Takes the events of a daemon that stands still.
struct Queue {
    moves: std::sync::Weak<Moves>,
    entity: EntityId,
}

impl Waits for Queue {
    fn event(&self, queued: Queued) {
        if let Some(moves) = self.moves.upgrade() {
            moves.put(Item::Event(self.entity, queued), 0);
        }
    }
}
