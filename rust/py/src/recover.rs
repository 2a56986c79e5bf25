//! Bringing daemons back from the store.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshos_core::id::EntityId;
use meshos_core::ingress::DIRECT;
use meshos_core::lifecycle::Call;
use meshos_core::stored::StoredDaemon;
use meshos_node::resumption::Report;
use meshos_node::runtime::SpawnError;
use meshos_node::slot::{SharedKey, Slot};
use meshos_node::sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::args;
use crate::daemon::PyDaemon;
use crate::errors;
use crate::factory::{self, kind_name};
use crate::handle::PyDaemonHandle;
use crate::identity::PyIdentity;
use crate::runtime::PyRuntime;

/// One daemon: handle, kind, what came of it, and the error that kept it from starting.
pub type Row = (u64, String, Option<Came>, Option<Py<PyAny>>);

/// How a daemon came back: epoch, position in the snapshot, position now, inputs taken again, outputs held back, cursors,
/// snapshots passed over, from where outputs are rolled back, where it did something else.
pub type Came = (
    u64,
    u64,
    u64,
    u64,
    u64,
    Vec<(u64, u64)>,
    u32,
    Option<u64>,
    Option<Diverged>,
);

/// Where a daemon did something else: step, position, outputs the first time and now, class of what it raised, steps.
pub type Diverged = (u64, u64, u32, Option<u32>, String, u64);

impl PyRuntime {
    /// Brings back every stored daemon that is to run, whose kind is registered, and that does not run. The number is how
    /// many bytes the store had at its end that were no whole commit.
    pub fn recover(slf: &Bound<'_, Self>) -> PyResult<(Vec<Row>, Vec<String>, u64)> {
        let py = slf.py();
        let runtime = &slf.get().runtime;
        runtime.allow(Call::Work).map_err(errors::lifecycle)?;
        let stored = py.detach(|| runtime.stored());
        let stored = stored.map_err(|error| errors::store(&error, ""))?;
        let (mut rows, mut missing) = (Vec::new(), BTreeSet::new());
        for (entity, read) in stored {
            let origin = entity.origin();
            let daemon = match read {
                Ok(daemon) if !daemon.runs || runtime.registry().get(origin).is_some() => continue,
                Ok(daemon) => daemon,
                Err(error) => {
                    let failed = errors::FileDecodeError::new_err((error.offset, error.to_string()));
                    rows.push((
                        origin.get(),
                        String::new(),
                        None,
                        Some(failed.into_value(py).into_any()),
                    ));
                    continue;
                }
            };
            let name = PyString::new(py, &daemon.kind);
            let Ok(factory) = slf.get().factories.get().find(&kind_name(name.as_any())?) else {
                missing.insert(daemon.kind);
                continue;
            };
            let made = factory::make(py, &factory).and_then(|object| slf.get().instance(&object, factory));
            let came = made.and_then(|made| Self::back(slf, &entity, &daemon, made));
            rows.push(match came {
                Ok((_, came)) => (origin.get(), daemon.kind, Some(came), None),
                // What is raised to end the process is not a report.
                Err(error) if errors::passes_through(&error, py) => return Err(error),
                Err(error) => (origin.get(), daemon.kind, None, Some(error.into_value(py).into_any())),
            });
        }
        Ok((rows, missing.into_iter().collect(), slf.get().bytes_cut()))
    }

    fn back(
        slf: &Bound<'_, Self>,
        entity: &EntityId,
        stored: &StoredDaemon,
        daemon: PyDaemon,
    ) -> PyResult<(PyDaemonHandle, Came)> {
        let key = slf.get().runtime.unseal(entity, stored);
        let key = key.map_err(|error| errors::IdentityError::new_err(("sealed_for_another", error.to_string())))?;
        let key: SharedKey = Arc::new(Mutex::new(key));
        let (slot, report) = Self::taken_up(slf, &key, daemon)?;
        let came = came(&slot, &report);
        Ok((Self::spawned(slf, slot)?, came))
    }

    fn taken_up(slf: &Bound<'_, Self>, key: &SharedKey, daemon: PyDaemon) -> PyResult<(Arc<Slot<PyDaemon>>, Report)> {
        let origin = key.lock().origin();
        let resumed = slf.get().runtime.resume(key, daemon);
        resumed.map_err(|error| errors::spawn(error, origin, slf.py()))
    }

    /// Continues a daemon that is stored; `None`: it is not.
    pub fn resumed(
        slf: &Bound<'_, Self>,
        kind: &Bound<'_, PyAny>,
        identity: &Bound<'_, PyAny>,
    ) -> PyResult<Option<PyDaemonHandle>> {
        let identity = args::instance::<PyIdentity>(identity, "identity", "an Identity")?.get();
        let daemon = slf.get().made(slf.py(), kind)?;
        match slf.get().runtime.resume(&identity.key, daemon) {
            Ok((slot, _)) => Self::spawned(slf, slot).map(Some),
            Err(SpawnError::NotStored(_)) => Ok(None),
            Err(error) => {
                let origin = identity.key.lock().origin();
                Err(errors::spawn(error, origin, slf.py()))
            }
        }
    }
}

fn came(slot: &Arc<Slot<PyDaemon>>, report: &Report) -> Came {
    let cursors = slot.peek(|inside| {
        let cursors = inside.host.cursors().iter();
        let direct = cursors.filter(|(_, stream, _)| *stream == DIRECT);
        direct.map(|(origin, _, cursor)| (origin.get(), cursor)).collect()
    });
    (
        report.epoch,
        report.snapshot_sequence,
        report.sequence,
        report.replayed,
        report.suppressed,
        cursors.unwrap_or_default(),
        report.snapshots_skipped,
        report.rolled_back_from,
        report.divergence.as_ref().map(|found| {
            let exception = found.exception.to_string();
            (
                found.step,
                found.sequence,
                found.expected,
                found.found,
                exception,
                found.steps,
            )
        }),
    )
}
