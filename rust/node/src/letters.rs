//! The dead letters of a daemon that runs here: passing over, trying again, discarding.
//!
//! Invariants
//! * A letter and the step that passed its event over are kept together; so are its removal and the step that took it.
//! * A letter stays until its event took effect or somebody discarded it.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshos_core::attempts::Held;
use meshos_core::dead_letter::{DeadLetter, MESSAGE_MAX, cut};
use meshos_core::event::DaemonLifecycleSignal;
use meshos_core::id::EntityId;
use meshos_core::ingress::EventKey;
use meshos_core::journal::{Outcome, Step};
use meshos_core::rows::{Table, Write, entity_key};
use meshos_core::source::Source;
use meshos_core::time::UnixMs;

use crate::clock;
use crate::daemon::{Daemon, DeliverError, Delivered, Process};
use crate::deliver::{self, Want};
use crate::inside::Inside;
use crate::lane::{Job, Lanes};
use crate::leave::Entered;
use crate::slot::Slot;

/// A dead letter, with its event as the embedding language holds it.
pub struct Letter<D: Daemon> {
    /// The event.
    pub event: D::Event,
    /// What it is known by.
    pub key: EventKey,
    /// Tries so far.
    pub attempts: u32,
    /// Whether it is tried again when the daemon comes back.
    pub retry: bool,
    /// Class name of the last exception.
    pub exception: Arc<str>,
    /// Its text.
    pub message: Arc<str>,
    /// When it was passed over.
    pub at: UnixMs,
}

impl<D: Daemon> Clone for Letter<D> {
    fn clone(&self) -> Self {
        Self {
            event: self.event.clone(),
            exception: Arc::clone(&self.exception),
            message: Arc::clone(&self.message),
            ..*self
        }
    }
}

impl<D: Daemon> Letter<D> {
    /// Makes the letter of a row.
    #[must_use]
    pub fn read(row: &DeadLetter, source: Option<&Arc<Source>>) -> Self {
        let event = match source {
            Some(source) => D::arrived(row.link, &row.payload, row.received_ns, source),
            None => D::received(row.link, &row.payload, row.received_ns),
        };
        Self {
            event,
            key: EventKey {
                origin: row.link.origin,
                stream: row.stream,
                sequence: row.link.sequence,
            },
            attempts: row.attempts,
            retry: row.retry,
            exception: Arc::from(&*row.exception),
            message: Arc::from(&*row.message),
            at: row.at,
        }
    }

    pub(crate) fn row(&self, entity: &EntityId, number: u64) -> Write {
        let (link, payload) = D::parts(&self.event);
        let letter = DeadLetter {
            link,
            stream: self.key.stream,
            received_ns: D::received_ns(&self.event),
            at: self.at,
            attempts: self.attempts,
            retry: self.retry,
            exception: (*self.exception).to_owned(),
            message: (*self.message).to_owned(),
            payload,
        };
        letter.write(entity, number)
    }

    /// Counts one more try, which failed with this error.
    fn failed_with(&mut self, error: &D::Error) {
        let (exception, message) = D::blame(error);
        self.attempts = self.attempts.saturating_add(1);
        self.retry = false;
        self.exception = Arc::from(cut(&exception, MESSAGE_MAX));
        self.message = Arc::from(cut(&message, MESSAGE_MAX));
    }
}

/// The dead letters of one daemon, by number.
pub struct Letters<D: Daemon> {
    letters: BTreeMap<u64, Letter<D>>,
    bytes: u64,
}

impl<D: Daemon> Clone for Letters<D> {
    fn clone(&self) -> Self {
        Self {
            letters: self.letters.clone(),
            bytes: self.bytes,
        }
    }
}

impl<D: Daemon> Default for Letters<D> {
    fn default() -> Self {
        Self {
            letters: BTreeMap::new(),
            bytes: 0,
        }
    }
}

impl<D: Daemon> Letters<D> {
    /// How many there are.
    #[must_use]
    pub fn held(&self) -> Held {
        Held {
            letters: self.letters.len(),
            bytes: self.bytes,
        }
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Letter<D>)> {
        self.letters.iter().map(|(number, letter)| (*number, letter))
    }

    /// Adds one, or changes it.
    pub fn put(&mut self, number: u64, letter: Letter<D>) {
        let bytes = D::payload_len(&letter.event) as u64;
        let old = self.letters.insert(number, letter);
        self.bytes += bytes - old.map_or(0, |old| D::payload_len(&old.event) as u64);
    }

    fn take(&mut self, number: u64) -> Option<Letter<D>> {
        let letter = self.letters.remove(&number)?;
        self.bytes -= D::payload_len(&letter.event) as u64;
        Some(letter)
    }
}

impl<D: Daemon> Inside<D> {
    /// How many dead letters there are.
    #[must_use]
    pub fn letters_held(&self) -> Held {
        self.letters.as_ref().map(|letters| letters.held()).unwrap_or_default()
    }

    fn letter(&self, number: u64) -> Option<&Letter<D>> {
        self.letters.as_ref()?.letters.get(&number)
    }

    fn put_letter(&mut self, number: u64, letter: Letter<D>) {
        if let Some(journal) = &mut self.journal {
            journal.also(letter.row(&self.host.entity(), number));
        }
        self.letters.get_or_insert_default().put(number, letter);
    }

    /// Removes the row of a letter together with what is kept next.
    pub(crate) fn unlist(&mut self, number: u64) {
        let key = entity_key(&self.host.entity(), [number]);
        if let Some(journal) = &mut self.journal {
            journal.also(Write::remove(Table::DeadLetters, key));
        }
    }

    /// Lets a letter go whose row is gone; user objects of it end where the caller drops it.
    pub(crate) fn take_letter(&mut self, number: u64) -> Option<Letter<D>> {
        let letters = self.letters.as_mut()?;
        let letter = letters.take(number);
        if letters.letters.is_empty() {
            self.letters = None;
        }
        letter
    }
}

/// Passes over an event that failed so many times, the last time with this error.
pub(crate) fn pass_over<D: Daemon>(
    entered: &mut Entered<D>,
    event: &D::Event,
    key: EventKey,
    attempts: u32,
    error: &D::Error,
) {
    let inside: &mut Inside<D> = entered;
    let number = inside.host.passed_over(key);
    // A daemon that was rolled back counts again what it counted before.
    let last = inside
        .letters
        .as_ref()
        .and_then(|letters| letters.letters.last_key_value());
    let number = number.max(last.map_or(0, |(last, _)| last + 1));
    let mut letter = Letter {
        event: event.clone(),
        key,
        attempts: attempts - 1,
        retry: false,
        exception: Arc::default(),
        message: Arc::default(),
        at: clock::unix_ms(),
    };
    letter.failed_with(error);
    inside.put_letter(number, letter);
    if inside.journal.is_some() || inside.tape.is_some() {
        let (link, payload) = D::parts(event);
        inside.note_step(&Step {
            outcome: Outcome::PassedOver,
            receipt: false,
            link,
            stream: key.stream,
            received_ns: D::received_ns(event),
            payload,
            outputs: 0,
            digest: inside.host.position().digest,
        });
    }
    entered.slot().emit(DaemonLifecycleSignal::PassedOver {
        event: (key.origin, key.sequence),
        letter: number,
        attempts,
    });
}

/// Tries a dead letter once more, out of its order, waiting on this thread for a coroutine if `process` is one. If it
/// takes effect the letter goes; if it raises, it stays. `None`: there is no letter of this number for this event.
pub fn retry<D: Daemon>(
    entered: &mut Entered<D>,
    number: u64,
    expected: Option<EventKey>,
) -> Option<Result<Delivered<D>, DeliverError<D>>> {
    if let Some(error) = deliver::ready(entered) {
        return Some(Err(error));
    }
    let found = entered.letter(number)?;
    if expected.is_some_and(|key| key != found.key) {
        return None;
    }
    let (event, key) = (found.event.clone(), found.key);
    if let Some(error) = deliver::make_room(entered) {
        return Some(Err(error));
    }
    let process = entered.lend(|daemon| daemon.process(&event));
    let outputs = match process {
        Some(Process::Done(outputs)) => Some(outputs),
        Some(Process::Later(later)) => entered.lend(|daemon| daemon.wait(later)),
        None => None,
    };
    let Some(outputs) = outputs else {
        return Some(Err(DeliverError::Stale));
    };
    if let Err(error) = &outputs
        && !D::never_ran(error)
        && let Some(mut letter) = entered.letter(number).cloned()
    {
        letter.failed_with(error);
        entered.put_letter(number, letter);
    }
    Some(deliver::finish_letter(
        entered,
        &event,
        key,
        Want::Receipt,
        outputs,
        Some(number),
    ))
}

/// Lets a dead letter go whose event nobody wants any more; `false`: there is none of this number for this event.
pub fn discard<D: Daemon>(entered: &mut Entered<D>, number: u64, expected: EventKey) -> bool {
    if entered.letter(number).is_none_or(|letter| letter.key != expected) {
        return false;
    }
    entered.unlist(number);
    drop(entered.take_letter(number));
    true
}

impl<D: Daemon> Slot<D> {
    /// Has those letters tried again, on a lane and one after another, that were marked so.
    pub(crate) fn retry_marked(self: &Arc<Self>, lanes: &Lanes) {
        let marked = self.peek(|inside| {
            let letters = inside.letters.iter().flat_map(|letters| letters.iter());
            letters
                .filter(|(_, letter)| letter.retry)
                .map(|(number, _)| number)
                .collect()
        });
        let marked: Vec<u64> = marked.unwrap_or_default();
        if !marked.is_empty() {
            lanes.submit(Arc::new(Marked {
                slot: Arc::clone(self),
                marked,
            }));
        }
    }
}

/// Letters that are to be tried again.
struct Marked<D: Daemon> {
    slot: Arc<Slot<D>>,
    marked: Vec<u64>,
}

impl<D: Daemon> Job for Marked<D> {
    fn run(self: Arc<Self>) {
        for number in &self.marked {
            let deadline = clock::Deadline::never();
            // What waits for its place must not hold what others need.
            let Ok(mut entered) = self.slot.enter(deadline, &mut || self.slot.is_forced()) else {
                return;
            };
            D::batch(|| {
                // Whoever wants to know what came of it looks at the letters, the counters and the events.
                let tried = retry(&mut entered, *number, None);
                deliver::submit(&mut entered);
                drop(entered);
                drop(tried);
            });
        }
    }
}
