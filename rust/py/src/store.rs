//! `Store`: what a node keeps.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use meshos_core::identity::Keypair;
use meshos_core::rows::Table;
use meshos_core::store::memory::MemoryStore;
use meshos_core::store::{Store, StoreError, StoreStats};
use meshos_core::trail;
use meshos_node::inspection;
use meshos_node::journal::{SharedStore, Stores};
use meshos_node::keys;
use meshos_node::redb_store::{OpenedStore, Options, RedbStore};
use meshos_node::runtime::Runtime;
use meshos_node::slot::SharedKey;
use meshos_node::sync::Mutex;
use meshos_node::trail_file::{self, TrailFile, VerifyError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use crate::args;
use crate::daemon::PyDaemon;
use crate::entity_log::PyLogIndex;
use crate::errors::{self, InvalidArgument};
use crate::guard::{Born, entry, may_wait};
use crate::identity::{entity_id, own_key};
use crate::record::field::read;
use crate::record::record;
use crate::runtime;

record! {
    /// How much a store holds.
    pub struct PyStoreStats in "meshos.store" as "StoreStats", by keyword {
        /// Daemons that it has.
        daemons: u64,
        /// Bytes of commits that are not in the tree yet.
        journal_bytes: u64,
        /// Bytes of its snapshots.
        snapshot_bytes: u64,
        /// Bytes of all its files.
        file_bytes: u64,
        /// Commits since it was made.
        commits: u64,
        /// Events that its daemons passed over.
        dead_letters: u64,
    }
}

impl PyStoreStats {
    fn of(daemons: u64, dead_letters: u64, stats: &StoreStats) -> Self {
        Self {
            daemons,
            journal_bytes: stats.log_bytes,
            snapshot_bytes: stats.snapshot_bytes,
            file_bytes: stats.file_bytes,
            commits: stats.commits,
            dead_letters,
        }
    }
}

enum Kind {
    Memory(SharedStore<MemoryStore>),
    Folder(RedbStore),
}

impl Kind {
    fn handle(&self) -> Box<dyn Store> {
        match self {
            Self::Memory(store) => Box::new(store.clone()),
            Self::Folder(store) => Box::new(store.clone()),
        }
    }
}

/// Who uses a store.
#[derive(Default)]
struct User {
    /// The runtime that uses it.
    runtime: Weak<Runtime<PyDaemon>>,
    /// Whether a log of it is being pruned.
    prunes: bool,
}

impl User {
    fn runs(&self) -> bool {
        self.runtime.upgrade().is_some_and(|runtime| runtime::is_open(&runtime))
    }
}

/// A store that is open, as others than its [`PyStore`] have it.
#[derive(Clone)]
pub struct Held {
    kind: Arc<Kind>,
    path: Arc<str>,
    born: Born,
    user: Arc<Mutex<User>>,
}

impl Held {
    /// A handle on it.
    pub fn handle(&self) -> Box<dyn Store> {
        self.kind.handle()
    }

    /// Its folder; empty in memory.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What it is called where it is shown.
    pub fn name(&self) -> String {
        match &*self.kind {
            Kind::Memory(_) => "a store in memory".to_owned(),
            Kind::Folder(_) => format!("{:?}", self.path),
        }
    }

    /// In which process it was opened.
    pub const fn born(&self) -> Born {
        self.born
    }

    /// Keeps runtimes away, and others who prune, until dropped. Raises `StoreError` if one uses it.
    pub fn alone(&self) -> PyResult<Alone> {
        let mut user = self.user.lock();
        if user.runs() || user.prunes {
            drop(user);
            let message = "a runtime uses it, or somebody prunes it: wait until it is free";
            return Err(errors::StoreError::new_err(("locked", self.path.to_string(), message)));
        }
        user.prunes = true;
        Ok(Alone(Arc::clone(&self.user)))
    }

    /// Closes it.
    pub fn close(&self, py: Python<'_>, call: &'static str) -> PyResult<()> {
        self.born.check("Store")?;
        may_wait(call)?;
        let closed = py.detach(|| match &*self.kind {
            Kind::Memory(_) => Ok(()),
            Kind::Folder(store) => store.close(),
        });
        closed.map_err(|error| errors::store(&error, &self.path))
    }
}

/// Nobody else uses a store, until dropped.
pub struct Alone(Arc<Mutex<User>>);

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.lock().prunes = false;
    }
}

/// Opens a folder that is there, without the key of its node.
pub fn opened_without_key(call: &'static str, path: &Bound<'_, PyAny>) -> PyResult<Held> {
    may_wait(call)?;
    let shown = args::path(path, "path")?.to_string();
    let options = Options {
        create: false,
        ..Options::default()
    };
    let folder = PathBuf::from(&shown);
    let opened = path.py().detach(|| RedbStore::open(&folder, &options));
    let opened = opened.map_err(|error| errors::store(&error, &shown))?;
    Ok(Held {
        kind: Arc::new(Kind::Folder(opened.store)),
        path: shown.into(),
        born: Born::now(),
        user: Arc::default(),
    })
}

/// One node's memory.
#[pyclass(frozen, name = "Store", module = "meshos.store", weakref)]
pub struct PyStore {
    kind: Arc<Kind>,
    node: Arc<Keypair>,
    path: String,
    born: Born,
    user: Arc<Mutex<User>>,
    /// Bytes at its end that were no whole commit.
    cut: u64,
    /// Who keeps records of each sort in it.
    trails: [Mutex<Trail>; 4],
}

/// Who keeps records of one sort in a store.
#[derive(Default)]
struct Trail {
    kept_by: Weak<TrailFile>,
    /// Somebody is opening them.
    opening: bool,
}

impl PyStore {
    /// A store that forgets at exit, of a node with this key or one of its own.
    pub fn in_memory(node: Option<Keypair>) -> Self {
        Self {
            kind: Arc::new(Kind::Memory(SharedStore::new(MemoryStore::new()))),
            node: Arc::new(node.unwrap_or_else(keys::generate)),
            path: String::new(),
            born: Born::now(),
            user: Arc::default(),
            cut: 0,
            trails: Default::default(),
        }
    }

    /// Bytes at its end that were no whole commit when it was opened.
    pub const fn bytes_cut(&self) -> u64 {
        self.cut
    }

    /// Opens records of a sort in it, signed by its node; `None`: somebody has them open. `open` is given a handle, what the
    /// store is called, and the key.
    pub fn trail<E>(
        &self,
        sort: trail::Kind,
        open: impl FnOnce(Box<dyn Store>, &str, Option<SharedKey>) -> Result<TrailFile, E>,
    ) -> Option<Result<Arc<TrailFile>, E>> {
        let place = &self.trails[sort as usize - 1];
        {
            let mut place = place.lock();
            if place.opening || place.kept_by.upgrade().is_some_and(|trail| !trail.is_closed()) {
                return None;
            }
            place.opening = true;
        }
        let name = if self.path.is_empty() {
            "a store in memory"
        } else {
            &self.path
        };
        let signer = self.node.seed().ok().map(|seed| Keypair::from_seed(&seed));
        let opened = open(self.kind.handle(), name, signer.map(|key| Arc::new(Mutex::new(key)))).map(Arc::new);
        let mut place = place.lock();
        place.opening = false;
        if let Ok(opened) = &opened {
            place.kept_by = Arc::downgrade(opened);
        }
        Some(opened)
    }

    /// Refuses use in a forked child.
    pub fn check(&self) -> PyResult<()> {
        self.born.check("Store")
    }

    /// The key of its node.
    pub fn node(&self) -> &Arc<Keypair> {
        &self.node
    }

    /// Its folder; empty when it is in memory.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Gives handles on it.
    pub fn stores(&self) -> Stores {
        let kind = Arc::clone(&self.kind);
        Arc::new(move || kind.handle())
    }

    /// Notes which runtime uses it; raises `StoreError` while a log of it is being pruned.
    pub fn used_by(&self, runtime: &Arc<Runtime<PyDaemon>>) -> PyResult<()> {
        let mut user = self.user.lock();
        if user.prunes {
            drop(user);
            let message = "somebody prunes it: wait until it is free";
            return Err(errors::StoreError::new_err(("locked", self.path.clone(), message)));
        }
        user.runtime = Arc::downgrade(runtime);
        Ok(())
    }

    fn failed(&self, error: &StoreError) -> PyErr {
        errors::store(error, &self.path)
    }
}

#[pymethods]
impl PyStore {
    /// Open or make a folder.
    #[classmethod]
    #[pyo3(
        signature = (path, *, create = None, identity = None, sync = None),
        text_signature = "($type, path, *, create=True, identity=None, sync='always')"
    )]
    fn open(
        class: &Bound<'_, PyType>,
        path: &Bound<'_, PyAny>,
        create: Option<&Bound<'_, PyAny>>,
        identity: Option<&Bound<'_, PyAny>>,
        sync: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        entry("Store.open", || {
            may_wait("Store.open")?;
            let py = class.py();
            let create = create.map_or(Ok(true), |create| read(create, "create"))?;
            let syncs = match sync.map(|sync| read::<String>(sync, "sync")).transpose()?.as_deref() {
                None | Some("always") => true,
                Some("never_for_tests") => false,
                Some(_) => {
                    return Err(InvalidArgument::new_err((
                        "sync",
                        "must be 'always' or 'never_for_tests'",
                    )));
                }
            };
            let given = own_key(identity)?;
            let options = Options {
                create,
                node: given.as_ref().map(Keypair::entity_id),
                syncs,
                hook: None,
            };
            let shown = args::path(path, "path")?.to_string();
            let path = PathBuf::from(&shown);
            let opened = py
                .detach(|| RedbStore::open(&path, &options))
                .map_err(|error| errors::store(&error, &shown))?;
            let Some(node) = given.or(opened.key) else {
                let found = opened.store.node();
                let message = format!("it is the store of node {found}, whose identity was given when it was made");
                return Err(errors::StoreError::new_err(("other_node", shown, message)));
            };
            Ok(Self {
                kind: Arc::new(Kind::Folder(opened.store)),
                node: Arc::new(node),
                path: shown,
                born: Born::now(),
                user: Arc::default(),
                cut: opened.opened.cut,
                trails: Default::default(),
            })
        })
    }

    /// Make a store that forgets at exit.
    #[classmethod]
    fn memory(_class: &Bound<'_, PyType>) -> Self {
        Self::in_memory(None)
    }

    #[getter]
    fn node_id(&self) -> u64 {
        self.node.node_id().get()
    }

    #[getter]
    fn is_durable(&self) -> bool {
        matches!(*self.kind, Kind::Folder(_))
    }

    #[getter]
    #[pyo3(name = "path")]
    fn shown_path(&self) -> Option<&str> {
        self.is_durable().then_some(&*self.path)
    }

    fn stats(&self, py: Python<'_>) -> PyResult<PyStoreStats> {
        entry("Store.stats", || {
            self.born.check("Store")?;
            may_wait("Store.stats")?;
            let kind = &*self.kind;
            let counted = py.detach(|| {
                let store = kind.handle();
                let count = |table| inspection::count(&*store, table);
                Ok((count(Table::Daemons)?, count(Table::DeadLetters)?, store.stats()))
            });
            let (daemons, letters, stats) = counted.map_err(|error| self.failed(&error))?;
            Ok(PyStoreStats::of(daemons, letters, &stats))
        })
    }

    /// Return the logs of its daemons.
    fn logs(&self) -> PyResult<PyLogIndex> {
        entry("Store.logs", || {
            self.born.check("Store")?;
            Ok(PyLogIndex::of(Held {
                kind: Arc::clone(&self.kind),
                path: self.path.as_str().into(),
                born: self.born,
                user: Arc::clone(&self.user),
            }))
        })
    }

    /// Check every page, and every snapshot that is named.
    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        entry("Store.verify", || {
            self.born.check("Store")?;
            may_wait("Store.verify")?;
            let kind = &*self.kind;
            let checked = py.detach(|| match kind {
                Kind::Memory(_) => Ok(()),
                Kind::Folder(store) => store.verify().map(|_| ()),
            });
            checked.map_err(|error| self.failed(&error))
        })
    }

    /// Close it; does nothing the second time.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        entry("Store.close", || {
            self.born.check("Store")?;
            may_wait("Store.close")?;
            if self.user.lock().runs() {
                let message = "a runtime uses it: shut that down first";
                return Err(errors::StoreError::new_err(("locked", self.path.clone(), message)));
            }
            let kind = &*self.kind;
            let closed = py.detach(|| match kind {
                Kind::Memory(_) => Ok(()),
                Kind::Folder(store) => store.close(),
            });
            closed.map_err(|error| self.failed(&error))
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
        match &*self.kind {
            Kind::Memory(_) => format!("Store.memory(node_id=0x{})", self.node.node_id()),
            Kind::Folder(_) => format!("Store({:?}, node_id=0x{})", self.path, self.node.node_id()),
        }
    }
}

/// A stored daemon: entity, kind or what is wrong with its row, whether it runs, epoch, position and digest of its chain,
/// last step, steps that a recovery takes again, snapshots and their bytes, bytes of steps and of outputs, dead letters.
type Seen<'py> = (
    Bound<'py, PyAny>,
    (String, Option<String>, bool),
    (u64, u64, Bound<'py, PyBytes>),
    (u64, u64),
    (u64, u64, u64, u64),
    u64,
);

/// Opens a folder that is there, without the key of its node, and closes it again.
pub fn keyless<T: Send>(
    call: &'static str,
    path: &Bound<'_, PyAny>,
    look: impl FnOnce(&OpenedStore) -> Result<T, StoreError> + Send,
) -> PyResult<T> {
    may_wait(call)?;
    let shown = args::path(path, "path")?.to_string();
    let options = Options {
        create: false,
        ..Options::default()
    };
    let folder = PathBuf::from(&shown);
    let found = path.py().detach(|| {
        let opened = RedbStore::open(&folder, &options)?;
        let found = look(&opened)?;
        opened.store.close()?;
        Ok(found)
    });
    found.map_err(|error| errors::store(&error, &shown))
}

/// Checks a folder without the key of its node: daemons, steps, outputs, snapshots, certificates and checkpoints, and
/// records of loops.
#[pyfunction]
#[pyo3(name = "_verify_store")]
fn verify(path: &Bound<'_, PyAny>) -> PyResult<(u64, u64, u64, u64, u64, u64)> {
    entry("verify", || {
        let (checked, records) = keyless("verify", path, |opened| {
            Ok((opened.store.verify()?, trail_file::verify_store(&opened.store)))
        })?;
        let records = records.map_err(|error| match error {
            VerifyError::Trail(error) => errors::trail(&error),
            error => errors::StoreError::new_err(("corrupt", path.to_string(), error.to_string())),
        })?;
        Ok((
            checked.daemons,
            checked.steps,
            checked.outputs,
            checked.snapshots,
            checked.signed,
            records,
        ))
    })
}

/// Looks into a folder without the key of its node: whose it is, what it holds, and its daemons.
#[pyfunction]
#[pyo3(name = "_inspect_store")]
fn inspect<'py>(path: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, PyStoreStats, u64, Vec<Seen<'py>>)> {
    entry("inspect", || {
        let py = path.py();
        let (node, stats, cut, daemons) = keyless("inspect", path, |opened| {
            let daemons = inspection::daemons(&opened.store)?;
            let letters = inspection::count(&opened.store, Table::DeadLetters)?;
            let stats = PyStoreStats::of(daemons.len() as u64, letters, &opened.store.stats());
            Ok((opened.store.node(), stats, opened.opened.cut, daemons))
        })?;
        let rows = daemons.into_iter().map(|seen| {
            let (kind, problem) = match &seen.stored {
                Ok(stored) => (stored.kind.clone(), None),
                Err(error) => (String::new(), Some(error.to_string())),
            };
            let runs = seen.stored.is_ok_and(|stored| stored.runs);
            Ok((
                entity_id(py, seen.entity)?,
                (kind, problem, runs),
                (
                    seen.epoch,
                    seen.mark.sequence,
                    PyBytes::new(py, seen.mark.digest.as_bytes()),
                ),
                (seen.mark.step, seen.to_replay),
                (
                    seen.snapshots,
                    seen.snapshot_bytes,
                    seen.steps_bytes,
                    seen.outputs_bytes,
                ),
                seen.dead_letters,
            ))
        });
        Ok((entity_id(py, node)?, stats, cut, rows.collect::<PyResult<_>>()?))
    })
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyStoreStats>()?;
    module.add_class::<PyStore>()?;
    module.add_function(wrap_pyfunction!(verify, module)?)?;
    module.add_function(wrap_pyfunction!(inspect, module)?)
}
