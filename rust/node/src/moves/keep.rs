//! Rows of moves on their way to the store, in order. A store without a disk has them at once.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::rows::Write;
use meshos_core::store::{Batch, Store};

use super::{Item, Moves, Role};
use crate::keeping::Stores;
use crate::lane::{Job, Lanes};
use crate::sync::Mutex;

type Keep = (EntityId, Role, u64, Vec<Write>);

/// Has rows kept, one after the other, by a thread of its own where the store waits for a disk.
pub(super) struct Keeping {
    lanes: Lanes,
    line: Arc<Line>,
}

struct Line {
    stores: Stores,
    moves: Weak<Moves>,
    queue: Mutex<VecDeque<Keep>>,
}

impl Keeping {
    pub(super) fn new(stores: Stores, moves: Weak<Moves>) -> Self {
        Self {
            lanes: Lanes::new("meshos-moves", 1, |body| body()),
            line: Arc::new(Line {
                stores,
                moves,
                queue: Mutex::default(),
            }),
        }
    }

    /// Has rows kept after those before.
    pub(super) fn add(&self, keep: Keep) {
        let mut store = (self.line.stores)();
        if store.is_immediate() {
            return self.line.keep(&mut *store, keep);
        }
        self.line.queue.lock().push_back(keep);
        let job: Arc<dyn Job> = Arc::clone(&self.line) as Arc<dyn Job>;
        self.lanes.submit(job);
    }

    pub(super) fn stop(&self) {
        self.lanes.stop(Duration::ZERO);
    }
}

impl Job for Line {
    fn run(self: Arc<Self>) {
        let mut store = (self.stores)();
        loop {
            let next = self.queue.lock().pop_front();
            let Some(keep) = next else { return };
            self.keep(&mut *store, keep);
        }
    }
}

impl Line {
    fn keep(&self, store: &mut dyn Store, (entity, role, ticket, writes): Keep) {
        let moves = Weak::clone(&self.moves);
        let done = move |outcome: Result<u64, _>| {
            if let Some(moves) = moves.upgrade() {
                moves.put(Item::Kept(entity, role, ticket, outcome.is_ok()), 0);
            }
        };
        let term = store.term();
        store.submit(Batch { term, writes }, Box::new(done));
    }
}
