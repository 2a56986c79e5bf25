//! The threads of the process: lanes for daemons, lanes for calls, the pulse. One set a process, forgotten in a child.

use std::collections::BTreeSet;
use std::ffi::c_ulong;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meshos_node::lane::{Job, Lanes};
use meshos_node::pulse::Pulse;
use meshos_node::sync::Mutex;
use pyo3::exceptions::PySystemExit;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::args;
use crate::errors::{ConfigError, LoopClosed, ReentrantCallError};
use crate::guard::{self, entry};
use crate::reply;

/// How long the lanes have to end before the interpreter goes away.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long they have once they were interrupted.
const INTERRUPT_TIMEOUT: Duration = Duration::from_millis(500);
/// Forks within forks that are supported.
const GENERATIONS: usize = 64;

struct Threads {
    daemons: Lanes,
    calls: Lanes,
    callbacks: Lanes,
    wakes: Lanes,
    pulse: Pulse,
}

// A lock that another thread held at a fork stays locked in the child, so each generation has its own cell.
static THREADS: [OnceLock<Threads>; GENERATIONS] = [const { OnceLock::new() }; GENERATIONS];
/// Idents of the lanes' threads, as Python knows them, by generation.
static ALIVE: Mutex<BTreeSet<(u32, c_ulong)>> = Mutex::new(BTreeSet::new());
static LANES_MAX: AtomicUsize = AtomicUsize::new(32);
static EXIT_REGISTERED: PyOnceLock<()> = PyOnceLock::new();

/// Attaches a lane's thread once for its whole life: the interpreter keeps its thread state.
fn surround(body: &mut (dyn FnMut() + Send)) {
    // `None`: the interpreter is going away, and no more user code runs.
    let _ = Python::try_attach(|py| {
        let ident = py
            .import(intern!(py, "threading"))
            .and_then(|threading| threading.call_method0(intern!(py, "get_ident")))
            .and_then(|ident| ident.extract::<c_ulong>());
        if let Ok(ident) = ident {
            ALIVE.lock().insert((guard::generation(), ident));
        }
        py.detach(&mut *body);
        if let Ok(ident) = ident {
            ALIVE.lock().remove(&(guard::generation(), ident));
        }
    });
}

/// Raises `SystemExit` in the lanes that still run Python code.
///
/// An interpreter that goes away ends such threads where they stand, in the middle of our frames, and that aborts the
/// process. One that waits in C code, for a lock or in a sleep, does not hear of it, and is left to the interpreter.
#[allow(unsafe_code)]
fn interrupt_lanes(py: Python<'_>) {
    let here = guard::generation();
    let alive: Vec<c_ulong> = ALIVE
        .lock()
        .iter()
        .filter(|(made, _)| *made == here)
        .map(|(_, ident)| *ident)
        .collect();
    let exit = py.get_type::<PySystemExit>();
    for ident in alive {
        // SAFETY: the interpreter is attached, `exit` is alive, and an ident that is gone is no error.
        #[allow(clippy::cast_possible_wrap, reason = "some platforms declare the ident signed")]
        unsafe {
            ffi::PyThreadState_SetAsyncExc(ident as _, exit.as_ptr());
        }
    }
}

fn cell() -> &'static OnceLock<Threads> {
    &THREADS[guard::generation() as usize % GENERATIONS]
}

fn threads(py: Python<'_>) -> PyResult<&'static Threads> {
    EXIT_REGISTERED.get_or_try_init(py, || {
        let threading = py.import(intern!(py, "threading"))?;
        let at_exit = py
            .import(intern!(py, "meshos._core"))?
            .getattr(intern!(py, "_at_exit"))?;
        // `atexit` comes after threads were joined, which is too late for a thread that waits for one of ours.
        match threading.getattr(intern!(py, "_register_atexit")) {
            Ok(register) => register.call1((at_exit,))?,
            Err(_) => py
                .import(intern!(py, "atexit"))?
                .call_method1(intern!(py, "register"), (at_exit,))?,
        };
        Ok::<_, PyErr>(())
    })?;
    Ok(cell().get_or_init(|| {
        let lanes_max = LANES_MAX.load(Ordering::Relaxed);
        Threads {
            daemons: Lanes::new("meshos-lane", lanes_max, surround),
            calls: Lanes::new("meshos-call", lanes_max, surround),
            callbacks: Lanes::new("meshos-callback", lanes_max, surround),
            // It only settles futures, so one is enough, and nothing that hangs may be on it.
            wakes: Lanes::new("meshos-wake", 1, surround),
            pulse: Pulse::default(),
        }
    }))
}

/// The lanes on which daemons run.
pub fn daemon_lanes(py: Python<'_>) -> PyResult<Lanes> {
    threads(py).map(|threads| threads.daemons.clone())
}

/// The lanes on which the callbacks of behaviour loops run.
pub fn callback_lanes(py: Python<'_>) -> PyResult<Lanes> {
    threads(py).map(|threads| threads.callbacks.clone())
}

/// The lane on which those are called who wait for a behaviour loop.
pub fn wake_lanes(py: Python<'_>) -> PyResult<Lanes> {
    threads(py).map(|threads| threads.wakes.clone())
}

/// The pulse that asks daemons for their health.
pub fn pulse(py: Python<'_>) -> PyResult<Pulse> {
    threads(py).map(|threads| threads.pulse.clone())
}

/// Sets how many lanes there may be, before the first is made.
#[pyfunction]
fn configure_lanes(threads_max: &Bound<'_, PyAny>) -> PyResult<()> {
    entry("configure_lanes", || {
        let wanted = args::u64(threads_max, "threads_max")?;
        if !(1..=1024).contains(&wanted) {
            return Err(ConfigError::new_err(("threads_max", "must be from 1 to 1024")));
        }
        if cell().get().is_some() {
            return Err(ConfigError::new_err((
                "threads_max",
                "must be set before the first runtime is made",
            )));
        }
        LANES_MAX.store(usize::try_from(wanted).expect("at most 1024"), Ordering::Relaxed);
        Ok(())
    })
}

/// A callable to be run once, the future of its result, and the future's loop.
struct Request {
    callable: Py<PyAny>,
    future: Py<PyAny>,
    event_loop: Py<PyAny>,
}

struct Call(Mutex<Option<Request>>);

impl Job for Call {
    fn run(self: Arc<Self>) {
        let taken = self.0.lock().take();
        let Some(Request {
            callable,
            future,
            event_loop,
        }) = taken
        else {
            return;
        };
        Python::attach(|py| {
            let cancelled = future.bind(py).call_method0(intern!(py, "cancelled"));
            if cancelled.and_then(|cancelled| cancelled.is_truthy()).unwrap_or(true) {
                return;
            }
            let answer = callable.bind(py).call0().map(Bound::unbind);
            if let Ok(entry) = reply::entry(py, &future, answer) {
                // A loop that closed meanwhile has nobody left to hear it.
                let _ = reply::hand_over(py, &event_loop, vec![entry]);
            }
        });
    }
}

/// Runs a callable on a lane; returns a future of the running loop.
#[pyfunction]
#[pyo3(name = "_on_lane")]
fn on_lane<'py>(py: Python<'py>, function: Py<PyAny>, call: String) -> PyResult<Bound<'py, PyAny>> {
    entry("_on_lane", || {
        if guard::in_user_code() {
            return Err(ReentrantCallError::new_err((call,)));
        }
        let event_loop = crate::aio::running_loop(py)?;
        let future = event_loop.call_method0(intern!(py, "create_future"))?;
        let request = Request {
            callable: function,
            future: future.clone().unbind(),
            event_loop: event_loop.unbind(),
        };
        let job = Arc::new(Call(Mutex::new(Some(request))));
        if !threads(py)?.calls.submit(job) {
            return Err(LoopClosed::new_err(("the interpreter",)));
        }
        Ok(future)
    })
}

/// Ends all threads; called before the interpreter goes away.
#[pyfunction]
#[pyo3(name = "_at_exit")]
fn at_exit(py: Python<'_>) {
    of_loaded_aio(py, "stop_internal_loop");
    if let Some(threads) = cell().get() {
        let ended = py.detach(|| {
            threads.pulse.stop();
            let calls = threads.calls.stop(EXIT_TIMEOUT);
            let callbacks = threads.callbacks.stop(EXIT_TIMEOUT);
            let wakes = threads.wakes.stop(EXIT_TIMEOUT);
            threads.daemons.stop(EXIT_TIMEOUT) && calls && callbacks && wakes
        });
        if !ended {
            interrupt_lanes(py);
            py.detach(|| {
                threads.calls.stop(INTERRUPT_TIMEOUT);
                threads.callbacks.stop(INTERRUPT_TIMEOUT);
                threads.wakes.stop(INTERRUPT_TIMEOUT);
                threads.daemons.stop(INTERRUPT_TIMEOUT);
            });
        }
    }
}

/// Called in a child right after a fork.
#[pyfunction]
#[pyo3(name = "_forked")]
fn forked(py: Python<'_>) {
    guard::forked();
    of_loaded_aio(py, "forget_internal_loop");
}

/// Calls a function of `meshos._aio` if that was ever loaded.
fn of_loaded_aio(py: Python<'_>, function: &str) {
    let called = py
        .import(intern!(py, "sys"))
        .and_then(|sys| sys.getattr(intern!(py, "modules")))
        .and_then(|modules| modules.call_method1(intern!(py, "get"), ("meshos._aio",)))
        .and_then(|module| {
            if module.is_none() {
                Ok(module)
            } else {
                module.call_method0(function)
            }
        });
    // At a fork and at the exit there is nobody to tell, and nothing depends on it.
    drop(called);
}

/// Counters of the lanes on which daemons run: threads alive, mailboxes waiting, bugs caught.
#[pyfunction]
#[pyo3(name = "_lane_stats")]
fn lane_stats() -> (usize, usize, u64, u64) {
    let stats = cell().get().map(|threads| threads.daemons.stats());
    stats.map_or((0, 0, 0, reply::lost()), |stats| {
        (stats.threads, stats.waiting, stats.panics, reply::lost())
    })
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(configure_lanes, module)?)?;
    module.add_function(wrap_pyfunction!(on_lane, module)?)?;
    module.add_function(wrap_pyfunction!(at_exit, module)?)?;
    module.add_function(wrap_pyfunction!(forked, module)?)?;
    module.add_function(wrap_pyfunction!(lane_stats, module)?)
}
