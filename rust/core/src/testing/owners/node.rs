//! A node: an owner of each daemon on one disk, and a daemon that takes events whenever it may.

use std::time::Duration;

use super::disk::{Change, Disk, Tag};
use super::{
    CENTRE, Clock, DAEMON_IDS, DAEMON_KEYS, DAEMONS, FULL, Held, Mistake, NODE_IDS, NODE_KEYS, Scene, daemon_of,
};
use crate::certificate::Reason;
use crate::digest::{self, Digest};
use crate::mix;
use crate::owner::{Action, Answer, Owner, OwnerConfig, Phase, Refused, Signal};
use crate::ownership::OwnershipRecord;
use crate::ownership_frame::{Body, OwnershipFrame};

/// Where a daemon is with its event.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// It takes the next one then.
    Idle { at: Duration },
    /// The event is on its way to the disk.
    Syncing { event: u64, epoch: u64 },
    /// It is acknowledged then, if that is allowed.
    Ready { event: u64, epoch: u64, at: Duration },
}

struct Slot {
    owner: Owner,
    log: Vec<u64>,
    work: Work,
    /// Whether it is to be spawned here.
    spawns: bool,
}

/// A node.
pub struct Node {
    index: usize,
    run: u64,
    clock: Clock,
    slots: [Slot; DAEMONS],
    /// When it comes back after a crash.
    up_at: Option<Duration>,
    pub disk: Disk,
}

impl Node {
    pub fn new(index: usize, scene: &mut Scene) -> Self {
        let run = mix::pair(0, index as u64);
        let owner = Owner::new(NODE_IDS[index], run, OwnerConfig::default());
        let slot = |spawns| Slot {
            owner: owner.clone(),
            log: Vec::new(),
            work: Work::Idle { at: Duration::ZERO },
            spawns,
        };
        Self {
            index,
            run: 0,
            clock: Clock::any(&mut scene.random),
            slots: [slot(false), slot(false)],
            up_at: None,
            disk: Disk::new(),
        }
    }

    /// In which run it is.
    pub fn run(&self) -> u64 {
        mix::pair(self.run, self.index as u64)
    }

    pub fn waits(&self) -> String {
        let phases: Vec<_> = self.slots.iter().map(|slot| slot.owner.phase()).collect();
        format!("node {} up {:?}: {phases:?}", self.index, self.up_at.is_none())
    }

    /// Whether it may run a daemon now.
    pub fn runs(&self, daemon: usize, now: Duration) -> bool {
        self.up_at.is_none() && self.slots[daemon].owner.may_process(self.clock.local(now))
    }

    pub fn epoch(&self, daemon: usize) -> Option<u64> {
        self.slots[daemon].owner.active().map(OwnershipRecord::epoch)
    }

    pub fn wake_at(&self) -> Duration {
        if let Some(at) = self.up_at {
            return at;
        }
        let mut next = self.disk.wake_at();
        for slot in &self.slots {
            if let Some(at) = slot.owner.wake_at() {
                next = next.min(self.clock.global(at));
            }
            match slot.work {
                Work::Idle { at } | Work::Ready { at, .. } if slot.owner.phase() == Phase::Active => {
                    next = next.min(at)
                }
                _ => {}
            }
        }
        next
    }

    pub fn spawn(&mut self, daemon: usize, scene: &mut Scene) -> Held {
        self.slots[daemon].spawns = true;
        self.step(daemon, Signal::Spawn(self.first_record(daemon)), scene)
    }

    fn first_record(&self, daemon: usize) -> OwnershipRecord {
        let digest = digest::genesis(&DAEMON_IDS[daemon], &Digest::ZERO);
        OwnershipRecord::spawn(&DAEMON_KEYS[daemon], NODE_IDS[self.index], digest).expect(FULL)
    }

    pub fn crash(&mut self, scene: &mut Scene) {
        if self.up_at.is_none() {
            scene.report.crashes += 1;
            self.disk.crash(scene.options.forgetful, scene);
            self.up_at = Some(scene.soon(2500));
        }
    }

    fn restart(&mut self, scene: &mut Scene) -> Held {
        self.up_at = None;
        self.run += 1;
        self.clock = Clock::any(&mut scene.random);
        for daemon in 0..DAEMONS {
            let found = self.disk.highest(daemon);
            self.begin(daemon, found, scene)?;
            if found.is_none() && self.slots[daemon].spawns {
                self.spawn(daemon, scene)?;
            }
        }
        Ok(())
    }

    /// A new machine, with what the store has.
    fn begin(&mut self, daemon: usize, found: Option<OwnershipRecord>, scene: &mut Scene) -> Held {
        let seed = self.run();
        let config = OwnerConfig {
            seed,
            ..OwnerConfig::default()
        };
        let slot = &mut self.slots[daemon];
        slot.owner = Owner::new(NODE_IDS[self.index], seed, config);
        slot.log.clear();
        slot.work = Work::Idle { at: scene.now };
        let Some(record) = found else { return Ok(()) };
        let loses = !scene.options.journal && record.node() == NODE_IDS[self.index];
        let goes_on = scene.makes(Mistake::NoRestartRecord) || scene.makes(Mistake::ReusesEpoch);
        let restart = (loses && !goes_on).then(|| {
            let digest = record.certificate.digest;
            let next = record.restarted(0, digest, &NODE_KEYS[self.index]).expect(FULL);
            Box::new(next)
        });
        self.step(daemon, Signal::Recover { record, restart }, scene)
    }

    pub fn wake(&mut self, scene: &mut Scene) -> Held {
        if self.up_at.is_some() {
            return self.restart(scene);
        }
        while let Some((tag, is_kept)) = self.disk.done(scene) {
            match tag {
                Tag::Record(daemon, ticket) if is_kept => self.step(daemon, Signal::Kept(ticket), scene)?,
                Tag::Record(daemon, ticket) => self.step(daemon, Signal::Failed(ticket), scene)?,
                Tag::Event(daemon) => {
                    if let Work::Syncing { event, epoch } = self.slots[daemon].work {
                        let at = scene.soon(20);
                        self.slots[daemon].work = Work::Ready { event, epoch, at };
                    }
                }
            }
        }
        for daemon in 0..DAEMONS {
            let due = self.slots[daemon].owner.wake_at();
            if due.is_some_and(|at| at <= self.clock.local(scene.now)) {
                self.step(daemon, Signal::Timer, scene)?;
            }
            self.work(daemon, scene)?;
        }
        Ok(())
    }

    fn work(&mut self, daemon: usize, scene: &mut Scene) -> Held {
        let now = self.clock.local(scene.now);
        let slot = &mut self.slots[daemon];
        let Some(current) = slot.owner.active().map(OwnershipRecord::epoch) else {
            return Ok(());
        };
        let careless = scene.makes(Mistake::IgnoresLease);
        match slot.work {
            Work::Idle { at } if at <= scene.now => {
                if !careless && !slot.owner.may_process(now) {
                    scene.report.held_back += 1;
                    slot.work = Work::Idle { at: scene.soon(300) };
                    return Ok(());
                }
                scene.facts.apply(self.index, daemon, current)?;
                let event = scene.random.next_u64();
                slot.log.push(event);
                if scene.options.journal {
                    slot.work = Work::Syncing { event, epoch: current };
                    let change = Change::Event(daemon, event);
                    self.disk.submit(Vec::new(), Some(change), Tag::Event(daemon), scene);
                } else {
                    let at = scene.soon(20);
                    slot.work = Work::Ready {
                        event,
                        epoch: current,
                        at,
                    };
                }
            }
            Work::Ready { event, epoch, at } if at <= scene.now => {
                let unasked = careless || scene.makes(Mistake::AcknowledgesUnasked);
                if slot.owner.may_acknowledge(now, epoch) || unasked {
                    let position = slot.log.len();
                    let facts = &mut scene.facts;
                    facts.acknowledge(scene.now, self.index, daemon, epoch, position, event)?;
                    scene.report.acknowledged += 1;
                    slot.work = Work::Idle { at: scene.soon(400) };
                } else {
                    scene.report.held_back += 1;
                    let at = scene.soon(300);
                    slot.work = Work::Ready { event, epoch, at };
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub fn show(&mut self, record: OwnershipRecord, scene: &mut Scene) -> Held {
        if self.up_at.is_some() {
            return Ok(());
        }
        let daemon = daemon_of(record.entity());
        let known = self.disk.highest(daemon).map_or(0, |known| known.epoch());
        let is_mine = record.node() == NODE_IDS[self.index] && record.epoch() > known;
        if is_mine && scene.makes(Mistake::AdoptsHearsay) {
            self.disk
                .submit(vec![record.write()], None, Tag::Record(daemon, 0), scene);
            return self.begin(daemon, Some(record), scene);
        }
        self.step(daemon, Signal::Heard(record), scene)
    }

    pub fn hear(&mut self, frame: OwnershipFrame, scene: &mut Scene) -> Held {
        if self.up_at.is_some() {
            return Ok(());
        }
        let (daemon, ask) = (daemon_of(frame.entity()), frame.ask);
        let answer = match frame.body {
            Body::Registered { epoch, .. } => Answer::Registered { epoch },
            Body::LeaseOk { epoch, lease_ms, .. } => Answer::LeaseOk {
                epoch,
                lease: Duration::from_millis(u64::from(lease_ms)),
            },
            Body::Unregistered { reason, .. } => Answer::Unregistered(reason),
            Body::Higher(record) => return self.step(daemon, Signal::Higher { ask, record }, scene),
            Body::Install { lineage, .. } => {
                let lineage = scene.lineage(lineage);
                return self.step(
                    daemon,
                    Signal::Install {
                        run: ask.run,
                        record: *lineage.highest(),
                    },
                    scene,
                );
            }
            Body::Register(_) | Body::Renew(_) => return Ok(()),
        };
        self.step(daemon, Signal::Answer { ask, answer }, scene)
    }

    fn step(&mut self, daemon: usize, signal: Signal, scene: &mut Scene) -> Held {
        let mut actions = Vec::new();
        let now = self.clock.local(scene.now);
        self.slots[daemon].owner.step(now, signal, &mut actions);
        for action in actions {
            self.carry_out(daemon, action, scene)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, daemon: usize, action: Action, scene: &mut Scene) -> Held {
        match action {
            Action::Send(frame) => scene.send(self.index, CENTRE, &frame),
            Action::RegisterLineage(ask) => {
                let body = Body::Register(self.disk.lineage(daemon));
                scene.send(self.index, CENTRE, &OwnershipFrame { ask, body });
            }
            Action::Keep { ticket, record, writes } => {
                let change = match record.reason() {
                    Reason::Spawn => Some(Change::Base(daemon, Vec::new())),
                    Reason::Takeover if record.node() == NODE_IDS[self.index] => {
                        let image = scene.images.get(&(daemon, record.epoch())).cloned();
                        Some(Change::Base(daemon, image.expect("it is kept with the record")))
                    }
                    Reason::Restart if record.node() == NODE_IDS[self.index] => {
                        scene.report.restarts += 1;
                        None
                    }
                    _ => None,
                };
                self.disk.submit(writes, change, Tag::Record(daemon, ticket), scene);
                if scene.makes(Mistake::AnswersEarly) {
                    self.step(daemon, Signal::Kept(ticket), scene)?;
                }
            }
            Action::Activate { epoch } => {
                let slot = &mut self.slots[daemon];
                slot.log.clone_from(&self.disk.logs[daemon]);
                slot.work = Work::Idle { at: scene.now };
                scene.facts.activate(daemon, epoch, &slot.log)?;
            }
            Action::Stop => self.slots[daemon].log.clear(),
            Action::Resume => {}
            Action::Refused(refused) => {
                scene.report.refused += 1;
                let me = NODE_IDS[self.index];
                let is_mine = matches!(refused, Refused::AlreadyOwned { node, epoch: 1 } if node == me);
                if is_mine && scene.makes(Mistake::ReusesEpoch) {
                    let record = self.first_record(daemon);
                    self.disk
                        .submit(vec![record.write()], None, Tag::Record(daemon, 0), scene);
                    self.begin(daemon, Some(record), scene)?;
                }
            }
        }
        Ok(())
    }
}
