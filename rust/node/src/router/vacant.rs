//! A node that has no daemons, or none yet, or none any more: what it answers.

use std::sync::{Arc, Weak};

use meshos_core::frame::Kind;
use meshos_core::parcel::{self, Packer};
use meshos_core::stream::Frame;

use crate::carrier::Carrier;
use crate::mesh::{Delivered, Take};

/// Answers for a node that has no daemons, or none yet, or none any more: nobody is here.
pub struct Vacant(Carrier);

impl Vacant {
    /// Answers what comes in until a router takes it; while it is held.
    #[must_use]
    pub fn new(carrier: Carrier) -> Arc<Self> {
        let vacant = Arc::new(Self(carrier));
        vacant
            .0
            .attach(Kind::LINKED, Arc::new(Threshold(Arc::downgrade(&vacant))));
        vacant
    }
}

struct Threshold(Weak<Vacant>);

impl Take for Threshold {
    fn take(&self, delivered: Delivered) -> bool {
        let vacant = self.0.upgrade();
        vacant.is_some_and(|vacant| say_nobody(&vacant.0, &delivered))
    }
}

/// Says of everything that is asked for or sent that it is not here; `false`: it cannot be read.
pub(super) fn say_nobody(carrier: &Carrier, delivered: &Delivered) -> bool {
    let Ok(messages) = parcel::open(delivered.body()) else {
        return false;
    };
    let mut answers = Packer::new();
    for frame in messages.filter_map(|message| message.and_then(Frame::decode).ok()) {
        let answer = match frame {
            Frame::Find { origin } => Frame::Nobody { origin },
            Frame::Locate { flow } => Frame::NotHere { flow, sequence: 0 },
            Frame::Event(event) => Frame::NotHere {
                flow: event.flow,
                sequence: event.sequence,
            },
            _ => continue,
        };
        answers.put(|out| answer.put(out));
    }
    // Who does not hear it asks again.
    answers.is_empty() || carrier.post(&delivered.from, Kind::LINKED, answers.body()).is_ok()
}
