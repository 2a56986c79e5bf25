//! The node of the directory.

use std::time::Duration;

use super::disk::{Disk, Tag};
use super::node::Node;
use super::{
    CENTRE, Clock, DAEMON_IDS, DAEMONS, FULL, Held, Mistake, NODE_IDS, NODE_KEYS, NODES, Scene, daemon_of, node_of,
};
use crate::certificate::Reason;
use crate::digest::Digest;
use crate::directory::{Action, Directory, DirectoryConfig, Phase, Signal};
use crate::ownership::OwnershipRecord;
use crate::ownership_frame::{Ask, Body, OwnershipFrame};

const LEASE: Duration = Duration::from_secs(3);

/// The directory with its disk.
pub struct Centre {
    directory: Directory,
    clock: Clock,
    up_at: Option<Duration>,
    /// Leases that are over, whose holders' stores are to be copied.
    ended: Vec<(OwnershipRecord, usize)>,
    /// In which run each node is, as its heartbeats say.
    runs: [u64; NODES],
    pub disk: Disk,
}

fn config(scene: &Scene) -> DirectoryConfig {
    let mut config = DirectoryConfig {
        lease: LEASE,
        authorities: vec![NODE_IDS[CENTRE]],
        ..DirectoryConfig::default()
    };
    if scene.makes(Mistake::TakesOverAtOnce) {
        config.lease = Duration::ZERO;
        config.skew = Duration::ZERO;
    }
    config
}

impl Centre {
    pub fn new(scene: &mut Scene) -> Self {
        let clock = Clock::any(&mut scene.random);
        Self {
            directory: Directory::restore(clock.local(scene.now), [], config(scene)),
            clock,
            up_at: None,
            ended: Vec::new(),
            runs: [0; NODES],
            disk: Disk::new(),
        }
    }

    pub fn waits(&self) -> String {
        let phases = [0, 1].map(|daemon: usize| self.directory.phase(&DAEMON_IDS[daemon]));
        format!("directory up {:?}: {phases:?}", self.up_at.is_none())
    }

    /// Whether it waits for nothing.
    pub fn is_quiet(&self) -> bool {
        let mut phases = DAEMON_IDS.iter().map(|id| self.directory.phase(id));
        self.up_at.is_none() && phases.all(|phase| phase == Phase::Held)
    }

    pub fn wake_at(&self) -> Duration {
        let due = self.directory.wake_at().map(|at| self.clock.global(at));
        let due = due.unwrap_or(Duration::MAX).min(self.disk.wake_at());
        self.up_at.unwrap_or(due)
    }

    pub fn crash(&mut self, scene: &mut Scene) {
        if self.up_at.is_none() {
            scene.report.crashes += 1;
            self.disk.crash(false, scene);
            self.up_at = Some(scene.soon(3000));
        }
    }

    pub fn wake(&mut self, nodes: &[Node; NODES], scene: &mut Scene) -> Held {
        self.runs = nodes.each_ref().map(Node::run);
        if self.up_at.take().is_some() {
            self.clock = Clock::any(&mut scene.random);
            self.ended.clear();
            let highest = (0..DAEMONS).filter_map(|daemon| self.disk.highest(daemon));
            let now = self.clock.local(scene.now);
            self.directory = Directory::restore(now, highest.collect::<Vec<_>>(), config(scene));
        }
        while let Some((tag, is_kept)) = self.disk.done(scene) {
            if let Tag::Record(_, ticket) = tag {
                let signal = if is_kept {
                    Signal::Kept(ticket)
                } else {
                    Signal::Failed(ticket)
                };
                self.step(signal, scene)?;
            }
        }
        self.step(Signal::Timer, scene)?;
        self.take(nodes, scene)
    }

    /// Has the daemons taken over that an operator wants elsewhere.
    pub fn want(&mut self, scene: &mut Scene) -> Held {
        for (daemon, node) in std::mem::take(&mut scene.wanted) {
            let (entity, to) = (DAEMON_IDS[daemon], NODE_IDS[node]);
            if self.up_at.is_none() {
                self.step(Signal::TakeOver { entity, to }, scene)?;
            }
        }
        Ok(())
    }

    pub fn give_up(&mut self, daemon: usize, scene: &mut Scene) -> Held {
        if self.up_at.is_some() {
            return Ok(());
        }
        self.step(Signal::GiveUp(DAEMON_IDS[daemon]), scene)
    }

    pub fn hear(&mut self, from: usize, frame: OwnershipFrame, nodes: &[Node; NODES], scene: &mut Scene) -> Held {
        if self.up_at.is_some() {
            return Ok(());
        }
        let (ask, entity, from) = (frame.ask, frame.entity(), NODE_IDS[from]);
        match frame.body {
            Body::Register(lineage) => {
                let lineage = scene.lineage(lineage);
                self.step(Signal::Register { from, ask, lineage }, scene)?;
            }
            Body::Renew(record) => {
                let highest = self.directory.highest(&entity).map_or(0, OwnershipRecord::epoch);
                if scene.makes(Mistake::GrantsLowerEpochs) && record.epoch() < highest {
                    let epoch = record.epoch();
                    let body = Body::LeaseOk {
                        entity,
                        epoch,
                        lease_ms: 3000,
                    };
                    scene.facts.grant(daemon_of(entity), epoch, scene.now + LEASE);
                    scene.send(CENTRE, node_of(from), &OwnershipFrame { ask, body });
                } else {
                    self.step(Signal::Renew { from, ask, record }, scene)?;
                }
            }
            _ => {}
        }
        self.take(nodes, scene)
    }

    fn step(&mut self, signal: Signal, scene: &mut Scene) -> Held {
        let mut actions = Vec::new();
        self.directory.step(self.clock.local(scene.now), signal, &mut actions);
        for action in actions {
            match action {
                Action::Send { to, mut frame } => {
                    if let Body::LeaseOk {
                        entity,
                        epoch,
                        lease_ms,
                    } = &mut frame.body
                    {
                        *lease_ms = 3000;
                        scene.facts.grant(daemon_of(*entity), *epoch, scene.now + LEASE);
                    }
                    scene.send(CENTRE, node_of(to), &frame);
                }
                Action::Keep { ticket, writes } => {
                    self.disk.submit(writes, None, Tag::Record(0, ticket), scene);
                    if scene.makes(Mistake::AnswersEarly) {
                        self.step(Signal::Kept(ticket), scene)?;
                    }
                }
                Action::LeaseEnded { record, to } => self.ended.push((record, node_of(to))),
                Action::Install(record) => {
                    let daemon = daemon_of(record.entity());
                    let mut lineage = self.disk.lineage(daemon);
                    lineage.retain(|known| known.epoch() < record.epoch());
                    lineage.push(record);
                    let frame = OwnershipFrame {
                        ask: Ask {
                            run: self.runs[node_of(record.node())],
                            number: 0,
                        },
                        body: Body::Install {
                            snapshot: Digest::ZERO,
                            snapshot_bytes: 0,
                            lineage,
                        },
                    };
                    scene.send(CENTRE, node_of(record.node()), &frame);
                }
                Action::TakenOver(_) => scene.report.takeovers += 1,
                Action::Refused { .. } => {}
            }
        }
        Ok(())
    }

    /// Copies the stores of holders whose lease is over, and records who owns next.
    fn take(&mut self, nodes: &[Node; NODES], scene: &mut Scene) -> Held {
        for (record, to) in std::mem::take(&mut self.ended) {
            let daemon = daemon_of(record.entity());
            let disk = &nodes[node_of(record.node())].disk;
            let image = if disk.has(daemon, &record) {
                disk.logs[daemon].clone()
            } else if record.reason() == Reason::Takeover {
                // It was never installed, or is lost.
                scene.images.get(&(daemon, record.epoch())).cloned().unwrap_or_default()
            } else {
                Vec::new()
            };
            let digest = record.certificate.digest;
            let next = record.taken_over(NODE_IDS[to], image.len() as u64, digest, &NODE_KEYS[CENTRE]);
            let next = next.expect(FULL);
            scene.images.insert((daemon, next.epoch()), image);
            self.step(Signal::Take(next), scene)?;
        }
        Ok(())
    }
}
