//! Decision: may this node run an entity?
//!
//! | phase | what it means |
//! |---|---|
//! | Unknown | nothing is known of the entity here |
//! | Registering | the directory is asked whether the entity may begin here |
//! | Keeping | a record that names this node is being made durable, with the state that it needs |
//! | Asking | the durable record names this node; the directory is asked for a lease |
//! | Active | this node runs the entity, while its lease is valid |
//! | Fenced | a higher record is known than this node may run under |
//!
//! | phase | spawn | recover | registered | lease ok | higher: another | higher: me | install | kept | failed |
//! |---|---|---|---|---|---|---|---|---|---|
//! | Unknown | Registering | Asking or Fenced | late | late | Fenced | Fenced | Keeping | late | late |
//! | Registering | refused | refused | Keeping | late | Fenced | Fenced | Keeping | late | late |
//! | Keeping | refused | refused | late | late | Fenced | Fenced | Keeping | Asking | Keeping |
//! | Asking | refused | refused | Asking | Active or Keeping | Fenced | Fenced | Keeping | late | late |
//! | Active | refused | refused | Active | Active | Fenced | Fenced | Keeping | late | late |
//! | Fenced | refused | refused | late | late | Fenced | Fenced | Keeping | Fenced | Fenced |
//!
//! Without a directory nobody is asked: what would be Registering is Keeping, and what would be Asking is Active. A record
//! that is not higher than what is known changes nothing.
//!
//! Invariants
//! * The highest record known is the fence. Nothing runs under a lower one, from the moment on at which a higher is heard.
//! * A record that names this node is adopted with its state in one write, or not at all: who only hears of it stops.
//! * An entity is processed, and its events acknowledged, only while the lease is valid: counted from when it was asked
//!   for, on the node's monotonic clock, less a margin. Both are asked separately: a lease may end during a sync.
//! * What is to be installed is meant for one run: a later one may have lost what that one did in the same epoch.
//! * An owner that lost what it did writes the next record first, and writes none above one that the directory does not
//!   know. So a takeover, two epochs up, meets no record of its epoch.
//!
//! Between the last question and the acknowledgement itself the process must not stop for longer than the margin. Where that
//! cannot be said, a takeover is safe only if the store of the node before is detached first.
//!
//! Whoever runs it has checked the signatures of every record, and that its lineage is good.
//!
//! Source: Gray, Cheriton, "Leases: An Efficient Fault-Tolerant Mechanism for Distributed File Cache Consistency", SOSP 1989.

use std::collections::VecDeque;
use std::time::Duration;

use crate::certificate::Reason;
use crate::id::EntityId;
use crate::mix;
use crate::ownership::OwnershipRecord;
use crate::ownership_frame::{Ask, Body, OwnershipFrame, Unregistered};
use crate::rows::Write;

/// Requests whose time is remembered.
const ASKED_MAX: usize = 16;

/// Options of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerConfig {
    /// Whether there is a directory.
    pub directory: bool,
    /// How much earlier than granted a lease ends here: for the time between a check and what it allows.
    pub margin: Duration,
    /// Time between renewals.
    pub renew_every: Duration,
    /// Time after which an unanswered request is repeated.
    pub resend: Duration,
    /// Seed of the jitter of both.
    pub seed: u64,
}

impl Default for OwnerConfig {
    fn default() -> Self {
        Self {
            directory: true,
            margin: Duration::from_millis(300),
            renew_every: Duration::from_secs(1),
            resend: Duration::from_millis(250),
            seed: 0,
        }
    }
}

/// Where a node is with an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nothing is known of it.
    Unknown,
    /// The directory is asked for a spawn.
    Registering,
    /// A record is being made durable.
    Keeping,
    /// The directory is asked for a lease.
    Asking,
    /// It runs here, while the lease is valid.
    Active,
    /// It does not run here.
    Fenced,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::Registering,
        Self::Keeping,
        Self::Asking,
        Self::Active,
        Self::Fenced,
    ];
}

/// What goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Bring the entity to be here, under its first record; or under the last of a lineage that the directory is to learn
    /// of, which whoever runs this has at hand.
    Spawn(OwnershipRecord),
    /// The process begins, and this is the highest record that its store has.
    Recover {
        /// That record.
        record: OwnershipRecord,
        /// The next one, if what the node did under that one is lost: with a durability below the journal.
        restart: Option<Box<OwnershipRecord>>,
    },
    /// The directory's answer, except a higher record.
    Answer {
        /// What it answers.
        ask: Ask,
        /// The answer.
        answer: Answer,
    },
    /// The directory's answer that another record is the highest.
    Higher {
        /// What it answers.
        ask: Ask,
        /// The record.
        record: OwnershipRecord,
    },
    /// A record that somebody showed.
    Heard(OwnershipRecord),
    /// A record that names this node, with its lineage and its state, which are at hand.
    Install {
        /// The run of this node that it is for.
        run: u64,
        /// The record.
        record: OwnershipRecord,
    },
    /// What was to be kept under this number is durable.
    Kept(u64),
    /// It is not known to be.
    Failed(u64),
    /// Time passed.
    Timer,
}

/// What the directory answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The record is registered.
    Registered {
        /// Its epoch.
        epoch: u64,
    },
    /// The lease is granted.
    LeaseOk {
        /// Epoch of the record.
        epoch: u64,
        /// How long, from when it was asked for.
        lease: Duration,
    },
    /// The record cannot be judged.
    Unregistered(Unregistered),
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this to the directory.
    Send(OwnershipFrame),
    /// Register the whole lineage, which the store has, or which is being registered, under this request.
    RegisterLineage(Ask),
    /// Make these rows durable; with those of the state, in one write, if the record names this node.
    Keep {
        /// Under which number to say what became of it.
        ticket: u64,
        /// The record.
        record: OwnershipRecord,
        /// Its row.
        writes: Vec<Write>,
    },
    /// Run the entity in this epoch.
    Activate {
        /// The epoch.
        epoch: u64,
    },
    /// The lease is valid again after it had run out.
    Resume,
    /// Stop at once; what is under way is not acknowledged.
    Stop,
    /// It cannot be spawned here.
    Refused(Refused),
}

/// Why an entity cannot be spawned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A node owns it, perhaps this one.
    AlreadyOwned {
        /// That node.
        node: EntityId,
        /// In which epoch.
        epoch: u64,
    },
    /// It is being spawned here.
    Spawning,
    /// The directory looks after as many as it may.
    DirectoryFull,
}

/// What was of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Signals that came late, twice or to nobody.
    pub late: u64,
    /// Leases that ran out.
    pub lapses: u64,
    /// Records heard that name this node and were not adopted.
    pub hearsay: u64,
    /// Writes that failed.
    pub failed: u64,
}

/// One node's view of who owns one entity.
#[derive(Debug, Clone)]
pub struct Owner {
    node: EntityId,
    run: u64,
    config: OwnerConfig,
    phase: Phase,
    /// The highest record that is durable here.
    durable: Option<OwnershipRecord>,
    /// The highest record heard of; never lower than the durable one.
    fence: Option<OwnershipRecord>,
    /// What is registered or being made durable; while asking, what follows.
    next: Option<OwnershipRecord>,
    ticket: u64,
    is_writing: bool,
    valid_until: Option<Duration>,
    asked: VecDeque<(u64, Duration)>,
    number: u64,
    wake_at: Option<Duration>,
    counters: Counters,
}

impl Owner {
    /// A node that knows nothing. No two runs of a node have the same number.
    #[must_use]
    pub fn new(node: EntityId, run: u64, config: OwnerConfig) -> Self {
        Self {
            node,
            run,
            config,
            phase: Phase::Unknown,
            durable: None,
            fence: None,
            next: None,
            ticket: 0,
            is_writing: false,
            valid_until: None,
            asked: VecDeque::new(),
            number: 0,
            wake_at: None,
            counters: Counters::default(),
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// What was of no use so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The same, with requests that are numbered from after a number on: for one of several in a run, of which none may
    /// take an answer to another for its own.
    #[must_use]
    pub const fn numbered_after(mut self, number: u64) -> Self {
        self.number = number;
        self
    }

    /// The highest record known: the fence.
    #[must_use]
    pub const fn fence(&self) -> Option<&OwnershipRecord> {
        self.fence.as_ref()
    }

    /// Until when its lease is valid, as it was renewed last; [`Duration::MAX`] without a directory.
    #[must_use]
    pub const fn valid_until(&self) -> Option<Duration> {
        self.valid_until
    }

    /// When [`Signal::Timer`] is due.
    #[must_use]
    pub const fn wake_at(&self) -> Option<Duration> {
        self.wake_at
    }

    /// The record under which it is active.
    #[must_use]
    pub const fn active(&self) -> Option<&OwnershipRecord> {
        match self.phase {
            Phase::Active => self.durable.as_ref(),
            _ => None,
        }
    }

    /// The durable record that names another node: what a sender is told. A node that was only told of is not, before
    /// that is durable.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&OwnershipRecord> {
        self.durable.as_ref().filter(|record| record.node() != self.node)
    }

    /// Whether an event may be processed now.
    #[must_use]
    pub fn may_process(&self, now: Duration) -> bool {
        self.phase == Phase::Active && self.valid_until.is_some_and(|until| now < until)
    }

    /// Whether an event that was processed in `epoch` may be acknowledged now, and an output published. To be asked after
    /// the sync.
    #[must_use]
    pub fn may_acknowledge(&self, now: Duration, epoch: u64) -> bool {
        self.may_process(now) && self.active().is_some_and(|record| record.epoch() == epoch)
    }

    /// Decides one step.
    pub fn step(&mut self, now: Duration, signal: Signal, actions: &mut Vec<Action>) {
        match signal {
            Signal::Spawn(record) => self.spawn(now, record, actions),
            Signal::Recover { record, restart } => self.recover(now, record, restart, actions),
            Signal::Answer { ask, answer } => self.answer(now, ask, answer, actions),
            Signal::Higher { ask, record } => self.higher(ask, record, actions),
            Signal::Heard(record) => self.hear(record, actions),
            Signal::Install { run, record } => self.install(now, run, record, actions),
            Signal::Kept(ticket) => self.kept(now, ticket, actions),
            Signal::Failed(ticket) => self.failed(now, ticket),
            Signal::Timer => self.timer(now, actions),
        }
    }

    fn spawn(&mut self, now: Duration, record: OwnershipRecord, actions: &mut Vec<Action>) {
        if self.phase != Phase::Unknown {
            let known = self.fence.as_ref();
            actions.push(Action::Refused(known.map_or(Refused::Spawning, already)));
            return;
        }
        self.next = Some(record);
        if self.config.directory {
            self.phase = Phase::Registering;
            self.ask(now, actions);
        } else {
            self.keep(record, actions);
        }
    }

    fn recover(
        &mut self,
        now: Duration,
        record: OwnershipRecord,
        restart: Option<Box<OwnershipRecord>>,
        actions: &mut Vec<Action>,
    ) {
        if self.phase != Phase::Unknown {
            self.counters.late += 1;
            return;
        }
        self.durable = Some(record);
        self.fence = Some(record);
        if record.node() != self.node {
            self.phase = Phase::Fenced;
            return;
        }
        self.next = restart.map(|restart| *restart);
        self.owned(now, actions);
    }

    /// The durable record names this node.
    fn owned(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.config.directory {
            self.phase = Phase::Asking;
            self.valid_until = None;
            self.ask(now, actions);
        } else {
            self.valid_until = Some(Duration::MAX);
            self.go_on(actions);
        }
    }

    /// Nobody objects to the durable record.
    fn go_on(&mut self, actions: &mut Vec<Action>) {
        match self.next.take() {
            Some(restart) => self.keep(restart, actions),
            None => {
                self.phase = Phase::Active;
                let epoch = self.durable.as_ref().map_or(0, OwnershipRecord::epoch);
                actions.push(Action::Activate { epoch });
            }
        }
    }

    fn keep(&mut self, record: OwnershipRecord, actions: &mut Vec<Action>) {
        self.phase = Phase::Keeping;
        self.fence = Some(record);
        self.next = Some(record);
        self.valid_until = None;
        self.wake_at = None;
        self.write(record, actions);
    }

    fn write(&mut self, record: OwnershipRecord, actions: &mut Vec<Action>) {
        self.ticket += 1;
        self.is_writing = true;
        let writes = vec![record.write()];
        actions.push(Action::Keep {
            ticket: self.ticket,
            record,
            writes,
        });
    }

    fn answer(&mut self, now: Duration, ask: Ask, answer: Answer, actions: &mut Vec<Action>) {
        let asked = self.asked.iter().find(|(number, _)| *number == ask.number);
        let Some(&(_, asked_at)) = asked.filter(|_| ask.run == self.run) else {
            self.counters.late += 1;
            return;
        };
        let durable = self.durable.as_ref().map_or(0, OwnershipRecord::epoch);
        match (self.phase, answer) {
            (Phase::Registering, Answer::Registered { epoch }) => match self.next {
                Some(record) if record.epoch() == epoch => self.keep(record, actions),
                _ => self.counters.late += 1,
            },
            (Phase::Asking | Phase::Active, Answer::Registered { epoch }) if epoch == durable => self.ask(now, actions),
            (Phase::Asking | Phase::Active, Answer::LeaseOk { epoch, lease }) if epoch == durable => {
                let until = (asked_at + lease).saturating_sub(self.config.margin);
                self.leased(now, until, actions);
            }
            (Phase::Asking | Phase::Active, Answer::Unregistered(Unregistered::Unknown)) => {
                let ask = self.number_for(now);
                actions.push(Action::RegisterLineage(ask));
            }
            (Phase::Registering, Answer::Unregistered(Unregistered::Full)) => {
                self.phase = Phase::Unknown;
                self.next = None;
                self.wake_at = None;
                actions.push(Action::Refused(Refused::DirectoryFull));
            }
            _ => self.counters.late += 1,
        }
    }

    fn leased(&mut self, now: Duration, until: Duration, actions: &mut Vec<Action>) {
        if until <= now {
            self.counters.late += 1;
            return;
        }
        let had_lapsed = self.phase == Phase::Active && self.valid_until.is_none_or(|before| before <= now);
        self.valid_until = self.valid_until.max(Some(until));
        self.wake_at = Some(self.later(now, self.config.renew_every));
        if self.phase == Phase::Asking {
            self.go_on(actions);
        } else if had_lapsed {
            self.counters.lapses += 1;
            actions.push(Action::Resume);
        }
    }

    fn higher(&mut self, ask: Ask, record: OwnershipRecord, actions: &mut Vec<Action>) {
        let is_asked = ask.run == self.run && self.asked.iter().any(|(number, _)| *number == ask.number);
        if is_asked && self.phase == Phase::Registering && self.next == Some(record) {
            // It was renewed before: this node ran the entity, and has lost what it did.
            self.next = None;
        }
        self.hear(record, actions);
    }

    fn hear(&mut self, record: OwnershipRecord, actions: &mut Vec<Action>) {
        let known = self.fence.as_ref().map_or(0, OwnershipRecord::epoch);
        let is_mine = self.phase == Phase::Registering && self.next == Some(record);
        if record.epoch() <= known || is_mine {
            self.counters.late += 1;
            return;
        }
        self.stop(actions);
        if self.phase == Phase::Registering {
            actions.push(Action::Refused(already(&record)));
        }
        self.phase = Phase::Fenced;
        self.fence = Some(record);
        self.wake_at = None;
        self.is_writing = false;
        if record.node() == self.node {
            // Its state is not here: who adopted it now would own a state that nobody left. It is not written either, so
            // after a crash the directory says it again.
            self.counters.hearsay += 1;
            self.next = None;
        } else {
            self.next = Some(record);
            self.write(record, actions);
        }
    }

    fn stop(&mut self, actions: &mut Vec<Action>) {
        if self.phase == Phase::Active {
            actions.push(Action::Stop);
        }
        self.valid_until = None;
    }

    fn install(&mut self, now: Duration, run: u64, record: OwnershipRecord, actions: &mut Vec<Action>) {
        let durable = self.durable.as_ref().map_or(0, OwnershipRecord::epoch);
        let known = self.fence.as_ref().map_or(0, OwnershipRecord::epoch);
        let is_kept_now = self.phase == Phase::Keeping && self.next == Some(record);
        let is_foreign = record.node() != self.node || run != self.run;
        if is_foreign || record.epoch() <= durable || record.epoch() < known || is_kept_now {
            self.counters.late += 1;
            // It was installed: the directory goes on until it hears that.
            if matches!(self.phase, Phase::Asking | Phase::Active) && self.durable == Some(record) {
                self.ask(now, actions);
            }
            return;
        }
        self.stop(actions);
        self.keep(record, actions);
    }

    fn kept(&mut self, now: Duration, ticket: u64, actions: &mut Vec<Action>) {
        if ticket != self.ticket || !self.is_writing {
            self.counters.late += 1;
            return;
        }
        self.is_writing = false;
        self.durable = self.next.take();
        if self.phase == Phase::Keeping {
            self.owned(now, actions);
        }
    }

    fn failed(&mut self, now: Duration, ticket: u64) {
        if ticket != self.ticket || !self.is_writing {
            self.counters.late += 1;
            return;
        }
        // It may be durable after all, so it is what has to become durable.
        self.counters.failed += 1;
        self.is_writing = false;
        self.wake_at = Some(self.later(now, self.config.resend));
    }

    fn timer(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.wake_at.is_none_or(|at| now < at) {
            return;
        }
        self.wake_at = None;
        match (self.phase, self.next) {
            (Phase::Keeping | Phase::Fenced, Some(record)) if !self.is_writing => self.write(record, actions),
            (Phase::Registering | Phase::Asking | Phase::Active, _) => self.ask(now, actions),
            _ => {}
        }
    }

    /// Asks the directory for what is missing.
    fn ask(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let body = match (self.phase, self.next, self.durable) {
            (Phase::Registering, Some(record), _) if record.reason() == Reason::Spawn => Body::Register(vec![record]),
            (Phase::Registering, Some(_), _) => {
                let ask = self.number_for(now);
                return actions.push(Action::RegisterLineage(ask));
            }
            (Phase::Asking | Phase::Active, _, Some(record)) => Body::Renew(record),
            _ => return,
        };
        let ask = self.number_for(now);
        actions.push(Action::Send(OwnershipFrame { ask, body }));
    }

    fn number_for(&mut self, now: Duration) -> Ask {
        self.number += 1;
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((self.number, now));
        self.wake_at = Some(self.later(now, self.config.resend));
        Ask {
            run: self.run,
            number: self.number,
        }
    }

    /// A span from now, up to a quarter longer or shorter.
    fn later(&self, now: Duration, span: Duration) -> Duration {
        let share = mix::pair_as_share(self.config.seed, self.number);
        now + span.mul_f64(0.75 + share / 2.0)
    }
}

const fn already(record: &OwnershipRecord) -> Refused {
    Refused::AlreadyOwned {
        node: record.node(),
        epoch: record.epoch(),
    }
}
