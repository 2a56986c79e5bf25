//! The directory, on a node that does not crash: every record is durable at once.

use std::time::Duration;

use super::node::Node;
use super::{AUTHORITY, ENTITY, FULL, Held, Message, NODE_IDS, NODE_KEYS, SPAWN, Scene, node_of};
use crate::certificate::Reason;
use crate::digest::Digest;
use crate::directory::{Action, Directory, DirectoryConfig, Phase, Signal};
use crate::ownership::{Lineage, OwnershipRecord};
use crate::ownership_frame::{Ask, Body, OwnershipFrame};

pub struct Centre {
    directory: Directory,
    /// The lineage of the highest record.
    lineage: Vec<OwnershipRecord>,
}

impl Centre {
    pub fn new(now: Duration) -> Self {
        let config = DirectoryConfig {
            lease: Duration::from_secs(1),
            skew: Duration::from_millis(100),
            retry: Duration::from_millis(200),
            authorities: vec![NODE_IDS[AUTHORITY]],
            ..DirectoryConfig::default()
        };
        Self {
            directory: Directory::restore(now, [*SPAWN], config),
            lineage: vec![*SPAWN],
        }
    }

    pub fn wake_at(&self) -> Duration {
        self.directory.wake_at().unwrap_or(Duration::MAX)
    }

    pub fn wake(&mut self, nodes: &[Node], scene: &mut Scene) -> Held {
        self.step(Signal::Timer, nodes, scene)
    }

    pub fn is_quiet(&self) -> bool {
        self.directory.phase(&ENTITY) == Phase::Held
    }

    pub fn take_over(&mut self, to: usize, nodes: &[Node], scene: &mut Scene) -> Held {
        let (entity, to) = (*ENTITY, NODE_IDS[to]);
        self.step(Signal::TakeOver { entity, to }, nodes, scene)
    }

    pub fn hear(&mut self, from: usize, frame: OwnershipFrame, nodes: &[Node], scene: &mut Scene) -> Held {
        let (ask, from) = (frame.ask, NODE_IDS[from]);
        match frame.body {
            Body::Register(records) => {
                let lineage = Lineage::verify(&ENTITY, records, &[NODE_IDS[AUTHORITY]]);
                let lineage = lineage.expect("nodes show good lineages");
                if self
                    .directory
                    .highest(&ENTITY)
                    .is_none_or(|highest| highest.epoch() < lineage.highest().epoch())
                {
                    self.lineage = lineage.records().to_vec();
                }
                self.step(Signal::Register { from, ask, lineage }, nodes, scene)
            }
            Body::Renew(record) => self.step(Signal::Renew { from, ask, record }, nodes, scene),
            _ => Ok(()),
        }
    }

    fn step(&mut self, signal: Signal, nodes: &[Node], scene: &mut Scene) -> Held {
        let mut actions = Vec::new();
        self.directory.step(scene.now, signal, &mut actions);
        for action in actions {
            match action {
                Action::Send { to, frame } => {
                    scene.send(scene.layout.centre(), node_of(to), Message::Own(Box::new(frame)))
                }
                Action::Keep { ticket, writes } => {
                    for write in writes {
                        let value = write.value.expect("records are put");
                        let record = OwnershipRecord::decode(&value).expect("what was written can be read");
                        scene.facts.record(&record)?;
                        self.lineage.retain(|known| known.epoch() < record.epoch());
                        self.lineage.push(record);
                    }
                    self.step(Signal::Kept(ticket), nodes, scene)?;
                }
                Action::LeaseEnded { record, to } => self.take(record, node_of(to), nodes, scene)?,
                Action::Install(record) => {
                    let frame = OwnershipFrame {
                        ask: Ask {
                            run: scene.runs[node_of(record.node())],
                            number: 0,
                        },
                        body: Body::Install {
                            snapshot: Digest::ZERO,
                            snapshot_bytes: 0,
                            lineage: self.lineage.clone(),
                        },
                    };
                    scene.send(
                        scene.layout.centre(),
                        node_of(record.node()),
                        Message::Own(Box::new(frame)),
                    );
                }
                Action::TakenOver(_) => scene.report.takeovers += 1,
                Action::Refused { .. } => {}
            }
        }
        Ok(())
    }

    /// Copies the store of the last holder, and records who owns next.
    fn take(&mut self, record: OwnershipRecord, to: usize, nodes: &[Node], scene: &mut Scene) -> Held {
        let holder = &nodes[node_of(record.node())];
        let has_it = holder.disk.records.get(&record.epoch()) == Some(&record);
        let image = if has_it {
            match holder.rebuilt(scene)? {
                Some(mut daemon) => Some(daemon.rest()?),
                None => None,
            }
        } else if record.reason() == Reason::Takeover {
            // It was never installed.
            scene.takeovers.get(&record.epoch()).map(|(image, _)| image.clone())
        } else {
            None
        };
        let Some(image) = image else {
            return super::broken(
                "OneLive",
                format!("the holder of epoch {} has nothing to copy", record.epoch()),
            );
        };
        let position = image.host.position();
        let key = &NODE_KEYS[AUTHORITY];
        let next = record
            .taken_over(NODE_IDS[to], position.sequence, position.digest, key)
            .expect(FULL);
        scene.takeovers.insert(next.epoch(), (image, self.lineage.clone()));
        self.step(Signal::Take(next), nodes, scene)
    }
}
