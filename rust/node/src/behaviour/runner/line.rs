//! Calls of one piece of user code, one at a time and in order.

use std::sync::Arc;
use std::time::Instant;

use meshos_core::status::Part;

use crate::behaviour::{Shared, on_lane};
use crate::callback::{CallFailed, Callback};
use crate::sync::Mutex;

/// Calls that one line may be behind.
const LINE_MAX: usize = 1024;

/// Calls of one piece of user code, one at a time and in order.
pub(super) struct Line {
    pub(super) callback: Arc<Callback>,
    pub(super) queue: Mutex<(std::collections::VecDeque<Said>, bool)>,
}

type Said = Box<dyn FnOnce() -> Result<(), CallFailed> + Send>;

/// Has a line call user code after everything it was given before.
pub(super) fn push(shared: &Arc<Shared>, line: &Arc<Line>, said: Said) {
    let mut queue = line.queue.lock();
    if queue.0.len() >= LINE_MAX {
        drop(queue);
        let error = CallFailed::new("not told: too many calls wait for it");
        shared.callback_failed(Part::Callback, line.callback.name(), None, error);
        return;
    }
    queue.0.push_back(said);
    if std::mem::replace(&mut queue.1, true) {
        return;
    }
    drop(queue);
    let (held, budget) = (Arc::clone(line), shared.budget());
    let shared = Arc::clone(shared);
    let lanes = shared.parts.lanes.clone();
    on_lane(&lanes, move || {
        loop {
            let mut queue = held.queue.lock();
            let Some(said) = queue.0.pop_front() else {
                queue.1 = false;
                return;
            };
            drop(queue);
            let mut said = Some(said);
            let ran = held
                .callback
                .run(Instant::now(), budget, || said.take().map_or(Ok(()), |said| said()));
            let left_alone = || Err(CallFailed::new("not told: it is left alone after failing too often"));
            if let Err(error) = ran.unwrap_or_else(left_alone) {
                shared.callback_failed(Part::Callback, held.callback.name(), None, error);
            }
        }
    });
}
