//! Coroutines of daemons: started on their loop, awaited from other threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshos_node::clock::Deadline;
use meshos_node::daemon::{Continuation, Outputs};
use meshos_node::sync::{Condvar, Mutex};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::daemon::PyDaemon;
use crate::errors::{LoopClosed, ReentrantCallError};
use crate::guard::{self, InCallback, InUserCode};
use crate::output::{self, Returned};
use crate::user::{Ran, UserError};

static GET_RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static INTERNAL_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static START: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static AWAITING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static COLLECT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Loops on which coroutines of daemons run now, and how many on each.
static BUSY: Mutex<BTreeMap<(u32, usize), usize>> = Mutex::new(BTreeMap::new());

/// Counts one coroutine on a loop, as long as it lives.
struct OnLoop((u32, usize));

impl OnLoop {
    fn begin(event_loop: &Bound<'_, PyAny>) -> Self {
        let address = (guard::generation(), event_loop.as_ptr() as usize);
        *BUSY.lock().entry(address).or_default() += 1;
        Self(address)
    }
}

impl Drop for OnLoop {
    fn drop(&mut self) {
        let mut busy = BUSY.lock();
        if let Some(count) = busy.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.0);
            }
        }
    }
}

/// Refuses a wait on a thread whose loop runs coroutines of daemons: it would wait for itself.
pub fn may_block(py: Python<'_>, call: &'static str) -> PyResult<()> {
    if BUSY.lock().is_empty() {
        return Ok(());
    }
    match current_loop(py)? {
        Some(here) if BUSY.lock().contains_key(&(guard::generation(), here.as_ptr() as usize)) => {
            Err(ReentrantCallError::new_err((call,)))
        }
        _ => Ok(()),
    }
}

/// How long an interrupted wait gives a cancelled coroutine to end.
const CANCEL_GRACE: std::time::Duration = std::time::Duration::from_millis(100);

/// The loop that runs on this thread; raises `RuntimeError` when none does.
pub fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    GET_RUNNING_LOOP.import(py, "asyncio", "get_running_loop")?.call0()
}

/// The loop that runs on this thread, if one does. Does not import asyncio: without it no loop runs.
pub fn current_loop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if RUNNING.get(py).is_none() {
        let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
        if !modules.contains(intern!(py, "asyncio"))? {
            return Ok(None);
        }
    }
    let running = RUNNING.import(py, "asyncio", "_get_running_loop")?.call0()?;
    Ok((!running.is_none()).then_some(running))
}

/// Whether `event_loop` runs on this thread.
fn runs_here(event_loop: &Bound<'_, PyAny>) -> bool {
    running_loop(event_loop.py()).is_ok_and(|here| here.is(event_loop))
}

/// Where the coroutines of a runtime's daemons run.
#[derive(Default)]
pub struct Loop {
    chosen: Mutex<Option<Py<PyAny>>>,
}

impl Loop {
    /// A loop the user chose, if they did.
    pub fn new(chosen: Option<Py<PyAny>>) -> Arc<Self> {
        Arc::new(Self {
            chosen: Mutex::new(chosen),
        })
    }

    /// Tells this home from others, as long as it lives.
    pub fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self) as usize
    }

    /// Chooses a loop, unless one is chosen already.
    pub fn choose(&self, event_loop: Bound<'_, PyAny>) {
        let mut chosen = self.chosen.lock();
        if chosen.is_none() {
            *chosen = Some(event_loop.unbind());
        }
    }

    /// The loop: the chosen one, or one of meshos on a thread of its own.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let chosen = self.chosen.lock().as_ref().map(|chosen| chosen.clone_ref(py));
        match chosen {
            Some(chosen) => Ok(chosen.into_bound(py)),
            None => INTERNAL_LOOP.import(py, "meshos._aio", "internal_loop")?.call0(),
        }
    }

    /// Refuses a call that would wait, on the loop of an asynchronous daemon, for that daemon.
    pub fn may_block(&self, py: Python<'_>, call: &'static str) -> PyResult<()> {
        match current_loop(py)? {
            Some(here) if self.get(py)?.is(&here) => Err(ReentrantCallError::new_err((call,))),
            _ => Ok(()),
        }
    }

    /// Refuses a call that would wait for coroutines on the loop that runs them. Starts no loop.
    pub fn may_wait_for_coroutines(&self, py: Python<'_>, call: &'static str) -> PyResult<()> {
        may_block(py, call)?;
        let is_chosen = self.chosen.lock().is_some();
        if is_chosen { self.may_block(py, call) } else { Ok(()) }
    }

    /// Shows what it holds to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.chosen.try_lock() {
            Some(chosen) => visit.call(&*chosen),
            None => Ok(()),
        }
    }
}

/// A coroutine, or something like one, that has not been started.
pub struct Later {
    awaitable: Py<PyAny>,
    is_iterable: bool,
    home: Arc<Loop>,
    owner: Owner,
}

/// Whose coroutine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// A daemon's: its steps count as user code of a daemon.
    Daemon,
    /// A callback's of the behaviour loop, with the address of its home; it may call what does not wait for it.
    Callback(usize),
}

/// Marks a step as its owner's, until dropped.
enum Step {
    Daemon(InUserCode),
    Callback(InCallback),
}

impl Later {
    /// Takes over an awaitable, or an asynchronous iterable.
    pub fn new(awaitable: Py<PyAny>, is_iterable: bool, home: Arc<Loop>) -> Self {
        Self {
            awaitable,
            is_iterable,
            home,
            owner: Owner::Daemon,
        }
    }

    /// Takes over what a callback of the behaviour loop gave.
    pub fn of_callback(awaitable: Py<PyAny>, home: Arc<Loop>) -> Self {
        let owner = Owner::Callback(home.address());
        Self {
            awaitable,
            is_iterable: false,
            home,
            owner,
        }
    }

    /// As a coroutine whose steps count as its owner's.
    fn into_stepper<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, Stepper>> {
        let awaitable = self.awaitable.into_bound(py);
        let coroutine = if self.is_iterable {
            COLLECT.import(py, "meshos._aio", "collect")?.call1((awaitable,))?
        } else if awaitable.hasattr(intern!(py, "send"))? {
            awaitable
        } else {
            AWAITING.import(py, "meshos._aio", "awaiting")?.call1((awaitable,))?
        };
        Bound::new(
            py,
            Stepper {
                coroutine: coroutine.unbind(),
                owner: self.owner,
            },
        )
    }

    /// Ends it without having run it, so that Python does not warn of a coroutine that was never awaited.
    fn discard(self, py: Python<'_>) {
        let awaitable = self.awaitable.bind(py);
        if awaitable.hasattr(intern!(py, "close")).unwrap_or(false) {
            let _ = awaitable.call_method0(intern!(py, "close"));
        }
    }
}

/// A coroutine whose every step is marked as its owner's.
#[pyclass(frozen, name = "_Stepper", module = "meshos._core")]
pub struct Stepper {
    coroutine: Py<PyAny>,
    owner: Owner,
}

impl Stepper {
    fn enter(&self) -> Step {
        match self.owner {
            Owner::Daemon => Step::Daemon(InUserCode::begin()),
            Owner::Callback(home) => Step::Callback(InCallback::begin(home)),
        }
    }
}

#[pymethods]
impl Stepper {
    fn send<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = value.py();
        let _inside = self.enter();
        self.coroutine.bind(py).call_method1(intern!(py, "send"), (value,))
    }

    #[pyo3(signature = (*arguments))]
    fn throw<'py>(&self, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let py = arguments.py();
        let _inside = self.enter();
        self.coroutine.bind(py).call_method1(intern!(py, "throw"), arguments)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let _inside = self.enter();
        self.coroutine.bind(py).call_method0(intern!(py, "close")).map(|_| ())
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.send(py.None().bind(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.coroutine)
    }
}

type Then = Box<dyn FnOnce(Python<'_>, Result<Bound<'_, PyAny>, UserError>) + Send>;

/// What a task calls when it is done; one that never is, because its loop ended, counts as closed.
#[pyclass(frozen, name = "_Done", module = "meshos._core")]
pub struct Done {
    call: &'static str,
    owner: Owner,
    then: Mutex<Option<Then>>,
    on_loop: Mutex<Option<OnLoop>>,
    task: Mutex<Option<Py<PyAny>>>,
}

#[pymethods]
impl Done {
    fn __call__(&self, task: &Bound<'_, PyAny>) {
        let py = task.py();
        let Some(then) = self.then.lock().take() else { return };
        let ended = (self.task.lock().take(), self.on_loop.lock().take());
        drop(ended);
        let outcome = task.call_method0(intern!(py, "result"));
        then(py, outcome.map_err(|error| UserError::raised(py, self.call, error)));
    }

    /// Called with the task when it begins.
    fn started(&self, task: Py<PyAny>) {
        *self.task.lock() = Some(task);
    }
}

impl Done {
    /// Tells that the coroutine will never end: its loop is closed.
    fn give_up(&self, py: Python<'_>) {
        let then = self.then.lock().take();
        let on_loop = self.on_loop.lock().take();
        drop(on_loop);
        if let Some(then) = then {
            let closed = LoopClosed::new_err((match self.owner {
                Owner::Daemon => "the event loop of the daemon",
                Owner::Callback(_) => "the event loop of the callback",
            },));
            then(py, Err(UserError::raised(py, self.call, closed)));
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if self.then.get_mut().is_some() {
            Python::attach(|py| self.give_up(py));
        }
    }
}

fn start<'py>(py: Python<'py>, later: Later, call: &'static str, then: Then) -> PyResult<Bound<'py, Done>> {
    let event_loop = later.home.get(py)?;
    let done = Bound::new(
        py,
        Done {
            call,
            owner: later.owner,
            then: Mutex::new(Some(then)),
            on_loop: Mutex::new(Some(OnLoop::begin(&event_loop))),
            task: Mutex::new(None),
        },
    )?;
    let stepper = later.into_stepper(py)?;
    let begin = START.import(py, "meshos._aio", "start")?;
    let queued = event_loop.call_method1(intern!(py, "call_soon_threadsafe"), (begin, &stepper, &done));
    if let Err(error) = queued {
        stepper.get().close(py)?;
        if !error.is_instance_of::<PyRuntimeError>(py) {
            return Err(error);
        }
        done.get().give_up(py);
    }
    Ok(done)
}

/// Runs a pending call of `process` on its loop, and calls `then` there with its outputs.
pub fn launch(later: Later, then: Continuation<PyDaemon>) {
    Python::attach(|py| {
        let shared = Arc::new(Mutex::new(Some(then)));
        let held = Arc::clone(&shared);
        let continued: Then = Box::new(move |py, outcome| {
            let then = held.lock().take();
            if let Some(then) = then {
                then(outcome.and_then(|result| read(py, &result)));
            }
        });
        if let Err(error) = start(py, later, "process", continued) {
            let then = shared.lock().take();
            if let Some(then) = then {
                then(Err(UserError::raised(py, "process", error)));
            }
        }
    });
}

fn read(_py: Python<'_>, result: &Bound<'_, PyAny>) -> Outputs<PyDaemon> {
    let _inside = InUserCode::begin();
    match output::read(result)? {
        Returned::Outputs(outputs) => Ok(outputs),
        Returned::Awaitable(_) | Returned::AsyncIterable(_) => Err(UserError::wrong_type(
            "the coroutine of process gave another awaitable".to_owned(),
        )),
    }
}

/// Runs a pending call of `process` on its loop, and waits for its outputs on this thread.
pub fn wait(later: Later) -> Outputs<PyDaemon> {
    Python::attach(|py| {
        let result = wait_on_thread(py, later, "process")?;
        read(py, result.bind(py))
    })
}

/// Runs a pending call that returns nothing, and waits for its end on this thread.
pub fn wait_for_none(later: Later, call: &'static str) -> Result<(), UserError> {
    Python::attach(|py| wait_on_thread(py, later, call).map(|_| ()))
}

type Slip = Arc<(Mutex<Option<Result<Py<PyAny>, UserError>>>, Condvar)>;

/// Runs a pending call on its loop, and waits for its result on this thread.
pub fn wait_on_thread(py: Python<'_>, later: Later, call: &'static str) -> Result<Py<PyAny>, UserError> {
    let raised = |error| UserError::raised(py, call, error);
    let event_loop = later.home.get(py).map_err(raised)?;
    if runs_here(&event_loop) {
        later.discard(py);
        return Err(UserError::refused(py, call, ReentrantCallError::new_err((call,))));
    }
    let slip: Slip = Arc::default();
    let filled = Arc::clone(&slip);
    let then: Then = Box::new(move |_, outcome| {
        *filled.0.lock() = Some(outcome.map(Bound::unbind));
        filled.1.notify_all();
    });
    let done = start(py, later, call, then).map_err(raised)?;
    let done = done.unbind();
    let mut signal = None;
    let event_loop = event_loop.unbind();
    let ended = py.detach(|| await_slip(&slip, &done, &event_loop, &mut signal));
    match (ended, signal) {
        (Some(outcome), None) => outcome,
        (ended, signal) => {
            let ran = if ended.is_some() { Ran::ToItsEnd } else { Ran::Still };
            let mut error = raised_by(py, call, signal);
            error.ran = ran;
            Err(error)
        }
    }
}

fn raised_by(py: Python<'_>, call: &'static str, signal: Option<PyErr>) -> UserError {
    match signal {
        Some(error) => UserError::raised(py, call, error),
        None => UserError::other("raised", format!("{call} was interrupted")),
    }
}

/// Waits until the slip is filled. A signal cancels the task, which then has a moment to end.
fn await_slip(
    slip: &Slip,
    done: &Py<Done>,
    event_loop: &Py<PyAny>,
    signal: &mut Option<PyErr>,
) -> Option<Result<Py<PyAny>, UserError>> {
    let mut limit = Deadline::never();
    let mut cancelled = false;
    loop {
        {
            let mut outcome = slip.0.lock();
            if outcome.is_none() {
                outcome = slip.1.wait_until(outcome, limit.slice());
            }
            if let Some(outcome) = outcome.take() {
                return Some(outcome);
            }
        }
        if limit.passed() {
            return None;
        }
        Python::attach(|py| {
            let closed = event_loop
                .bind(py)
                .call_method0(intern!(py, "is_closed"))
                .and_then(|closed| closed.is_truthy());
            match closed {
                Ok(false) => {}
                Ok(true) => done.get().give_up(py),
                // The call runs Python code, and with it the handler of a signal: what that raised ends the wait below.
                Err(error) => *signal = signal.take().or(Some(error)),
            }
        });
        if !cancelled && guard::interrupted(signal) {
            cancelled = true;
            limit = Deadline::after(CANCEL_GRACE);
            Python::attach(|py| cancel(py, done.get()));
        }
    }
}

fn cancel(py: Python<'_>, done: &Done) {
    let task = done.task.lock().as_ref().map(|task| task.clone_ref(py));
    if let Some(task) = task {
        let asked = task
            .bind(py)
            .call_method0(intern!(py, "get_loop"))
            .and_then(|event_loop| {
                let cancel = task.bind(py).getattr(intern!(py, "cancel"))?;
                event_loop.call_method1(intern!(py, "call_soon_threadsafe"), (cancel,))
            });
        // A loop that is closed has nothing left to cancel.
        drop(asked);
    }
}
