//! `simulate`: a user's daemon through moves, crashes and a bad network, in virtual time.
//!
//! Everything runs on the calling thread, which stays attached to the interpreter: user code is called as any function is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meshos_core::config::{DaemonHostConfig, Delivery, OnDivergence};
use meshos_core::digest::Digest;
use meshos_core::host::Few;
use meshos_core::ingress::{DIRECT, EventKey};
use meshos_core::link::CausalLink;
use meshos_core::testing::moves::{
    self, Emitted, Fault, Faults, Given, Kind, NODES_MAX, Options, Plan, Share, Stop, Subject,
};
use meshos_node::daemon::DeliverError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDelta, PyTuple};

use crate::args;
use crate::call;
use crate::causal::PyCausalEvent;
use crate::config::PyDaemonHostConfig;
use crate::contract::Contract;
use crate::errors::{self, InvalidArgument, InvalidDaemon, InvariantViolation};
use crate::guard::{InUserCode, entry};
use crate::output::{self, Returned};
use crate::record::field::{self, Field};
use crate::record::options::options;
use crate::record::record;
use crate::user::UserError;

/// Events of a run, at most.
const EVENTS_MAX: u64 = 10_000;
/// Moves of a run, at most.
const MOVES_MAX: u64 = 1_000;

options! {
    /// What goes wrong in a simulated run. Options are given by keyword; raises `ConfigError`.
    pub struct PyFaults(Faults) in "meshos.testing" as "Faults",
    signature "(*, loss=0.0, duplicate=0.0, delay=..., crash=0.0, partition=0.0, torn_write=0.0, slow_callback=0.0, \
        clock_jump=0.0)" {
        /// Share of the messages that are lost.
        loss: Share,
        /// Share of the messages that arrive twice.
        duplicate: Share,
        /// Shortest and longest time of a message; messages overtake each other. Both 0.
        delay: Delay,
        /// Share of steps at which a node crashes; it restarts with what its store had made durable.
        crash: Share,
        /// Share of rounds at which some nodes are cut off, in one direction or both, for up to half a second.
        partition: Share,
        /// Share of the writes of moves that fail, and of crashes after which a beginning of what was not synced is there.
        torn_write: Share,
        /// Share of the events for which `process` takes long, up to two seconds.
        slow_callback: Share,
        /// Share of rounds at which the wall clock of a node jumps, by up to a minute.
        clock_jump: Share,
    }
}

record! {
    /// A run in which every promise held.
    pub struct PySimulationRun in "meshos.testing" as "SimulationRun", by keyword {
        /// The seed.
        seed: u64,
        /// Commits to everything that happened: equal arguments, equal digests.
        digest: Digest,
        /// Steps of the run: something arrives, or falls due.
        steps: u64,
        /// Events, each of which took effect once.
        acknowledged: u64,
        /// Acknowledged events that a crash rolled back, and whose senders were told: none under "journal".
        rolled_back: u64,
        /// Moves that were committed.
        moves_completed: u64,
        /// Moves that were not; the daemon stayed where it was.
        moves_aborted: u64,
        /// Crashes of nodes.
        crashes: u64,
        /// Times at which nodes were cut off.
        partitions: u64,
        /// Messages that were lost, or cut off.
        messages_lost: u64,
        /// Messages that arrived twice.
        messages_repeated: u64,
        /// Messages that arrived before one that was sent earlier to the same node.
        messages_overtaken: u64,
        /// Writes that failed.
        writes_failed: u64,
        /// Calls of `process` that took long.
        slow_callbacks: u64,
        /// Jumps of wall clocks.
        clock_jumps: u64,
        /// How long it took there.
        simulated: Duration,
    }
}

impl Field for Share {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let share: field::Share = field::read(value, name)?;
        Self::new(share.0).ok_or_else(|| InvalidArgument::new_err((name, "must be from 0 to 1")))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        field::Share(self.get()).to_python(py)
    }
}

/// The shortest and the longest time.
struct Delay((Duration, Duration));

impl Field for Delay {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let wrong = || args::wrong_type(name, "a tuple of two timedeltas", value);
        let pair = value.cast::<PyTuple>().map_err(|_| wrong())?;
        let (shortest, longest): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair.extract().map_err(|_| wrong())?;
        if !shortest.is_instance_of::<PyDelta>() || !longest.is_instance_of::<PyDelta>() {
            return Err(wrong());
        }
        Ok(Self((field::read(&shortest, name)?, field::read(&longest, name)?)))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (shortest, longest) = self.0;
        let pair = PyTuple::new(py, [shortest.to_python(py)?, longest.to_python(py)?])?;
        Ok(pair.into_any())
    }
}

impl From<Delay> for (Duration, Duration) {
    fn from(delay: Delay) -> Self {
        delay.0
    }
}

impl From<(Duration, Duration)> for Delay {
    fn from(delay: (Duration, Duration)) -> Self {
        Self(delay)
    }
}

fn fault(error: PyErr) -> Fault {
    Box::new(error)
}

/// What all instances of one run share.
struct Shared {
    /// Runs what `process` gave back to be awaited.
    finish: Py<PyAny>,
    /// The object of each event, by its number.
    events: RefCell<BTreeMap<u64, Py<PyCausalEvent>>>,
}

impl Shared {
    fn event(&self, given: &Given, py: Python<'_>) -> PyResult<Py<PyCausalEvent>> {
        if let Some(event) = self.events.borrow().get(&given.number) {
            return Ok(event.clone_ref(py));
        }
        let link = CausalLink {
            origin: given.origin,
            horizon: 0,
            sequence: given.sequence,
            parent: 0,
        };
        let event = PyCausalEvent {
            received_ns: given.at.get().saturating_mul(1_000_000),
            ..PyCausalEvent::now(link, PyBytes::new(py, &given.payload))
        };
        let event = Py::new(py, event)?;
        self.events.borrow_mut().insert(given.number, event.clone_ref(py));
        Ok(event)
    }
}

/// Makes instances of the user's daemon.
struct PyKind {
    factory: Py<PyAny>,
    payload: Option<Py<PyAny>>,
    shared: Rc<Shared>,
}

/// One instance.
struct PySubject {
    object: Py<PyAny>,
    /// The bound method, looked up once.
    process: Py<PyAny>,
    contract: Arc<Contract>,
    shared: Rc<Shared>,
}

impl PyKind {
    fn instance(&self, py: Python<'_>) -> PyResult<PySubject> {
        let factory = self.factory.bind(py);
        let made = {
            let _inside = InUserCode::begin();
            factory.call0()
        };
        let object = made.map_err(|error| {
            if errors::passes_through(&error, py) {
                return error;
            }
            let user = UserError::raised(py, "the factory", error);
            let name = factory.getattr(intern!(py, "__qualname__"));
            let name = name.map_or_else(|_| "?".to_owned(), |name| name.to_string());
            let failed = InvalidDaemon::new_err(("factory_failed", name, user.message));
            failed.set_cause(py, user.cause);
            failed
        })?;
        let contract = Contract::of(&object.get_type())?;
        let process = object.getattr(intern!(py, "process"))?;
        Ok(PySubject {
            object: object.unbind(),
            process: process.unbind(),
            contract,
            shared: Rc::clone(&self.shared),
        })
    }
}

impl Kind for PyKind {
    fn make(&mut self) -> Result<Box<dyn Subject>, Fault> {
        let made = Python::attach(|py| self.instance(py)).map_err(fault)?;
        Ok(Box::new(made))
    }

    fn payload(&mut self, number: u64) -> Result<Rc<[u8]>, Fault> {
        let Some(payload) = &self.payload else {
            return Ok(Rc::from(number.to_le_bytes()));
        };
        let made = Python::attach(|py| {
            let made = payload.bind(py).call1((number,))?;
            args::payload(&made, "payload").map(|bytes| Rc::from(bytes.as_bytes()))
        });
        made.map_err(fault)
    }

    fn between(&mut self) -> Result<(), Fault> {
        Python::attach(|py| py.check_signals()).map_err(fault)
    }
}

impl PySubject {
    fn outputs(&self, result: PyResult<Bound<'_, PyAny>>, py: Python<'_>) -> Result<Few<Emitted>, UserError> {
        let result = result.map_err(|error| UserError::raised(py, "process", error))?;
        let later = match output::read(&result)? {
            Returned::Outputs(outputs) => {
                let emitted = outputs.into_iter().map(|output| Emitted {
                    payload: Rc::from(output.as_ref()),
                    route: output.route(),
                });
                return Ok(emitted.collect());
            }
            Returned::Awaitable(later) | Returned::AsyncIterable(later) => later,
        };
        let result = self.shared.finish.bind(py).call1((later,));
        self.outputs(result, py)
    }

    fn state(&self, py: Python<'_>) -> Result<Rc<[u8]>, UserError> {
        let state = {
            let _inside = InUserCode::begin();
            self.object.bind(py).call_method0(intern!(py, "snapshot"))
        };
        let state = state.map_err(|error| UserError::raised(py, "snapshot", error))?;
        let bytes = args::payload(&state, "what snapshot gives");
        let bytes = bytes.map_err(|error| UserError::raised(py, "snapshot", error))?;
        Ok(Rc::from(bytes.as_bytes()))
    }
}

impl Subject for PySubject {
    fn process(&mut self, given: &Given) -> Result<Few<Emitted>, Fault> {
        Python::attach(|py| {
            let event = self.shared.event(given, py).map_err(fault)?;
            let _inside = InUserCode::begin();
            let result = call::one(self.process.bind(py), event.bind(py).as_any());
            self.outputs(result, py).map_err(|user| {
                let key = EventKey {
                    origin: given.origin,
                    stream: DIRECT,
                    sequence: given.sequence,
                };
                fault(errors::deliver(
                    DeliverError::Raised(user),
                    moves::origin(),
                    key,
                    None,
                    None,
                    py,
                ))
            })
        })
    }

    fn snapshot(&mut self) -> Result<Option<Rc<[u8]>>, Fault> {
        if !self.contract.stateful {
            return Ok(None);
        }
        Python::attach(|py| {
            let state = self.state(py);
            state
                .map(Some)
                .map_err(|user| fault(errors::snapshot_failed(user, moves::origin(), py)))
        })
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), Fault> {
        Python::attach(|py| {
            let bytes = PyBytes::new(py, state);
            let _inside = InUserCode::begin();
            let done = self.object.bind(py).call_method1(intern!(py, "restore"), (bytes,));
            done.map(|_| ()).map_err(|error| {
                let user = UserError::raised(py, "restore", error);
                fault(errors::restore(user, moves::origin(), py))
            })
        })
    }
}

/// A number of a call, from `from` to `to`.
fn within(value: &Bound<'_, PyAny>, name: &'static str, from: u64, to: u64) -> PyResult<u64> {
    let number = args::u64(value, name)?;
    if (from..=to).contains(&number) {
        return Ok(number);
    }
    let rule = format!("must be from {from} to {to}, not {number}");
    Err(InvalidArgument::new_err((name, rule)))
}

/// How the daemon is kept, where a run can tell whether what it does is right.
fn comparable(config: &DaemonHostConfig) -> PyResult<()> {
    let rule = if config.delivery != Delivery::Once {
        "delivery must be \"once\": what takes effect twice has nothing that it could be compared with"
    } else if config.on_divergence != OnDivergence::Stop {
        "on_divergence must be \"stop\": a daemon that may do something else the second time cannot be compared"
    } else {
        return Ok(());
    };
    Err(InvalidArgument::new_err(("config", rule)))
}

/// Simulates a run. `again` gives the call that repeats it, `finish` runs what is to be awaited.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "one for each argument of the public function")]
fn _simulate(
    daemon: &Bound<'_, PyAny>,
    seed: &Bound<'_, PyAny>,
    nodes: &Bound<'_, PyAny>,
    events: &Bound<'_, PyAny>,
    moves: &Bound<'_, PyAny>,
    faults: &Bound<'_, PyAny>,
    payload: &Bound<'_, PyAny>,
    config: &Bound<'_, PyAny>,
    again: &Bound<'_, PyAny>,
    finish: &Bound<'_, PyAny>,
) -> PyResult<PySimulationRun> {
    entry("simulate", || {
        let py = daemon.py();
        if !daemon.is_callable() {
            return Err(args::wrong_type(
                "daemon",
                "a class, or another callable that makes a daemon",
                daemon,
            ));
        }
        if !payload.is_none() && !payload.is_callable() {
            return Err(args::wrong_type("payload", "a callable or None", payload));
        }
        let seed = args::u64(seed, "seed")?;
        let nodes = within(nodes, "nodes", 2, NODES_MAX as u64)?;
        let plan = Plan {
            events: within(events, "events", 0, EVENTS_MAX)?,
            moves: within(moves, "moves", 0, MOVES_MAX)?,
            config: args::instance::<PyDaemonHostConfig>(config, "config", "a DaemonHostConfig")?
                .get()
                .0,
            faults: args::instance::<PyFaults>(faults, "faults", "a Faults")?.get().0,
        };
        comparable(&plan.config)?;
        let kind = PyKind {
            factory: daemon.clone().unbind(),
            payload: (!payload.is_none()).then(|| payload.clone().unbind()),
            shared: Rc::new(Shared {
                finish: finish.clone().unbind(),
                events: RefCell::default(),
            }),
        };
        let nodes = usize::try_from(nodes).unwrap_or(NODES_MAX);
        match moves::simulate(seed, &Options::planned(nodes, plan), Box::new(kind)) {
            Ok(run) => Ok(shown(seed, &run)),
            Err(failure) => Err(match failure.why {
                Stop::Fault(fault) => match fault.downcast::<PyErr>() {
                    Ok(error) => *error,
                    Err(other) => InvalidArgument::new_err(("daemon", other.to_string())),
                },
                Stop::Broken(broken) => {
                    let mut timeline = failure.timeline;
                    timeline.push(broken.what);
                    let timeline = PyTuple::new(py, timeline)?.unbind();
                    let again = again.call0()?.unbind();
                    InvariantViolation::new_err((broken.rule, seed, failure.step, again, timeline))
                }
            }),
        }
    })
}

fn shown(seed: u64, run: &moves::Run) -> PySimulationRun {
    let report = &run.report;
    PySimulationRun {
        seed,
        digest: run.digest,
        steps: report.steps,
        acknowledged: report.acknowledged,
        rolled_back: report.rolled_back,
        moves_completed: report.moves_completed,
        moves_aborted: report.moves_aborted,
        crashes: report.crashes,
        partitions: report.partitions,
        messages_lost: report.messages_lost,
        messages_repeated: report.messages_repeated,
        messages_overtaken: report.messages_overtook,
        writes_failed: report.writes_failed,
        slow_callbacks: report.slow,
        clock_jumps: report.jumps,
        // As exact as a timedelta.
        simulated: Duration::from_micros(u64::try_from(run.simulated.as_micros()).unwrap_or(u64::MAX)),
    }
}

/// Adds the classes and the function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyFaults>()?;
    module.add_class::<PySimulationRun>()?;
    module.add_function(wrap_pyfunction!(_simulate, module)?)
}
