//! Dead letters: those of a daemon that runs, and those in the folder of a store.

use std::sync::Arc;

use meshos_core::codec::DecodeError;
use meshos_core::dead_letter::DeadLetter;
use meshos_core::id::{EntityId, Origin};
use meshos_core::ingress::EventKey;
use meshos_core::rows::{KeyRange, Table, Write, of_entity_key};
use meshos_core::store::{Damage, Store, StoreError};
use meshos_node::deliver;
use meshos_node::letters::{self, Letter};
use meshos_node::redb_store::OpenedStore;
use meshos_node::resumption::each;
use meshos_node::slot::{Entered, Slot};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::args;
use crate::causal::PyCausalEvent;
use crate::daemon::PyDaemon;
use crate::enter::{enter, inspect, kept};
use crate::errors::{self, InvalidArgument};
use crate::guard::entry;
use crate::receipt::PyReceipt;
use crate::store::keyless;

/// Number, event, tries, class name and text of the last exception, when in milliseconds since 1970, and whether it is
/// tried again when its daemon comes back.
pub type Row = (u64, Py<PyCausalEvent>, u32, String, String, u64, bool);

/// Kind and dead letters of a daemon that runs, ascending.
pub fn list(py: Python<'_>, slot: &Arc<Slot<PyDaemon>>) -> PyResult<(String, Vec<Row>)> {
    let entered = inspect(py, slot)?;
    let found: Vec<(u64, Letter<PyDaemon>)> = entered
        .letters
        .iter()
        .flat_map(|letters| letters.iter())
        .map(|(number, letter)| (number, letter.clone()))
        .collect();
    drop(entered);
    let rows = found.into_iter().map(|(number, letter)| {
        (
            number,
            letter.event.0,
            letter.attempts,
            letter.exception.to_string(),
            letter.message.to_string(),
            letter.at.get(),
            letter.retry,
        )
    });
    Ok((slot.kind().to_string(), rows.collect()))
}

fn gone() -> PyErr {
    InvalidArgument::new_err(("letter", "is no dead letter of this daemon any more"))
}

/// Finds what an event of a letter is known by here.
fn key(entered: &Entered<PyDaemon>, number: u64, event: &Bound<'_, PyAny>) -> PyResult<EventKey> {
    let event = args::instance::<PyCausalEvent>(event, "letter.event", "CausalEvent")?.get();
    let mut letters = entered.letters.iter().flat_map(|letters| letters.iter());
    let found = letters
        .find(|(known, _)| *known == number)
        .map(|(_, letter)| letter.key);
    found
        .filter(|key| (key.origin, key.sequence) == (event.link.origin, event.link.sequence))
        .ok_or_else(gone)
}

/// Tries a dead letter once more, on this thread.
pub fn retry(slot: &Arc<Slot<PyDaemon>>, number: u64, event: &Bound<'_, PyAny>) -> PyResult<PyReceipt> {
    let py = event.py();
    let mut entered = enter(py, slot)?;
    let key = key(&entered, number, event)?;
    let tried = letters::retry(&mut entered, number, Some(key));
    let commit = deliver::submit(&mut entered);
    drop(entered);
    let tried = tried.ok_or_else(gone)?;
    if let Some(commit) = commit {
        kept(py, slot.origin(), &commit)?;
    }
    match tried {
        Ok(delivered) => {
            let receipt = delivered.receipt.expect("one was asked for");
            Ok(PyReceipt::new(slot.origin(), key.origin, &receipt, false))
        }
        Err(error) => Err(errors::deliver(
            error,
            slot.origin(),
            key,
            Some(event.clone().unbind()),
            None,
            py,
        )),
    }
}

/// Lets a dead letter go.
pub fn discard(slot: &Arc<Slot<PyDaemon>>, number: u64, event: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = event.py();
    let mut entered = inspect(py, slot)?;
    let key = key(&entered, number, event)?;
    let was_there = letters::discard(&mut entered, number, key);
    let commit = deliver::submit(&mut entered);
    drop(entered);
    if !was_there {
        return Err(gone());
    }
    commit.map_or(Ok(()), |commit| kept(py, slot.origin(), &commit))
}

type Found = Vec<(EntityId, u64, Result<DeadLetter, DecodeError>)>;

fn all(store: &dyn Store) -> Result<Found, StoreError> {
    let mut found = Vec::new();
    each(store, Table::DeadLetters, KeyRange::all(), |key, value| {
        if let Some((entity, [number])) = of_entity_key::<1>(key) {
            found.push((entity, number, DeadLetter::decode(value)));
        }
    })?;
    Ok(found)
}

fn bad_row(entity: EntityId, number: u64, error: DecodeError) -> StoreError {
    StoreError::Damaged(Damage::Row {
        table: Table::DeadLetters,
        entity,
        number,
        error,
    })
}

/// All dead letters in the folder of a store, with the handles of their daemons.
#[pyfunction]
#[pyo3(name = "_stored_letters")]
fn stored(path: &Bound<'_, PyAny>) -> PyResult<Vec<(u64, Row)>> {
    entry("dead_letters", || {
        let py = path.py();
        let found = keyless("dead_letters", path, |opened| {
            let read = all(&opened.store)?.into_iter().map(|(entity, number, letter)| {
                let letter = letter.map_err(|error| bad_row(entity, number, error))?;
                Ok((entity, number, letter))
            });
            read.collect::<Result<Vec<_>, StoreError>>()
        })?;
        let rows = found.into_iter().map(|(entity, number, letter)| {
            let event = PyCausalEvent {
                link: letter.link,
                len: letter.payload.len(),
                payload: PyBytes::new(py, &letter.payload).unbind(),
                received_ns: letter.received_ns,
                source: None,
            };
            let row = (
                number,
                Py::new(py, event)?,
                letter.attempts,
                letter.exception,
                letter.message,
                letter.at.get(),
                letter.retry,
            );
            Ok((entity.origin().get(), row))
        });
        rows.collect()
    })
}

/// Marks a dead letter in the folder of a store to be tried again when its daemon comes back, or lets it go.
#[pyfunction]
#[pyo3(name = "_settle_stored_letter")]
fn settle(path: &Bound<'_, PyAny>, origin_hash: &Bound<'_, PyAny>, number: u64, retry: bool) -> PyResult<()> {
    entry("settle_dead_letter", || {
        let origin = args::origin(origin_hash)?;
        let settled = keyless("settle_dead_letter", path, |opened| {
            settle_in(opened, origin, number, retry)
        })?;
        settled.then_some(()).ok_or_else(gone)
    })
}

fn settle_in(opened: &OpenedStore, origin: Origin, number: u64, retry: bool) -> Result<bool, StoreError> {
    let found = all(&opened.store)?;
    let Some((entity, number, letter)) = found
        .into_iter()
        .find(|(entity, known, _)| (entity.origin(), *known) == (origin, number))
    else {
        return Ok(false);
    };
    let change = if retry {
        let letter = letter.map_err(|error| bad_row(entity, number, error))?;
        DeadLetter { retry: true, ..letter }.write(&entity, number)
    } else {
        let key = meshos_core::rows::entity_key(&entity, [number]);
        Write::remove(Table::DeadLetters, key)
    };
    opened.store.commit(vec![change]).map(|_| true)
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(stored, module)?)?;
    module.add_function(wrap_pyfunction!(settle, module)?)
}
