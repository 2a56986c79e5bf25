//! Events of a channel on their way out: encoded, and sealed, once for all nodes that they go to.

use meshos_core::channel_frame::{ChannelFrame, Event};
use meshos_core::channel_log::Logged;
use meshos_core::id::EntityId;
use meshos_core::name::ChannelName;
use meshos_core::sealed_channel::{self, ChannelKey, Place};

use crate::channel_out::Outgoing;

/// What payloads of a gated channel are sealed with.
pub(crate) struct Seal {
    pub(crate) key: ChannelKey,
    pub(crate) generation: u64,
}

/// Events for all who read a channel at some nodes.
pub(crate) struct Batch {
    pub(crate) channel: ChannelName,
    pub(crate) life: u64,
    pub(crate) events: Vec<Logged>,
    pub(crate) to: Vec<EntityId>,
    pub(crate) seal: Option<Seal>,
}

impl Batch {
    /// Puts every event into what goes to each node.
    pub(crate) fn pack(&self, own: &EntityId, out: &mut Outgoing) {
        if let ([node], None) = (&self.to[..], &self.seal) {
            for logged in &self.events {
                let frame = ChannelFrame::Event {
                    channel: self.channel.clone(),
                    log: self.life,
                    event: Event {
                        sequence: logged.sequence,
                        emitter: logged.emitter,
                        sealed: false,
                        payload: &logged.payload,
                    },
                };
                out.write(node, logged.payload.len(), |out| frame.put(out));
            }
            return;
        }
        for logged in &self.events {
            let frame = with_event(logged, (&self.channel, own, self.seal.as_ref()), |event| {
                let frame = ChannelFrame::Event {
                    channel: self.channel.clone(),
                    log: self.life,
                    event,
                };
                frame.to_bytes()
            });
            self.to.iter().for_each(|node| out.put(node, &frame));
        }
    }
}

/// Channel, publisher, and what payloads are sealed with.
pub(crate) type At<'a> = (&'a ChannelName, &'a EntityId, Option<&'a Seal>);

/// Has an event encoded, sealed if its channel is gated.
pub(crate) fn with_event(logged: &Logged, at: At<'_>, encode: impl FnOnce(Event<'_>) -> Vec<u8>) -> Vec<u8> {
    let (channel, publisher, seal) = at;
    let sealed = seal.map(|seal| {
        let place = Place {
            channel,
            publisher,
            sequence: logged.sequence,
        };
        sealed_channel::seal(&seal.key, seal.generation, &place, &logged.payload)
    });
    encode(Event {
        sequence: logged.sequence,
        emitter: logged.emitter,
        sealed: sealed.is_some(),
        payload: sealed.as_deref().unwrap_or(&logged.payload),
    })
}
