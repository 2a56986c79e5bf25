//! Commands on their way into a loop, checked as far as that needs no loop.

use std::sync::Arc;

use meshos_core::command::{Command, Order, Verdict};
use meshos_core::envelope::{AdminEnvelope, IceEnvelope};
use meshos_core::loop_config::Authority;
use meshos_core::refusal::Refused as Refusal;
use meshos_core::signal::{Sealed, Signal};
use meshos_node::clock;
use pyo3::prelude::*;

use super::PyLoop;
use crate::args;
use crate::mesh_event::Published;
use crate::operator::envelope::{PyAdminEnvelope, PyIceEnvelope};

/// A command in its envelope, of either sort.
pub enum Envelope {
    /// An ordinary one.
    Admin(Arc<AdminEnvelope>),
    /// A break-glass action.
    Ice(Arc<IceEnvelope>),
}

impl Envelope {
    pub(super) fn read(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(envelope) = object.cast::<PyAdminEnvelope>() {
            return Ok(Self::Admin(Arc::clone(&envelope.get().0)));
        }
        let ice = args::instance::<PyIceEnvelope>(object, "envelope", "an AdminEnvelope or IceEnvelope")?;
        Ok(Self::Ice(Arc::clone(&ice.get().0)))
    }
}

impl PyLoop {
    /// What of a published event goes into the loop, and what its publisher is told.
    pub(super) fn signal(&self, published: Published) -> PyResult<(Option<Signal>, Option<Refusal>)> {
        Ok(match published {
            Published::Event(event) => (Some(Signal::Event(event)), None),
            Published::Log { level, message, daemon } => {
                self.line(level, daemon, &message)?;
                (None, None)
            }
            Published::Admin(event) => {
                let (verdict, refused) = match (&self.verifier, self.shared.config.authority) {
                    (Some(_), _) => (
                        Verdict::Rejected {
                            kind: Refusal::Unsigned.kind(),
                        },
                        Some(Refusal::Unsigned),
                    ),
                    (None, Authority::Open) => (Verdict::Open, None),
                    (None, Authority::Verified) => (
                        Verdict::Rejected {
                            kind: Refusal::NoVerifier.kind(),
                        },
                        Some(Refusal::NoVerifier),
                    ),
                };
                let command = Command {
                    order: Order::Admin(event),
                    verdict,
                    operators: Vec::new(),
                    reason: String::new(),
                    envelope_id: None,
                    issued_at: None,
                };
                (Some(Signal::Command(command)), refused)
            }
            Published::SignedAdmin(envelope) => {
                let sealed = self.seal(&Envelope::Admin(envelope));
                let refused = sealed.refused.clone();
                (Some(Signal::Sealed(Box::new(sealed))), refused)
            }
            Published::SignedIce(envelope) => {
                let sealed = self.seal(&Envelope::Ice(envelope));
                let refused = sealed.refused.clone();
                (Some(Signal::Sealed(Box::new(sealed))), refused)
            }
        })
    }

    /// Checks all of an envelope that needs no loop, on this thread.
    pub fn seal(&self, envelope: &Envelope) -> Sealed {
        let now = clock::unix_ms();
        let (header, order, blast) = match envelope {
            Envelope::Admin(envelope) => (&envelope.header, Order::Admin(envelope.event.clone()), None),
            Envelope::Ice(envelope) => (
                &envelope.header,
                Order::Ice(envelope.action.clone()),
                Some(envelope.blast.clone()),
            ),
        };
        let checked = match (&self.verifier, envelope) {
            (Some(verifier), Envelope::Admin(envelope)) => {
                verifier.try_admin(envelope, now).map(|operator| vec![operator])
            }
            (Some(verifier), Envelope::Ice(envelope)) => verifier.try_ice(envelope, now),
            (None, _) if self.shared.config.authority == Authority::Open => Ok(Vec::new()),
            (None, _) => Err(Refusal::NoVerifier),
        };
        let verdict = match (&checked, &self.verifier) {
            (Ok(_), Some(_)) => Verdict::Accepted,
            (Ok(_), None) => Verdict::Open,
            (Err(refused), _) => Verdict::Rejected { kind: refused.kind() },
        };
        Sealed {
            command: Command {
                order,
                verdict,
                operators: checked.as_ref().cloned().unwrap_or_default(),
                reason: header.reason.clone(),
                envelope_id: Some(header.envelope_id),
                issued_at: Some(header.issued_at),
            },
            envelope_id: header.envelope_id,
            issued_at: header.issued_at,
            blast,
            refused: checked.err(),
        }
    }
}
