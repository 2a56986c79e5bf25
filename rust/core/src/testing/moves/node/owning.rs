//! What the machine of ownership decides.

use super::super::disk::{Change, Tag};
use super::super::{Held, Message, NODE_IDS, Scene, broken};
use super::{Node, WRITE};
use crate::certificate::Reason;
use crate::feed::{self, Feed};
use crate::move_target;
use crate::owner;
use crate::ownership::OwnershipRecord;
use crate::ownership_frame::{self, OwnershipFrame};

impl Node {
    pub(super) fn owner(&mut self, signal: owner::Signal, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let mut actions = Vec::new();
        live.owner.step(scene.now, signal, &mut actions);
        for action in actions {
            self.do_owner(action, scene)?;
        }
        Ok(())
    }

    pub(super) fn do_owner(&mut self, action: owner::Action, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        match action {
            owner::Action::Keep {
                ticket,
                record,
                mut writes,
            } => {
                let mut change = None;
                let is_mine = record.node() == NODE_IDS[self.index];
                if record.reason() == Reason::Takeover && is_mine {
                    let Some(image) = scene.takeovers.get(&record.epoch()) else {
                        return broken("OneLive", "what is to be taken over is gone");
                    };
                    let (mut image, lineage) = image.clone();
                    image.host = image.host.under(record.certificate);
                    change = Some(Change::Base(Box::new(image)));
                    writes.extend(lineage.iter().map(OwnershipRecord::write));
                } else if let (true, Some((prepared, rows))) = (live.installs(&record), &live.installing) {
                    let Some(image) = self.disk.images.get(&prepared.frozen.image) else {
                        return broken("OneLive", "what a target holds is gone");
                    };
                    let mut image = image.clone();
                    if image.host.position().digest != record.certificate.digest {
                        return broken("OneChain", "the chain that was restored is another");
                    }
                    image.host = image.host.under(record.certificate);
                    change = Some(Change::Base(Box::new(image)));
                    writes.extend(prepared.lineage.iter().map(OwnershipRecord::write));
                    writes.extend(rows.iter().cloned());
                } else if let (true, Some(base)) = (is_mine, &self.disk.base) {
                    let mut base = base.clone();
                    base.host = base.host.under(record.certificate);
                    change = Some(Change::Base(base));
                }
                if self.place(WRITE, scene)? {
                    return Ok(());
                }
                self.disk
                    .submit(writes, change, Tag::Owner(ticket, Box::new(record)), scene);
                self.place(WRITE, scene)?;
            }
            owner::Action::Activate { epoch } => {
                let daemon = self.rebuilt(scene)?;
                let Some(live) = &mut self.live else { return Ok(()) };
                live.published = daemon.as_ref().map_or(0, |daemon| daemon.outputs.len() as u64);
                live.durable = live.published;
                live.daemon = daemon;
                live.pending = 0;
                live.slow = None;
                live.installing = None;
                for reader in scene.layout.readers() {
                    let feed = Feed::new(epoch, live.published, scene.random.next_u64());
                    live.feeds.insert(reader, feed);
                }
                for reader in scene.layout.readers() {
                    self.feed(reader, feed::Signal::Started, scene);
                }
                self.target(move_target::Signal::Activated { epoch }, scene)?;
            }
            owner::Action::Stop => live.feeds.clear(),
            owner::Action::Send(frame) => scene.send(self.index, scene.layout.centre(), Message::Own(Box::new(frame))),
            owner::Action::RegisterLineage(ask) => {
                let body = ownership_frame::Body::Register(self.disk.lineage());
                scene.send(
                    self.index,
                    scene.layout.centre(),
                    Message::Own(Box::new(OwnershipFrame { ask, body })),
                );
            }
            owner::Action::Resume => {
                let durable = live.durable;
                self.publish(durable, scene);
            }
            owner::Action::Refused(_) => {}
        }
        Ok(())
    }
}
