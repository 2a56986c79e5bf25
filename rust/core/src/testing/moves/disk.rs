//! A disk: what was written becomes durable in its order, after a while. A crash keeps a random beginning of the rest.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::facts::Uid;
use super::subject::{Emitted, Subject};
use super::{Held, Scene};
use crate::digest::{self, Digest};
use crate::host::Host;
use crate::id::EntityId;
use crate::link::CausalLink;
use crate::move_rows::{Frozen, Item};
use crate::outbox::Signal;
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::rows::{Table, Write};
use crate::stream::Frame;

/// A daemon at one moment: everything that travels.
#[derive(Debug, Clone)]
pub struct Image {
    pub host: Host,
    /// What user code gave; `None`: a fresh instance continues.
    pub state: Option<Rc<[u8]>>,
    pub history: Vec<Uid>,
    pub outputs: Vec<(CausalLink, Digest, Rc<[u8]>)>,
}

/// A daemon that runs.
pub struct Daemon {
    pub host: Host,
    pub subject: Box<dyn Subject>,
    pub history: Vec<Uid>,
    pub outputs: Vec<(CausalLink, Digest, Rc<[u8]>)>,
}

impl Image {
    pub fn frozen(&self) -> Frozen {
        let position = self.host.position();
        let numbers = [position.processed, self.outputs.len() as u64].map(u64::to_le_bytes);
        let state = self.state.as_deref().unwrap_or_default();
        Frozen {
            sequence: position.sequence,
            head: position.digest,
            image: digest::plain_of_parts(&[position.digest.as_bytes(), &numbers.concat(), state]),
        }
    }

    /// Its size: always more than one chunk.
    pub fn size(&self) -> u64 {
        (1 << 20) + 7 + self.state.as_ref().map_or(0, |state| state.len() as u64)
    }

    /// A fresh instance that continues after it.
    pub fn wake(&self, scene: &mut Scene) -> Held<Box<Daemon>> {
        let mut subject = scene.kind.make()?;
        if let Some(state) = &self.state {
            subject.restore(state)?;
        }
        Ok(Box::new(Daemon {
            host: self.host.clone(),
            subject,
            history: self.history.clone(),
            outputs: self.outputs.clone(),
        }))
    }
}

impl Daemon {
    /// It as it is.
    pub fn rest(&mut self) -> Held<Image> {
        Ok(Image {
            host: self.host.clone(),
            state: self.subject.snapshot()?,
            history: self.history.clone(),
            outputs: self.outputs.clone(),
        })
    }
}

/// An event that took effect, and what it emitted.
#[derive(Debug, Clone)]
pub struct Input {
    pub uid: Uid,
    pub digest: Digest,
    pub outputs: Rc<[Emitted]>,
}

/// What becomes of the daemon.
#[derive(Debug, Clone)]
pub enum Change {
    Base(Box<Image>),
    Input(Input),
    Drop(EntityId),
}

/// What a write is for.
#[derive(Debug, Clone)]
pub enum Tag {
    Owner(u64, Box<OwnershipRecord>),
    Source(u64),
    Target(u64),
    Order(MigrationId, u64),
    /// Who is answered, and up to which output is published.
    Event(Option<(usize, Frame<'static>)>, u64),
    Nothing,
}

struct Pending {
    writes: Vec<Write>,
    change: Option<Change>,
    tag: Tag,
    at: Duration,
    fails: bool,
}

/// The disk of a node.
#[derive(Default)]
pub struct Disk {
    pub records: BTreeMap<u64, OwnershipRecord>,
    pub items: BTreeMap<Vec<u8>, (MigrationId, Item)>,
    pub base: Option<Box<Image>>,
    pub inputs: Vec<Input>,
    pub images: BTreeMap<Digest, Image>,
    queue: VecDeque<Pending>,
}

impl Disk {
    pub fn submit(&mut self, writes: Vec<Write>, change: Option<Change>, tag: Tag, scene: &mut Scene) {
        let is_step = matches!(tag, Tag::Source(_) | Tag::Target(_) | Tag::Order(..));
        let plan = scene.options.plan;
        let is_slow = plan.is_none() && scene.random.below(20) == 0 && !scene.is_calm;
        let last = self.queue.back().map_or(Duration::ZERO, |pending| pending.at);
        let at = scene.soon(if is_slow { 60_000 } else { 4_000 }).max(last);
        let fails = is_step
            && !scene.is_calm
            && match plan {
                Some(plan) => plan.faults.torn_write.happens(&mut scene.random),
                None => scene.random.below(60) == 0,
            };
        scene.report.writes_failed += u64::from(fails);
        self.queue.push_back(Pending {
            writes,
            change,
            tag,
            at,
            fails,
        });
    }

    pub fn wake_at(&self) -> Duration {
        self.queue.front().map_or(Duration::MAX, |pending| pending.at)
    }

    /// What is durable by now, or failed.
    pub fn done(&mut self, scene: &mut Scene) -> Held<Option<(Tag, bool)>> {
        if self.wake_at() > scene.now {
            return Ok(None);
        }
        let Some(mut pending) = self.queue.pop_front() else {
            return Ok(None);
        };
        let (tag, fails) = (std::mem::replace(&mut pending.tag, Tag::Nothing), pending.fails);
        // What failed may be durable after all.
        if !fails || scene.random.below(2) == 0 {
            self.apply(pending.writes, pending.change, scene)?;
        }
        Ok(Some((tag, !fails)))
    }

    /// Makes something durable at once.
    pub fn apply(&mut self, writes: Vec<Write>, change: Option<Change>, scene: &mut Scene) -> Held {
        for write in writes {
            match (write.table, write.value) {
                (Table::Ownership, Some(value)) => {
                    let record = OwnershipRecord::decode(&value).expect("what was written can be read");
                    self.records.insert(record.epoch(), record);
                    scene.facts.record(&record)?;
                }
                (Table::Moves, Some(value)) => {
                    let (_, mid, item) = Item::decode(&write.key, &value).expect("what was written can be read");
                    scene.facts.item(mid, &item)?;
                    self.items.insert(write.key, (mid, item));
                }
                _ => drop(self.items.remove(&write.key)),
            }
        }
        match change {
            Some(Change::Base(image)) => {
                self.base = Some(image);
                self.inputs.clear();
            }
            Some(Change::Input(input)) => {
                scene.took_effect(None, &input)?;
                self.inputs.push(input);
            }
            // What was installed since stays.
            Some(Change::Drop(node)) if self.highest().is_none_or(|record| record.node() != node) => {
                self.base = None;
                self.inputs.clear();
            }
            Some(Change::Drop(_)) | None => {}
        }
        Ok(())
    }

    /// Forgets what is not durable, but for a random beginning. Returns how much of it survived.
    pub fn crash(&mut self, scene: &mut Scene) -> Held<usize> {
        let survives = match scene.options.plan {
            Some(plan) => plan.faults.torn_write.happens(&mut scene.random),
            None => true,
        };
        let kept = if survives {
            scene.random.below(self.queue.len() + 1)
        } else {
            0
        };
        self.queue.truncate(kept);
        for pending in std::mem::take(&mut self.queue) {
            self.apply(pending.writes, pending.change, scene)?;
        }
        Ok(kept)
    }

    /// The records that the highest one follows on: one that lost to a takeover is not among them.
    pub fn lineage(&self) -> Vec<OwnershipRecord> {
        let mut lineage: Vec<OwnershipRecord> = Vec::new();
        for record in self.records.values().rev() {
            if lineage.last().is_none_or(|next| next.previous == record.digest_of()) {
                lineage.push(*record);
            }
        }
        lineage.reverse();
        lineage
    }

    pub fn highest(&self) -> Option<OwnershipRecord> {
        self.records.last_key_value().map(|(_, record)| *record)
    }
}

/// The signal that an answer is, if it is one.
pub fn answer_of(frame: &Frame<'_>) -> Option<Signal<Vec<u8>>> {
    Signal::of(frame)
}
