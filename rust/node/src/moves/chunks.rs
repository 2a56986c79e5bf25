//! Chunks of images: sealed where they are, opened where they go, on the threads of moves unless they are short.
//!
//! Invariants
//! * A chunk is sealed when it is asked for, and opened when it came: only as many are in memory as the window has.
//! * A node has at most [`AT_A_TIME`] of them under work.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Instant;

use meshos_core::digest::Digest;
use meshos_core::frame::{Draft, Kind};
use meshos_core::id::EntityId;
use meshos_core::image::seal::{Opener, SEAL_SIZE, Sealer, plain_range};
use meshos_core::move_frame::{Body, MoveFrame};
use meshos_core::move_rows::MoveOrder;
use meshos_core::ownership::MigrationId;

use super::buffers::Buffers;
use super::{Item, Moves};
use crate::image::Image;
use crate::mesh::Delivered;
use crate::move_lanes::{self, MoveLanes};
use crate::reactor::Reactor;
use crate::sync::Mutex;

/// What is so short is sealed and opened at once: handing it to another thread takes longer.
const AT_ONCE: u64 = 16 << 10;

/// Chunks that are sealed or opened at a time.
const AT_A_TIME: usize = 2;

/// Bytes that a frame has beside the bytes of a chunk, or more.
const FRAME_SIZE: usize = 256;

/// A chunk that is to be sent.
pub(super) struct Seal {
    pub(super) to: EntityId,
    pub(super) order: Arc<MoveOrder>,
    pub(super) image: Arc<Image>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) buffers: Arc<Buffers>,
    pub(super) index: u32,
    /// Not before.
    pub(super) at: Option<Instant>,
}

/// A chunk that came.
pub(super) struct Open {
    pub(super) entity: EntityId,
    pub(super) mid: MigrationId,
    pub(super) image: Digest,
    pub(super) index: u32,
    pub(super) sealed: Sealed,
    pub(super) opener: Arc<Opener>,
    pub(super) spool: Arc<Spool>,
}

/// A chunk in the message that it came in.
pub(super) struct Sealed {
    delivered: Delivered,
    place: Range<usize>,
}

impl Sealed {
    /// `bytes` lie in the body of what was delivered.
    pub(super) fn of(delivered: &Delivered, bytes: &[u8]) -> Self {
        let start = bytes.as_ptr().addr() - delivered.body().as_ptr().addr();
        Self {
            delivered: delivered.clone(),
            place: start..start + bytes.len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.delivered.body()[self.place.clone()]
    }
}

/// What became of it.
pub(super) struct Opened {
    pub(super) mid: MigrationId,
    pub(super) image: Digest,
    pub(super) index: u32,
    /// How long it was when it came.
    pub(super) length: usize,
    pub(super) is_whole: bool,
}

/// Where the bytes of an image are put together.
pub(super) struct Spool(pub(super) Mutex<Vec<u8>>);

/// A chunk that is to be worked on.
enum Task {
    Seal(Seal),
    Open(Open),
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    workers: usize,
    is_stopped: bool,
}

pub(super) struct Chunks {
    queue: Arc<Mutex<Queue>>,
    lanes: Arc<MoveLanes>,
    moves: Weak<Moves>,
}

impl Chunks {
    pub(super) fn new(moves: Weak<Moves>) -> Self {
        Self {
            queue: Arc::default(),
            lanes: MoveLanes::of_process(),
            moves,
        }
    }

    pub(super) fn seal(&self, seal: Seal) {
        match seal.at {
            Some(at) => {
                let (queue, moves) = (Arc::clone(&self.queue), Weak::clone(&self.moves));
                let span = at.saturating_duration_since(Instant::now());
                self.lanes.after(span, move || begin(&queue, &moves, Task::Seal(seal)));
            }
            None if seal.image.len <= AT_ONCE => self.at_once(Task::Seal(seal)),
            None => self.put(Task::Seal(seal)),
        }
    }

    pub(super) fn open(&self, open: Open) {
        let is_small = open.sealed.place.len() as u64 <= AT_ONCE;
        let task = Task::Open(open);
        if is_small {
            self.at_once(task);
        } else {
            self.put(task);
        }
    }

    fn at_once(&self, task: Task) {
        if let Some(moves) = self.moves.upgrade()
            && let Some(item) = task.run(&moves)
        {
            moves.put(item, 0);
        }
    }

    fn put(&self, task: Task) {
        let mut queue = self.queue.lock();
        if queue.is_stopped {
            return;
        }
        queue.tasks.push_back(task);
        if queue.workers < AT_A_TIME {
            queue.workers += 1;
            drop(queue);
            let (queue, moves) = (Arc::clone(&self.queue), Weak::clone(&self.moves));
            self.lanes.next(move || work(&queue, &moves));
        }
    }

    pub(super) fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.is_stopped = true;
        let tasks = std::mem::take(&mut queue.tasks);
        drop(queue);
        drop(tasks);
    }
}

/// Works on a task whose time has come, and on others.
fn begin(queue: &Mutex<Queue>, moves: &Weak<Moves>, task: Task) {
    {
        let mut queue = queue.lock();
        if queue.is_stopped {
            return;
        }
        queue.tasks.push_back(task);
        if queue.workers >= AT_A_TIME {
            return;
        }
        queue.workers += 1;
    }
    work(queue, moves);
}

/// Works until there is nothing left. What came of the last task is told last: what follows from it may be done here.
fn work(queue: &Mutex<Queue>, moves: &Weak<Moves>) {
    let mut told: Option<Item> = None;
    while let Some(task) = next(queue) {
        let worker = Worker(Some(queue));
        let Some(moves) = moves.upgrade() else { return };
        if let Some(item) = told.take() {
            Reactor::of_process().tell(|| moves.put(item, 0));
        }
        told = task.run(&moves);
        worker.goes_on();
    }
    if let (Some(item), Some(moves)) = (told, moves.upgrade()) {
        move_lanes::tell_last(|| {
            let _ = moves.put(item, 0);
        });
    }
}

/// The next task; without one this worker is none any more.
fn next(queue: &Mutex<Queue>) -> Option<Task> {
    let mut queue = queue.lock();
    let task = queue.tasks.pop_front();
    if task.is_none() {
        queue.workers -= 1;
    }
    task
}

/// One of the workers of a queue: it is none any more if a task panics.
struct Worker<'a>(Option<&'a Mutex<Queue>>);

impl Worker<'_> {
    fn goes_on(mut self) {
        self.0 = None;
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if let Some(queue) = self.0 {
            queue.lock().workers -= 1;
        }
    }
}

impl Task {
    /// What comes of it.
    fn run(self, moves: &Moves) -> Option<Item> {
        match self {
            Self::Seal(seal) => seal.run(moves),
            Self::Open(open) => open.run(),
        }
    }
}

impl Seal {
    fn run(self, moves: &Moves) -> Option<Item> {
        let range = plain_range(self.image.len, self.index)?;
        let order = &self.order;
        let body = Body::Chunk {
            image: self.image.digest,
            index: self.index,
            bytes: &[],
        };
        let frame = MoveFrame::about(order, body);
        let length = range.end - range.start + SEAL_SIZE as u64;
        let bytes_max = usize::try_from(length).expect("a chunk has at most 1 MiB") + FRAME_SIZE;
        let fill = |out: &mut Vec<u8>| {
            let fill = |out: &mut Vec<u8>| self.image.slice(range, out);
            frame.put_chunk(out, |out| self.sealer.seal_onto(out, self.index, fill));
        };
        let draft = Draft::within(self.buffers.lend(), bytes_max, fill);
        // What does not arrive is asked for again.
        let is_sent = moves.carrier.post_draft(&self.to, Kind::MOVE, draft).is_ok();
        let bytes = if is_sent { length } else { 0 };
        let sent = (self.image.digest, self.index, bytes);
        Some(Item::Sent(order.entity, order.mid, sent))
    }
}

impl Open {
    fn run(self) -> Option<Item> {
        let mut spool = self.spool.0.lock();
        let range = plain_range(spool.len() as u64, self.index).unwrap_or(0..0);
        let bounds = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        let place = spool.get_mut(bounds[0]..bounds[1]).unwrap_or_default();
        let sealed = self.sealed.bytes();
        if place.len() + SEAL_SIZE != sealed.len() {
            // The image is whole already, or the chunk is no part of it: who counts chunks sees its length.
            return None;
        }
        let is_whole = self.opener.open(self.index, sealed, place).is_ok();
        drop(spool);
        let opened = Opened {
            mid: self.mid,
            image: self.image,
            index: self.index,
            length: sealed.len(),
            is_whole,
        };
        Some(Item::Opened(self.entity, opened))
    }
}
