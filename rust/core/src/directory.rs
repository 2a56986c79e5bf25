//! Decision: which node owns which entity, where several could. What a third party is needed for: a spawn happens once,
//! owners hold leases, and a lost owner is replaced.
//!
//! | phase | what it means |
//! |---|---|
//! | Unknown | no record of the entity is known |
//! | Keeping | a record is being made durable; it is answered afterwards |
//! | Held | the owner of the highest record may have a lease |
//! | Ending | a takeover is wanted: nothing is renewed, the last lease runs out |
//! | Ended | it has run out: the store of the last holder may be copied, and the next record be made |
//! | Installing | the record of a takeover is durable; the new owner is told until it renews |
//!
//! | phase | register | renew: highest | renew: next | renew: lower | take over | take | give up | lease over | kept |
//! |---|---|---|---|---|---|---|---|---|---|
//! | Unknown | Keeping | unregistered | unregistered | unregistered | refused | refused | refused | – | – |
//! | Keeping | withheld | withheld | withheld | higher | refused | refused | refused | – | Held or Installing |
//! | Held | answered | lease | Keeping | higher | Ending | refused | refused | – | – |
//! | Ending | higher | withheld | withheld | higher | Ending | refused | Held | Ended | – |
//! | Ended | higher | withheld | withheld | higher | refused | Keeping | Held | – | – |
//! | Installing | higher | Held, lease | Keeping | higher | Ending | refused | refused | – | – |
//!
//! Invariants
//! * Every record that is answered is durable first. What was begun to be written is written to the end, also after a
//!   failure, before anything else is decided about the entity.
//! * A lease is granted to the owner under the highest record alone. Lower records are refused, with the highest.
//! * A takeover goes on when the last lease granted has run out, plus the skew that clocks may have, and two epochs up or
//!   more. After a restart everybody is taken to have been granted a lease just before.
//! * A spawn or a takeover that is registered again after its owner renewed is refused, also to the owner: it has lost what
//!   it did. Nor is a takeover installed again then. After a restart everybody is taken to have renewed, so what was being spawned or
//!   installed and has not is taken over once more.
//! * There are at most so many entities; more are refused.
//!
//! The rows are those of [`Table::Ownership`](crate::rows::Table::Ownership). They must outlive the process, and the lease
//! of a run must not be shorter than that of the run before. A takeover that is not yet recorded ends with the process.
//!
//! Whoever runs it has checked the signatures of every record, and that what is registered is a good lineage.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::certificate::Reason;
use crate::id::EntityId;
use crate::ownership::{Lineage, OwnershipRecord};
use crate::ownership_frame::{Ask, Body, OwnershipFrame, Unregistered};
use crate::rows::Write;

/// Options of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// How long an owner may go on after it asked.
    pub lease: Duration,
    /// How much longer a lease may seem on the owner's clock, at most.
    pub skew: Duration,
    /// Time between tries: to write what failed, to install.
    pub retry: Duration,
    /// Entities looked after at most.
    pub entities_max: usize,
    /// Who may sign takeovers, beside the entities themselves.
    pub authorities: Vec<EntityId>,
}

impl Default for DirectoryConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(3),
            skew: Duration::from_millis(200),
            retry: Duration::from_millis(500),
            entities_max: 1 << 20,
            authorities: Vec::new(),
        }
    }
}

/// Where the directory is with an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nothing is known of it.
    Unknown,
    /// A record is being made durable.
    Keeping,
    /// Its owner may have a lease.
    Held,
    /// A takeover waits for the last lease.
    Ending,
    /// The last lease is over.
    Ended,
    /// The new owner is told.
    Installing,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::Keeping,
        Self::Held,
        Self::Ending,
        Self::Ended,
        Self::Installing,
    ];
}

/// What goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A node registers a lineage.
    Register {
        /// Which node.
        from: EntityId,
        /// What is to be answered.
        ask: Ask,
        /// What it registers.
        lineage: Lineage,
    },
    /// A node renews under a record.
    Renew {
        /// Which node.
        from: EntityId,
        /// What is to be answered.
        ask: Ask,
        /// The record.
        record: OwnershipRecord,
    },
    /// Another node shall own an entity.
    TakeOver {
        /// The entity.
        entity: EntityId,
        /// The node.
        to: EntityId,
    },
    /// The record of a takeover, made when the last lease was over.
    Take(OwnershipRecord),
    /// A takeover shall not be.
    GiveUp(EntityId),
    /// What was to be kept under this number is durable.
    Kept(u64),
    /// It is not known to be.
    Failed(u64),
    /// Time passed.
    Timer,
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this to a node.
    Send {
        /// The node.
        to: EntityId,
        /// The message.
        frame: OwnershipFrame,
    },
    /// Make these rows durable.
    Keep {
        /// Under which number to say what became of it.
        ticket: u64,
        /// The rows.
        writes: Vec<Write>,
    },
    /// The last lease is over: detach or copy the store of its holder, then make the record of the takeover.
    LeaseEnded {
        /// The record of the last holder.
        record: OwnershipRecord,
        /// Who shall own.
        to: EntityId,
    },
    /// Send the new owner this record, with its lineage and its snapshot, and name the run in which it is now: a later
    /// one may have lost what an earlier one did. Again, until it renews.
    Install(OwnershipRecord),
    /// The new owner renewed.
    TakenOver(OwnershipRecord),
    /// The takeover cannot be, or not now.
    Refused {
        /// The entity.
        entity: EntityId,
        /// Where the directory is with it.
        phase: Phase,
    },
}

/// What became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Leases granted.
    pub granted: u64,
    /// Requests under a record that is not the highest.
    pub lower: u64,
    /// Requests that were not answered: a write or a takeover is under way.
    pub withheld: u64,
    /// Requests of a node that the record does not name.
    pub foreign: u64,
    /// Requests that were refused since there were too many entities.
    pub full: u64,
    /// Writes that failed.
    pub failed: u64,
    /// Signals that came late.
    pub late: u64,
}

#[derive(Debug, Clone)]
enum State {
    Keeping(Box<Keeping>),
    Held,
    Ending { to: EntityId },
    Ended { to: EntityId },
    Installing,
}

#[derive(Debug, Clone)]
struct Keeping {
    ticket: Option<u64>,
    records: Vec<OwnershipRecord>,
    answer: Answer,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Registered(EntityId, Ask),
    LeaseOk(EntityId, Ask),
    Install,
}

#[derive(Debug, Clone)]
struct Entry {
    /// The highest record that is durable.
    highest: Option<OwnershipRecord>,
    /// Whether its owner has shown that it has it.
    renewed: bool,
    leased_until: Duration,
    state: State,
    wake_at: Option<Duration>,
}

/// Who owns what.
#[derive(Debug, Clone)]
pub struct Directory {
    config: DirectoryConfig,
    entries: BTreeMap<EntityId, Entry>,
    writing: BTreeMap<u64, EntityId>,
    due: BTreeSet<(Duration, EntityId)>,
    ticket: u64,
    counters: Counters,
}

impl Directory {
    /// Begins with the highest record of each entity that its rows have.
    #[must_use]
    pub fn restore(now: Duration, highest: impl IntoIterator<Item = OwnershipRecord>, config: DirectoryConfig) -> Self {
        let mut directory = Self {
            config,
            entries: BTreeMap::new(),
            writing: BTreeMap::new(),
            due: BTreeSet::new(),
            ticket: 0,
            counters: Counters::default(),
        };
        let leased_until = directory.lease_end(now);
        for record in highest {
            let entry = Entry {
                highest: Some(record),
                renewed: true,
                leased_until,
                state: State::Held,
                wake_at: None,
            };
            directory.entries.insert(record.entity(), entry);
        }
        directory
    }

    /// What became of requests so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where it is with an entity.
    #[must_use]
    pub fn phase(&self, entity: &EntityId) -> Phase {
        self.entries.get(entity).map_or(Phase::Unknown, Entry::phase)
    }

    /// The highest record of an entity that is durable.
    #[must_use]
    pub fn highest(&self, entity: &EntityId) -> Option<&OwnershipRecord> {
        self.entries.get(entity)?.highest.as_ref()
    }

    /// When [`Signal::Timer`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Decides one step.
    pub fn step(&mut self, now: Duration, signal: Signal, actions: &mut Vec<Action>) {
        match signal {
            Signal::Register { from, ask, lineage } => self.register(from, ask, &lineage, actions),
            Signal::Renew { from, ask, record } => self.renew(now, from, ask, record, actions),
            Signal::TakeOver { entity, to } => self.take_over(now, entity, to, actions),
            Signal::Take(record) => self.take(record, actions),
            Signal::GiveUp(entity) => self.give_up(now, entity, actions),
            Signal::Kept(ticket) => self.kept(now, ticket, actions),
            Signal::Failed(ticket) => self.failed(now, ticket),
            Signal::Timer => self.timer(now, actions),
        }
    }

    fn register(&mut self, from: EntityId, ask: Ask, lineage: &Lineage, actions: &mut Vec<Action>) {
        let record = lineage.highest();
        let entity = record.entity();
        if from != record.node() {
            self.counters.foreign += 1;
            return;
        }
        let Some(entry) = self.entries.get(&entity) else {
            if self.entries.len() >= self.config.entities_max {
                self.counters.full += 1;
                let reason = Unregistered::Full;
                return actions.push(say(from, ask, Body::Unregistered { entity, reason }));
            }
            self.entries.insert(entity, Entry::new());
            return self.keep(lineage.records().to_vec(), Answer::Registered(from, ask), actions);
        };
        let Some(highest) = entry.highest.filter(|_| entry.phase() != Phase::Keeping) else {
            self.counters.withheld += 1;
            return;
        };
        let is_held = entry.phase() == Phase::Held;
        let is_beginning = matches!(record.reason(), Reason::Spawn | Reason::Takeover);
        if *record == highest && is_held && !(entry.renewed && is_beginning) {
            let epoch = record.epoch();
            return actions.push(say(from, ask, Body::Registered { entity, epoch }));
        }
        let known = lineage.records().iter().position(|record| *record == highest);
        let after: Vec<_> = known.map_or(Vec::new(), |at| lineage.records()[at + 1..].to_vec());
        let is_handed_on = after.iter().all(|record| record.reason() != Reason::Takeover);
        if is_held && !after.is_empty() && is_handed_on {
            return self.keep(after, Answer::Registered(from, ask), actions);
        }
        self.counters.lower += 1;
        actions.push(say(from, ask, Body::Higher(highest)));
    }

    fn renew(&mut self, now: Duration, from: EntityId, ask: Ask, record: OwnershipRecord, actions: &mut Vec<Action>) {
        let entity = record.entity();
        if from != record.node() {
            self.counters.foreign += 1;
            return;
        }
        let unknown = Body::Unregistered {
            entity,
            reason: Unregistered::Unknown,
        };
        let Some(entry) = self.entries.get_mut(&entity) else {
            return actions.push(say(from, ask, unknown));
        };
        let Some(highest) = entry.highest else {
            self.counters.withheld += 1;
            return;
        };
        let phase = entry.phase();
        let is_next =
            record.reason() != Reason::Takeover && record.follows(Some(&highest), &self.config.authorities).is_ok();
        if record == highest || is_next {
            match phase {
                Phase::Held | Phase::Installing if is_next => {
                    if phase == Phase::Installing {
                        actions.push(Action::TakenOver(highest));
                    }
                    self.keep(vec![record], Answer::LeaseOk(from, ask), actions);
                }
                Phase::Held | Phase::Installing => self.grant(now, from, ask, record, actions),
                _ => self.counters.withheld += 1,
            }
        } else if record.epoch() > highest.epoch() {
            // What lies between is not known here.
            match phase {
                Phase::Held => actions.push(say(from, ask, unknown)),
                _ => self.counters.withheld += 1,
            }
        } else {
            self.counters.lower += 1;
            actions.push(say(from, ask, Body::Higher(highest)));
        }
    }

    fn grant(&mut self, now: Duration, to: EntityId, ask: Ask, record: OwnershipRecord, actions: &mut Vec<Action>) {
        let leased_until = self.lease_end(now);
        let Some(entry) = self.entries.get_mut(&record.entity()) else {
            return;
        };
        entry.renewed = true;
        entry.leased_until = entry.leased_until.max(leased_until);
        self.counters.granted += 1;
        let body = Body::LeaseOk {
            entity: record.entity(),
            epoch: record.epoch(),
            lease_ms: u32::try_from(self.config.lease.as_millis()).unwrap_or(u32::MAX),
        };
        actions.push(say(to, ask, body));
        if matches!(entry.state, State::Installing) {
            entry.state = State::Held;
            actions.push(Action::TakenOver(record));
            self.wake(record.entity(), None);
        }
    }

    fn take_over(&mut self, now: Duration, entity: EntityId, to: EntityId, actions: &mut Vec<Action>) {
        let phase = self.phase(&entity);
        match (phase, self.entries.get_mut(&entity)) {
            (Phase::Held | Phase::Installing | Phase::Ending, Some(entry)) => {
                entry.state = State::Ending { to };
                let at = entry.leased_until.max(now);
                self.wake(entity, Some(at));
            }
            _ => actions.push(Action::Refused { entity, phase }),
        }
    }

    fn take(&mut self, record: OwnershipRecord, actions: &mut Vec<Action>) {
        let entity = record.entity();
        let fits = self.entries.get(&entity).is_some_and(|entry| {
            matches!(entry.state, State::Ended { to } if to == record.node())
                && record.reason() == Reason::Takeover
                && record.follows(entry.highest.as_ref(), &self.config.authorities).is_ok()
        });
        if fits {
            self.keep(vec![record], Answer::Install, actions);
        } else {
            let phase = self.phase(&entity);
            actions.push(Action::Refused { entity, phase });
        }
    }

    fn give_up(&mut self, now: Duration, entity: EntityId, actions: &mut Vec<Action>) {
        let phase = self.phase(&entity);
        match (phase, self.entries.get_mut(&entity)) {
            (Phase::Ending | Phase::Ended, Some(entry)) => {
                let is_told = entry.renewed || !entry.is_takeover();
                entry.state = if is_told { State::Held } else { State::Installing };
                self.wake(entity, if is_told { None } else { Some(now) });
            }
            _ => actions.push(Action::Refused { entity, phase }),
        }
    }

    fn keep(&mut self, records: Vec<OwnershipRecord>, answer: Answer, actions: &mut Vec<Action>) {
        let Some(entity) = records.last().map(OwnershipRecord::entity) else {
            return;
        };
        self.wake(entity, None);
        if let Some(entry) = self.entries.get_mut(&entity) {
            entry.state = State::Keeping(Box::new(Keeping {
                ticket: None,
                records,
                answer,
            }));
        }
        self.write(entity, actions);
    }

    fn write(&mut self, entity: EntityId, actions: &mut Vec<Action>) {
        if let Some(State::Keeping(keeping)) = self.entries.get_mut(&entity).map(|entry| &mut entry.state) {
            self.ticket += 1;
            keeping.ticket = Some(self.ticket);
            self.writing.insert(self.ticket, entity);
            actions.push(Action::Keep {
                ticket: self.ticket,
                writes: keeping.records.iter().map(OwnershipRecord::write).collect(),
            });
        }
    }

    fn kept(&mut self, now: Duration, ticket: u64, actions: &mut Vec<Action>) {
        let entity = self.writing.remove(&ticket);
        let Some((entity, entry)) = entity.and_then(|entity| Some((entity, self.entries.get_mut(&entity)?))) else {
            self.counters.late += 1;
            return;
        };
        let State::Keeping(keeping) = std::mem::replace(&mut entry.state, State::Held) else {
            return;
        };
        let Some(record) = keeping.records.last().copied() else {
            return;
        };
        entry.highest = Some(record);
        entry.renewed = false;
        match keeping.answer {
            Answer::Registered(to, ask) => {
                let epoch = record.epoch();
                actions.push(say(to, ask, Body::Registered { entity, epoch }));
            }
            Answer::LeaseOk(to, ask) => self.grant(now, to, ask, record, actions),
            Answer::Install => {
                entry.state = State::Installing;
                self.install(now, record, actions);
            }
        }
    }

    fn install(&mut self, now: Duration, record: OwnershipRecord, actions: &mut Vec<Action>) {
        actions.push(Action::Install(record));
        self.wake(record.entity(), Some(now + self.config.retry));
    }

    fn failed(&mut self, now: Duration, ticket: u64) {
        let Some(entity) = self.writing.remove(&ticket) else {
            self.counters.late += 1;
            return;
        };
        self.counters.failed += 1;
        if let Some(State::Keeping(keeping)) = self.entries.get_mut(&entity).map(|entry| &mut entry.state) {
            keeping.ticket = None;
        }
        self.wake(entity, Some(now + self.config.retry));
    }

    fn timer(&mut self, now: Duration, actions: &mut Vec<Action>) {
        while let Some(&(at, entity)) = self.due.first()
            && at <= now
        {
            self.wake(entity, None);
            let Some(entry) = self.entries.get_mut(&entity) else {
                continue;
            };
            match (&entry.state, entry.highest) {
                (State::Keeping(keeping), _) if keeping.ticket.is_none() => self.write(entity, actions),
                (&State::Ending { to }, Some(record)) => {
                    entry.state = State::Ended { to };
                    actions.push(Action::LeaseEnded { record, to });
                }
                (State::Installing, Some(record)) => self.install(now, record, actions),
                _ => {}
            }
        }
    }

    fn wake(&mut self, entity: EntityId, at: Option<Duration>) {
        if let Some(entry) = self.entries.get_mut(&entity) {
            if let Some(before) = entry.wake_at {
                self.due.remove(&(before, entity));
            }
            entry.wake_at = at;
            self.due.extend(at.map(|at| (at, entity)));
        }
    }

    fn lease_end(&self, now: Duration) -> Duration {
        now + self.config.lease + self.config.skew
    }
}

impl Entry {
    const fn new() -> Self {
        Self {
            highest: None,
            renewed: false,
            leased_until: Duration::ZERO,
            state: State::Held,
            wake_at: None,
        }
    }

    const fn phase(&self) -> Phase {
        match self.state {
            State::Keeping(_) => Phase::Keeping,
            State::Held => Phase::Held,
            State::Ending { .. } => Phase::Ending,
            State::Ended { .. } => Phase::Ended,
            State::Installing => Phase::Installing,
        }
    }

    fn is_takeover(&self) -> bool {
        self.highest.is_some_and(|record| record.reason() == Reason::Takeover)
    }
}

const fn say(to: EntityId, ask: Ask, body: Body) -> Action {
    Action::Send {
        to,
        frame: OwnershipFrame { ask, body },
    }
}
