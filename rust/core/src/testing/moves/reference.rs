//! The daemon that a simulated one is compared with: it never moves, never crashes, and takes each event in once, in the
//! order in which the events took effect.

use std::rc::Rc;

use super::disk::Input;
use super::facts::Uid;
use super::subject::{Given, Subject};
use super::{Held, Scene, broken};
use crate::time::UnixMs;

/// It, and what it took in.
#[derive(Default)]
pub struct Reference {
    subject: Option<Box<dyn Subject>>,
    fed: Vec<Uid>,
}

impl Scene {
    /// The event of a number.
    pub fn given(&self, uid: &Uid) -> Rc<Given> {
        match self.given.get(&uid.content) {
            Some(given) => Rc::clone(given),
            // An event that a mistake made up.
            None => Rc::new(Given {
                number: 0,
                origin: uid.origin,
                sequence: uid.sequence,
                content: uid.content,
                payload: Rc::from([]),
                at: UnixMs::new(0),
            }),
        }
    }

    /// An event took effect, after all that did, or after `before` alone.
    pub fn took_effect(&mut self, before: Option<&[Uid]>, input: &Input) -> Held {
        if !self.compares {
            return Ok(());
        }
        match before {
            Some(before) => self.align(before)?,
            None if self.reference.subject.is_none() => self.align(&[])?,
            None => {}
        }
        let given = self.given(&input.uid);
        let Some(subject) = &mut self.reference.subject else {
            return Ok(());
        };
        let outputs = subject.process(&given)?;
        self.reference.fed.push(input.uid);
        if outputs[..] != input.outputs[..] {
            return broken(
                "SameOutputs",
                format!(
                    "event {} emitted {} where it runs, and {} at a daemon that never moved",
                    given.number,
                    shown(input.outputs.iter().map(|output| &*output.payload)),
                    shown(outputs.iter().map(|output| &*output.payload)),
                ),
            );
        }
        Ok(())
    }

    /// A state after `history` is what it is at a daemon that never moved.
    pub fn same_state(&mut self, history: &[Uid], state: Option<&[u8]>, when: &str) -> Held {
        if !self.compares {
            return Ok(());
        }
        self.align(history)?;
        let Some(subject) = &mut self.reference.subject else {
            return Ok(());
        };
        let there = subject.snapshot()?;
        if there.as_deref() != state {
            return broken(
                "SameState",
                format!(
                    "{when}, after {} events, the snapshot is {}, and {} at a daemon that never moved",
                    history.len(),
                    shown(state),
                    shown(there.as_deref())
                ),
            );
        }
        Ok(())
    }

    /// Has it stand after this history: from the beginning, where what it took in did not last.
    fn align(&mut self, history: &[Uid]) -> Held {
        if self.reference.subject.is_some() && self.reference.fed == history {
            return Ok(());
        }
        let mut subject = self.kind.make()?;
        for uid in history {
            subject.process(&self.given(uid))?;
        }
        self.reference = Reference {
            subject: Some(subject),
            fed: history.to_vec(),
        };
        Ok(())
    }
}

/// Bytes for people: so many, and the first of them.
pub fn shown<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let one = |part: &[u8]| {
        let hex: String = part.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let more = if part.len() > 16 { "…" } else { "" };
        format!("{hex}{more} ({} bytes)", part.len())
    };
    let all: Vec<_> = parts.into_iter().take(4).map(one).collect();
    if all.is_empty() {
        "nothing".to_owned()
    } else {
        all.join(", ")
    }
}
