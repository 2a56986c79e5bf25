//! `LogIndex` and `EntityLog`: what entities emitted, as a store has it.
//!
//! A log is looked at anew with each call, so that it is as the store has it then. What is read goes through one page of
//! rows, without the interpreter.

use meshos_core::continuity::Genesis;
use meshos_core::digest::Digest;
use meshos_core::entity_log::{Cursor, EntityLog, Event, LogError, LogIndex};
use meshos_core::id::{EntityId, Origin};
use meshos_core::store::{Store, StoreError};
use meshos_node::logs;
use meshos_node::sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyTuple};

use crate::args;
use crate::causal::PyCausalEvent;
use crate::continuity::{PyContinuity, PySpan};
use crate::errors::{self, InvalidArgument};
use crate::fork::PyForkRecord;
use crate::guard::{entry, may_wait};
use crate::record::field::{Field, read};
use crate::store::{Held, opened_without_key};

/// The logs of a store, by the entities that they are of.
#[pyclass(frozen, name = "LogIndex", module = "meshos.store")]
pub struct PyLogIndex {
    held: Held,
    /// Whether the store was opened for it.
    owns: bool,
}

impl PyLogIndex {
    /// The logs of a store that is open.
    pub const fn of(held: Held) -> Self {
        Self { held, owns: false }
    }

    fn log(&self, genesis: Genesis) -> PyEntityLog {
        PyEntityLog {
            held: self.held.clone(),
            genesis,
        }
    }

    fn read<T: Send>(
        &self,
        py: Python<'_>,
        call: &'static str,
        look: impl FnOnce(LogIndex<'_>) -> Result<T, StoreError> + Send,
    ) -> PyResult<T> {
        self.held
            .read(py, call, |store| look(LogIndex::of(store)).map_err(LogError::Store))
    }
}

#[pymethods]
impl PyLogIndex {
    /// Return the log of an entity; `None`: the store does not know it.
    #[pyo3(signature = (entity_id, *, fork = None))]
    fn get(
        &self,
        py: Python<'_>,
        entity_id: &Bound<'_, PyAny>,
        fork: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<PyEntityLog>> {
        entry("LogIndex.get", || {
            let entity: EntityId = read(entity_id, "entity_id")?;
            let genesis = match fork.filter(|fork| !fork.is_none()) {
                None => Genesis::of(entity),
                Some(fork) => {
                    let record = args::instance::<PyForkRecord>(fork, "fork", "a ForkRecord or None")?
                        .get()
                        .0;
                    if record.child != entity {
                        let message = format!("must be of {entity}, not of {}", record.child);
                        return Err(InvalidArgument::new_err(("fork", message)));
                    }
                    Genesis::of_fork(&record).map_err(|error| errors::chain(&error))?
                }
            };
            let is_known = self.read(py, "LogIndex.get", |index| index.contains(&entity))?;
            Ok(is_known.then(|| self.log(genesis)))
        })
    }

    /// Return the logs of all entities with this handle; none is a fork.
    fn find<'py>(&self, py: Python<'py>, origin_hash: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        entry("LogIndex.find", || {
            let origin = Origin::new(args::u64(origin_hash, "origin_hash")?);
            let found = self.read(py, "LogIndex.find", |index| index.with_origin(origin))?;
            let logs = found
                .into_iter()
                .map(|entity| Py::new(py, self.log(Genesis::of(entity))));
            PyTuple::new(py, logs.collect::<PyResult<Vec<_>>>()?)
        })
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        entry("LogIndex", || {
            let entities: Vec<EntityId> = self.read(py, "LogIndex", |index| index.iter().collect())?;
            entities.to_python(py)?.try_iter()
        })
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        entry("LogIndex", || {
            let count = self.read(py, "LogIndex", |index| index.count())?;
            Ok(usize::try_from(count).unwrap_or(usize::MAX))
        })
    }

    fn __contains__(&self, py: Python<'_>, entity_id: &Bound<'_, PyAny>) -> PyResult<bool> {
        entry("LogIndex", || {
            let entity: EntityId = read(entity_id, "entity_id")?;
            self.read(py, "LogIndex", |index| index.contains(&entity))
        })
    }

    /// Close the folder, if it was opened for this.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        entry("LogIndex.close", || {
            if self.owns {
                self.held.close(py, "LogIndex.close")
            } else {
                Ok(())
            }
        })
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<LogIndex of {}>", self.held.name())
    }
}

/// What one entity emitted, as a store has it.
#[pyclass(frozen, name = "EntityLog", module = "meshos.store")]
pub struct PyEntityLog {
    held: Held,
    genesis: Genesis,
}

impl PyEntityLog {
    fn read<T: Send>(
        &self,
        py: Python<'_>,
        call: &'static str,
        look: impl FnOnce(EntityLog<'_>) -> Result<T, LogError> + Send,
    ) -> PyResult<T> {
        self.held
            .read(py, call, |store| look(EntityLog::open(store, self.genesis)?))
    }

    fn events(&self, py: Python<'_>, call: &'static str, first: u64, last: u64) -> PyResult<PyLogEvents> {
        let cursor = self.read(py, call, |log| Ok(log.cursor(first, last)))?;
        Ok(PyLogEvents {
            held: self.held.clone(),
            from: Mutex::new((self.held.handle(), cursor)),
        })
    }
}

fn shown(py: Python<'_>, event: Event) -> PyResult<Py<PyCausalEvent>> {
    PyCausalEvent::emitted(py, event.link, PyBytes::new(py, &event.payload).unbind())
}

#[pymethods]
impl PyEntityLog {
    /// Whose it is.
    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.genesis.entity().to_python(py)
    }

    /// The handle of the entity.
    #[getter]
    fn origin_hash(&self) -> u64 {
        self.genesis.entity().origin().get()
    }

    /// Last event before the first that it has.
    #[getter]
    fn base_sequence(&self, py: Python<'_>) -> PyResult<u64> {
        entry("EntityLog.base_sequence", || {
            self.read(py, "EntityLog.base_sequence", |log| Ok(log.base().sequence))
        })
    }

    /// Digest of the chain there.
    #[getter]
    fn base_digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entry("EntityLog.base_digest", || {
            let base: Digest = self.read(py, "EntityLog.base_digest", |log| Ok(log.base().digest))?;
            base.to_python(py)
        })
    }

    /// Its last event.
    #[getter]
    fn head_sequence(&self, py: Python<'_>) -> PyResult<u64> {
        entry("EntityLog.head_sequence", || {
            self.read(py, "EntityLog.head_sequence", |log| Ok(log.head().sequence))
        })
    }

    /// Digest of the chain there.
    #[getter]
    fn head_digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entry("EntityLog.head_digest", || {
            let head: Digest = self.read(py, "EntityLog.head_digest", |log| Ok(log.head().digest))?;
            head.to_python(py)
        })
    }

    /// Return the event of a sequence; `None`: it does not have it.
    fn event(&self, py: Python<'_>, sequence: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyCausalEvent>>> {
        entry("EntityLog.event", || {
            let sequence = args::u64(sequence, "sequence")?;
            let event = self.read(py, "EntityLog.event", |log| Ok(log.event(sequence)?))?;
            event.map(|event| shown(py, event)).transpose()
        })
    }

    /// Return the digest of the chain after an event; `None`: it does not know it.
    fn digest_at<'py>(&self, py: Python<'py>, sequence: &Bound<'_, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        entry("EntityLog.digest_at", || {
            let sequence = args::u64(sequence, "sequence")?;
            let digest: Option<Digest> = self.read(py, "EntityLog.digest_at", |log| Ok(log.digest_at(sequence)?))?;
            digest.to_python(py)
        })
    }

    /// Return the events from `first` to `last`, both included, as far as it has them.
    fn range(&self, py: Python<'_>, first: &Bound<'_, PyAny>, last: &Bound<'_, PyAny>) -> PyResult<PyLogEvents> {
        entry("EntityLog.range", || {
            let (first, last) = (args::u64(first, "first")?, args::u64(last, "last")?);
            self.events(py, "EntityLog.range", first, last)
        })
    }

    /// Return the events behind `sequence`.
    fn after(&self, py: Python<'_>, sequence: &Bound<'_, PyAny>) -> PyResult<PyLogEvents> {
        entry("EntityLog.after", || {
            let sequence = args::u64(sequence, "sequence")?;
            // Nothing is behind the last sequence that there is.
            let last = if sequence == u64::MAX { 0 } else { u64::MAX };
            self.events(py, "EntityLog.after", sequence.saturating_add(1), last)
        })
    }

    /// Hash every event, and say whether the chain is whole and what makes that certain.
    fn assess<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entry("EntityLog.assess", || {
            let found = self.read(py, "EntityLog.assess", |log| log.assess())?;
            PyContinuity::new(&found).to_python(py)
        })
    }

    /// Who spoke for the entity, by ascending epoch.
    #[getter]
    fn spans<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entry("EntityLog.spans", || {
            let spans = self.read(py, "EntityLog.spans", |log| log.spans())?;
            spans.iter().map(PySpan::new).collect::<Vec<_>>().to_python(py)
        })
    }

    /// Let every event up to `through` go; return how many went.
    fn prune(&self, py: Python<'_>, through: &Bound<'_, PyAny>) -> PyResult<u64> {
        entry("EntityLog.prune", || {
            let through = args::u64(through, "through")?;
            self.held.check("EntityLog.prune")?;
            let alone = self.held.alone()?;
            let mut store = self.held.handle();
            let pruned = py.detach(|| logs::prune(&mut *store, self.genesis, through));
            drop(alone);
            let pruned = pruned.map_err(|error| errors::prune(&error, self.held.path()))?;
            Ok(pruned.events)
        })
    }

    fn __repr__(&self) -> String {
        format!("<EntityLog of {}>", self.genesis.entity().to_hex())
    }
}

/// Events of a log, in order, read as they are asked for.
#[pyclass(frozen, name = "LogEvents", module = "meshos.store")]
pub struct PyLogEvents {
    held: Held,
    from: Mutex<(Box<dyn Store>, Cursor)>,
}

#[pymethods]
impl PyLogEvents {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyCausalEvent>>> {
        entry("LogEvents", || {
            self.held.check("LogEvents")?;
            let event = py.detach(|| {
                let (store, cursor) = &mut *self.from.lock();
                cursor.read(&**store)
            });
            let event = event.map_err(|error| errors::log(&error, self.held.path()))?;
            event.map(|event| shown(py, event)).transpose()
        })
    }
}

/// Open the folder of a store for its logs, without the key of its node.
#[pyfunction]
fn open_logs(path: &Bound<'_, PyAny>) -> PyResult<PyLogIndex> {
    entry("open_logs", || {
        Ok(PyLogIndex {
            held: opened_without_key("open_logs", path)?,
            owns: true,
        })
    })
}

/// Adds the classes and the function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyEntityLog>()?;
    module.add_class::<PyLogIndex>()?;
    module.add_class::<PyLogEvents>()?;
    module.add_function(wrap_pyfunction!(open_logs, module)?)
}

/// A store that is open, as its logs have it.
impl Held {
    /// Refuses use in a forked child, and where nobody may wait.
    fn check(&self, call: &'static str) -> PyResult<()> {
        self.born().check("Store")?;
        may_wait(call)
    }

    fn read<T: Send>(
        &self,
        py: Python<'_>,
        call: &'static str,
        look: impl FnOnce(&dyn Store) -> Result<T, LogError> + Send,
    ) -> PyResult<T> {
        self.check(call)?;
        let store = self.handle();
        let found = py.detach(move || look(&*store));
        found.map_err(|error| errors::log(&error, self.path()))
    }
}
