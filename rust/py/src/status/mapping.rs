//! The tables of a snapshot as read-only mappings.
//!
//! A mapping shares the table with its snapshot and makes the object of an entry when it is asked for. An iteration
//! remembers the key it is at, so it needs no copy of the keys either.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, OnceLock};

use meshos_core::command::ChainId;
use meshos_core::id::{NodeId, Origin};
use meshos_core::status::MeshOsSnapshot;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyInt, PyMapping, PyString, PyType};

use super::cluster::{PyAvoidEntry, PyPeerSnapshot, PyReplicaSnapshot};
use super::daemon::PyDaemonSnapshot;
use super::work::PyCallbackStatus;
use crate::args;
use crate::record::Reduced;
use crate::record::field::Field;
use crate::record::union::union;

/// A snapshot, with what was counted in it.
pub struct Shown {
    /// What the loop published.
    pub core: Arc<MeshOsSnapshot>,
    chains: OnceLock<usize>,
}

impl Shown {
    /// Shows a snapshot.
    pub fn new(core: Arc<MeshOsSnapshot>) -> Arc<Self> {
        Arc::new(Self {
            core,
            chains: OnceLock::new(),
        })
    }

    fn chains(&self) -> usize {
        let count = || {
            let chains = self.core.view.chains.values();
            chains.filter(|chain| PyReplicaSnapshot::exists(chain)).count()
        };
        *self.chains.get_or_init(count)
    }
}

/// A table, by what it is of.
#[derive(Clone)]
pub enum Table {
    /// Daemons by handle.
    Daemons(Arc<Shown>),
    /// Chains by origin.
    Replicas(Arc<Shown>),
    /// Other nodes.
    Peers(Arc<Shown>),
    /// Peers that nothing new is placed on.
    Avoided(Arc<Shown>),
    /// User code by name.
    Callbacks(Arc<Shown>),
    /// Other nodes, as somebody made them up.
    Given(Arc<BTreeMap<NodeId, PyPeerSnapshot>>),
}

/// A key of some table.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Number(u64),
    Text(Arc<str>),
}

impl Key {
    /// Reads a key; what no table has is `None`.
    fn read(value: &Bound<'_, PyAny>) -> Option<Self> {
        if value.is_instance_of::<PyInt>() {
            value.extract().ok().map(Self::Number)
        } else {
            let text = value.cast::<PyString>().ok()?;
            text.to_str().ok().map(|text| Self::Text(Arc::from(text)))
        }
    }

    fn show<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Number(number) => number.to_python(py),
            Self::Text(text) => text.to_python(py),
        }
    }
}

union! {
    /// An entry of some table.
    pub enum Entry, "an entry of a snapshot" {
        Daemon(PyDaemonSnapshot),
        Replica(PyReplicaSnapshot),
        Peer(PyPeerSnapshot),
        Avoided(PyAvoidEntry),
        Callback(PyCallbackStatus),
    }
}

impl Table {
    fn len(&self) -> usize {
        match self {
            Self::Daemons(shown) => shown.core.view.daemons.len(),
            Self::Replicas(shown) => shown.chains(),
            Self::Peers(shown) => shown.core.view.peers.len(),
            Self::Avoided(shown) => shown.core.view.avoid.len(),
            Self::Callbacks(shown) => shown.core.callbacks.len(),
            Self::Given(peers) => peers.len(),
        }
    }

    fn get(&self, key: &Key) -> Option<Entry> {
        match (self, key) {
            (Self::Daemons(shown), &Key::Number(key)) => {
                let daemon = shown.core.view.daemons.get(&Origin::new(key))?;
                Some(PyDaemonSnapshot::of(daemon, shown.core.this_node).into())
            }
            (Self::Replicas(shown), &Key::Number(key)) => {
                let chain = shown.core.view.chains.get(&ChainId::new(key))?;
                PyReplicaSnapshot::exists(chain).then(|| PyReplicaSnapshot::from(&**chain).into())
            }
            (Self::Peers(shown), &Key::Number(key)) => {
                let peer = shown.core.view.peers.get(&NodeId::new(key))?;
                Some(PyPeerSnapshot::from(&**peer).into())
            }
            (Self::Avoided(shown), &Key::Number(key)) => {
                let entry = shown.core.view.avoid.get(&NodeId::new(key))?;
                Some(PyAvoidEntry::from(entry).into())
            }
            (Self::Given(peers), &Key::Number(key)) => peers.get(&NodeId::new(key)).cloned().map(Entry::from),
            (Self::Callbacks(shown), Key::Text(key)) => {
                let status = shown.core.callbacks.get(key)?;
                Some(PyCallbackStatus::from(status).into())
            }
            (Self::Callbacks(_), Key::Number(_)) | (_, Key::Text(_)) => None,
        }
    }

    /// The lowest key above another one, or the lowest of all.
    fn after(&self, key: Option<&Key>) -> Option<Key> {
        let number = match key {
            Some(&Key::Number(number)) => Excluded(number),
            _ => Unbounded,
        };
        let found = match self {
            Self::Daemons(shown) => {
                let mut above = shown.core.view.daemons.range((number.map(Origin::new), Unbounded));
                above.next().map(|(key, _)| key.get())
            }
            Self::Replicas(shown) => {
                let mut above = shown.core.view.chains.range((number.map(ChainId::new), Unbounded));
                let found = above.find(|(_, chain)| PyReplicaSnapshot::exists(chain));
                found.map(|(key, _)| key.get())
            }
            Self::Peers(shown) => {
                let mut above = shown.core.view.peers.range((number.map(NodeId::new), Unbounded));
                above.next().map(|(key, _)| key.get())
            }
            Self::Avoided(shown) => {
                let mut above = shown.core.view.avoid.range((number.map(NodeId::new), Unbounded));
                above.next().map(|(key, _)| key.get())
            }
            Self::Given(peers) => {
                let mut above = peers.range((number.map(NodeId::new), Unbounded));
                above.next().map(|(key, _)| key.get())
            }
            Self::Callbacks(shown) => {
                let text = match key {
                    Some(Key::Text(text)) => Excluded(text),
                    _ => Unbounded,
                };
                let mut above = shown.core.callbacks.range::<Arc<str>, _>((text, Unbounded));
                return above.next().map(|(key, _)| Key::Text(Arc::clone(key)));
            }
        };
        found.map(Key::Number)
    }

    /// Every key, ascending.
    fn keys(&self) -> impl Iterator<Item = Key> {
        std::iter::successors(self.after(None), |key| self.after(Some(key)))
    }

    /// Peers as somebody made them up.
    fn given(peers: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        if let Ok(mapping) = peers.cast::<PySnapshotMapping>()
            && let table @ (Self::Peers(_) | Self::Given(_)) = &mapping.get().0
        {
            return Ok(table.clone());
        }
        let mapping = peers
            .cast::<PyMapping>()
            .map_err(|_| args::wrong_type(name, "a mapping", peers))?;
        let mut given = BTreeMap::new();
        for item in mapping.items()? {
            let (node, peer) = item.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
            given.insert(
                NodeId::from_python(&node, name)?,
                PyPeerSnapshot::from_python(&peer, name)?,
            );
        }
        Ok(Self::Given(Arc::new(given)))
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.keys().all(|key| self.get(&key) == other.get(&key))
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.keys().map(|key| (key.clone(), self.get(&key))))
            .finish()
    }
}

/// A table of a snapshot, by key, ascending. Read-only; an entry is made when it is asked for.
#[pyclass(frozen, mapping, name = "_SnapshotMapping", module = "meshos._core")]
pub struct PySnapshotMapping(pub Table);

#[pymethods]
impl PySnapshotMapping {
    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> bool {
        Key::read(key).is_some_and(|key| self.0.get(&key).is_some())
    }

    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match Key::read(key).and_then(|key| self.0.get(&key)) {
            Some(entry) => entry.to_python(key.py()),
            None => Err(PyKeyError::new_err((key.clone().unbind(),))),
        }
    }

    fn __iter__(&self) -> PyKeys {
        PyKeys {
            table: self.0.clone(),
            last: None,
        }
    }

    /// Return the entry of a key, or `default`.
    #[pyo3(signature = (key, default = None, /))]
    fn get<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match Key::read(key).and_then(|key| self.0.get(&key)) {
            Some(entry) => entry.to_python(key.py()).map(Some),
            None => Ok(default),
        }
    }

    /// Return a view of the keys.
    fn keys<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static VIEW: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        VIEW.import(slf.py(), "collections.abc", "KeysView")?.call1((slf,))
    }

    /// Return a view of the entries.
    fn values<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static VIEW: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        VIEW.import(slf.py(), "collections.abc", "ValuesView")?.call1((slf,))
    }

    /// Return a view of keys and entries.
    fn items<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static VIEW: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        VIEW.import(slf.py(), "collections.abc", "ItemsView")?.call1((slf,))
    }

    /// A mapping is equal to every mapping with the same entries.
    fn __richcmp__<'py>(&self, other: &Bound<'py, PyAny>, operator: CompareOp) -> PyResult<Bound<'py, PyAny>> {
        let py = other.py();
        let equal = if let Ok(other) = other.cast_exact::<Self>() {
            self.0 == other.get().0
        } else if let Ok(other) = other.cast::<PyMapping>() {
            let entries = PyDict::new(py);
            entries.update(other)?;
            self.entries(py)?.eq(entries)?
        } else {
            return Ok(py.NotImplemented().into_bound(py));
        };
        let answer = match operator {
            CompareOp::Eq => equal,
            CompareOp::Ne => !equal,
            _ => return Ok(py.NotImplemented().into_bound(py)),
        };
        Ok(PyBool::new(py, answer).to_owned().into_any())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.entries(py)?.repr()?.to_string_lossy().into_owned())
    }

    /// Pickled and copied as a `dict`: what it shares with its snapshot stays here.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Reduced<'py>> {
        let entries = self.entries(py)?;
        Ok((
            py.get_type::<PyDict>().into_any(),
            (entries.items(),).into_pyobject(py)?,
        ))
    }
}

impl PySnapshotMapping {
    fn entries<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let entries = PyDict::new(py);
        for key in self.0.keys() {
            let entry = self.0.get(&key).map(|entry| entry.to_python(py)).transpose()?;
            entries.set_item(key.show(py)?, entry)?;
        }
        Ok(entries)
    }
}

impl Field for Table {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        Self::given(value, name)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Bound::new(py, PySnapshotMapping(self.clone()))?.into_any())
    }
}

/// The keys of a table, one after the other.
#[pyclass(name = "_SnapshotKeys", module = "meshos._core")]
struct PyKeys {
    table: Table,
    last: Option<Key>,
}

#[pymethods]
impl PyKeys {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(key) = self.table.after(self.last.as_ref()) else {
            return Ok(None);
        };
        let shown = key.show(py)?;
        self.last = Some(key);
        Ok(Some(shown))
    }
}

/// Tells the abstract class of mappings of this one.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let mapping = py.import("collections.abc")?.getattr("Mapping")?;
    mapping.call_method1("register", (py.get_type::<PySnapshotMapping>(),))?;
    Ok(())
}
