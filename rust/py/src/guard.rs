//! What stands at every entry of the extension: no panic gets out, no forked child gets in, nobody waits for itself.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::prelude::*;

use crate::errors::{ForkedProcessError, PoisonedError, ReentrantCallError};

/// Runs the body of an entry; a panic, which is a bug of ours, becomes `PoisonedError`.
pub fn entry<T>(place: &'static str, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without text".to_owned());
        Err(PoisonedError::new_err((place, text)))
    })
}

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Rises by one in each forked child.
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Called in a child right after `fork()`.
pub fn forked() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Remembers in which process an object was made: its threads and locks did not come along into a child.
#[derive(Debug, Clone, Copy)]
pub struct Born(u32);

impl Born {
    /// Now and here.
    pub fn now() -> Self {
        Self(generation())
    }

    /// Whether this is still the process it was made in.
    pub fn is_here(self) -> bool {
        self.0 == generation()
    }

    /// Refuses use in a forked child.
    #[inline]
    pub fn check(self, what: &'static str) -> PyResult<()> {
        if self.is_here() {
            Ok(())
        } else {
            Err(ForkedProcessError::new_err((what,)))
        }
    }
}

thread_local! {
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Marks this thread as running user code of a daemon, until dropped.
pub struct InUserCode(());

impl InUserCode {
    /// Begins.
    #[inline]
    pub fn begin() -> Self {
        INSIDE.set(INSIDE.get() + 1);
        Self(())
    }
}

impl Drop for InUserCode {
    #[inline]
    fn drop(&mut self) {
        INSIDE.set(INSIDE.get() - 1);
    }
}

/// Whether this thread runs user code of a daemon.
pub fn in_user_code() -> bool {
    INSIDE.get() > 0
}

/// Refuses a call that may wait, when it is made from inside user code of a daemon.
#[inline]
pub fn may_wait(call: &'static str) -> PyResult<()> {
    if in_user_code() {
        Err(ReentrantCallError::new_err((call,)))
    } else {
        Ok(())
    }
}

thread_local! {
    static CALLBACKS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Marks this thread as running a callback of a behaviour loop, until dropped.
pub struct InCallback(());

impl InCallback {
    /// Begins. `home` is the address of where coroutines of the callback run, which tells whose it is.
    pub fn begin(home: usize) -> Self {
        CALLBACKS.with_borrow_mut(|homes| homes.push(home));
        Self(())
    }
}

impl Drop for InCallback {
    fn drop(&mut self) {
        CALLBACKS.with_borrow_mut(|homes| homes.pop());
    }
}

/// Refuses a call that waits for the callbacks of these homes, when it is made from inside one of them.
pub fn may_wait_for_callbacks(homes: &[usize], call: &'static str) -> PyResult<()> {
    let inside = CALLBACKS.with_borrow(|running| running.iter().any(|home| homes.contains(home)));
    if inside {
        Err(ReentrantCallError::new_err((call,)))
    } else {
        Ok(())
    }
}

/// Whether a signal handler raised on the main thread; the exception is kept in `raised`.
pub fn interrupted(raised: &mut Option<PyErr>) -> bool {
    if raised.is_none() {
        // `None`: the interpreter is going away, and waiting for anything is over.
        match Python::try_attach(|py| py.check_signals()) {
            Some(Ok(())) => return false,
            Some(Err(error)) => *raised = Some(error),
            None => {}
        }
    }
    true
}
