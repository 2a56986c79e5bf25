//! Files of records: the native half of `FileAdminAuditAppender` and its like, and what a file proves.
//!
//! Files are read and written detached from the interpreter.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::trail::{Entry, Kind, Proven};
use meshos_node::keys;
use meshos_node::medium::Rows;
use meshos_node::trail_file::{self, KeepError, OpenError, TrailFile, VerifyError};
use pyo3::exceptions::{PyBlockingIOError, PyKeyboardInterrupt, PyOSError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::args;
use crate::errors::{self, AppendFailed, InvalidArgument};
use crate::guard::{self, Born, entry};
use crate::identity::PyIdentity;
use crate::record::field::{Field, Given, read};
use crate::record::record;
use crate::status::audit::{PyActionRecord, PyAdminAuditRecord, PyFailureRecord, PyLogRecord};
use crate::store::{PyStore, keyless};

record! {
    /// What a file of records proves.
    pub struct PyRecordsReport in "meshos.audit" as "RecordsReport", by keyword {
        /// How many records were checked.
        records: u64,
        /// Number of the first record; 0 without records.
        first_seq: u64,
        /// Number of the last record; 0 without records. Each run of a node begins at 1 again.
        last_seq: u64,
        /// Digest at the end: whoever knows it finds out about every change, also a cut.
        head_digest: Digest,
        /// How many records, from the first, the signer vouches for; 0 without a signer.
        signed_through: u64,
    }
}

impl From<Proven> for PyRecordsReport {
    fn from(proven: Proven) -> Self {
        Self {
            records: proven.records,
            first_seq: proven.first_seq,
            last_seq: proven.last_seq,
            head_digest: proven.digest,
            signed_through: proven.signed_through,
        }
    }
}

fn kind_of(kind: &str) -> Kind {
    match kind {
        "audit" => Kind::Audit,
        "log" => Kind::Log,
        "failure" => Kind::Failure,
        _ => Kind::Action,
    }
}

/// A file that records are appended to, or the like in a store.
#[pyclass(frozen, name = "RecordFile", module = "meshos._core")]
pub struct PyRecordFile {
    /// What a loop uses directly.
    pub file: Arc<TrailFile>,
    born: Born,
}

impl PyRecordFile {
    /// Refuses use in a forked child.
    pub fn check(&self) -> PyResult<()> {
        self.born.check("a file of records")
    }
}

#[pymethods]
impl PyRecordFile {
    #[new]
    fn new(kind: &str, path: &Bound<'_, PyAny>, signer: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("RecordFile", || {
            let py = path.py();
            let kind = kind_of(kind);
            let name = match kind {
                Kind::Audit => "FileAdminAuditAppender",
                Kind::Log => "FileLogAppender",
                Kind::Failure => "FileFailureAppender",
                Kind::Action => "FileActionAppender",
            };
            let shown = args::path(path, "path")?;
            let path: PathBuf = shown.extract()?;
            let signer = match signer.is_none() {
                true => None,
                false => Some(args::instance::<PyIdentity>(signer, "signer", "an Identity or None")?),
            };
            let signer = signer.map(|signer| Arc::clone(&signer.get().key));
            let run_id = keys::random_u64();
            let mut signal = None;
            let opened = py.detach(|| {
                let mut looks = || guard::interrupted(&mut signal);
                TrailFile::open(&path, kind, name, run_id, signer, &mut looks)
            });
            let opened = opened.map_err(|error| not_opened(error, &shown, signal))?;
            Ok(Self::of(opened))
        })
    }

    /// Keeps records of a kind in a store, signed by its node.
    #[staticmethod]
    fn in_store(kind: &str, store: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("RecordFile", || {
            let py = store.py();
            let store = args::instance::<PyStore>(store, "store", "a Store")?.get();
            store.check()?;
            let kind = kind_of(kind);
            let name = match kind {
                Kind::Audit => "StoreAdminAuditAppender",
                Kind::Log => "StoreLogAppender",
                Kind::Failure => "StoreFailureAppender",
                Kind::Action => "StoreActionAppender",
            };
            let shown = PyString::new(py, &format!("{} records of a store", kind.name()));
            let mut signal = None;
            let opened = store.trail(kind, |handle, place, signer| {
                py.detach(|| {
                    let mut looks = || guard::interrupted(&mut signal);
                    TrailFile::in_store(handle, place, kind, name, keys::random_u64(), signer, &mut looks)
                })
            });
            let Some(opened) = opened else {
                return Err(refused(&shown, "EAGAIN", "another appender has them open", true));
            };
            Ok(Self {
                file: opened.map_err(|error| not_opened(error, &shown, signal))?,
                born: Born::now(),
            })
        })
    }

    /// Keeps a record; an audit record is on the disk when this returns.
    fn append(&self, record: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("append", || {
            self.check()?;
            let kept = match self.file.kind() {
                Kind::Audit => Entry::Audit(PyAdminAuditRecord::from_python(record, "record")?.core()?),
                Kind::Log => Entry::Log(PyLogRecord::from_python(record, "record")?.core()),
                Kind::Failure => Entry::Failure(PyFailureRecord::from_python(record, "record")?.core()),
                Kind::Action => Entry::Action(PyActionRecord::from_python(record, "record")?.core()?),
            };
            let through = self.file.kind() == Kind::Audit;
            let done = record.py().detach(|| self.file.keep(&kept, through));
            done.map_err(|error| self.failed(error))
        })
    }

    /// Signs what is not signed, and closes the file; may be called twice.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        entry("close", || {
            self.check()?;
            py.detach(|| self.file.finish()).map_err(|error| self.failed(error))
        })
    }

    fn __repr__(&self) -> String {
        format!("<file of {} records {:?}>", self.file.kind().name(), self.file.place())
    }
}

impl PyRecordFile {
    fn failed(&self, error: KeepError) -> PyErr {
        match error {
            KeepError::Unwritable(error) => errors::unwritable(error),
            KeepError::Signer(error) => errors::identity(&error),
            error @ (KeepError::Closed | KeepError::Broken | KeepError::Io(_)) => {
                AppendFailed::new_err((format!("{}: {error}", self.file.place()),))
            }
        }
    }
}

impl PyRecordFile {
    fn of(opened: TrailFile) -> Self {
        Self {
            file: Arc::new(opened),
            born: Born::now(),
        }
    }
}

fn not_opened(error: OpenError, shown: &Bound<'_, PyString>, signal: Option<PyErr>) -> PyErr {
    match error {
        OpenError::Io(error) => os_error(&error, shown),
        OpenError::NotAFile => refused(shown, "EINVAL", "not a regular file", false),
        OpenError::Locked => refused(shown, "EAGAIN", "another appender has it open", true),
        OpenError::Trail(error) => errors::trail(&error),
        OpenError::WrongKind { .. } => {
            // Where the kind stands.
            errors::FileDecodeError::new_err((5, error.to_string()))
        }
        OpenError::Signer(error) => errors::identity(&error),
        OpenError::Interrupted => raised(signal),
    }
}

fn raised(signal: Option<PyErr>) -> PyErr {
    signal.unwrap_or_else(|| PyKeyboardInterrupt::new_err(()))
}

/// What Python raises for a call of the system that failed, with the path.
fn os_error(error: &io::Error, path: &Bound<'_, PyString>) -> PyErr {
    let py = path.py();
    let Some(code) = error.raw_os_error() else {
        return PyOSError::new_err(format!("{error}: {path}"));
    };
    let text = py
        .import(intern!(py, "os"))
        .and_then(|os| os.call_method1(intern!(py, "strerror"), (code,)));
    match text {
        Ok(text) => PyOSError::new_err((code, text.unbind(), path.clone().unbind())),
        Err(error) => error,
    }
}

fn refused(path: &Bound<'_, PyString>, code: &str, text: &'static str, later: bool) -> PyErr {
    let py = path.py();
    let code = py
        .import(intern!(py, "errno"))
        .and_then(|errno| errno.getattr(code)?.extract::<i32>());
    match code {
        Ok(code) if later => PyBlockingIOError::new_err((code, text, path.clone().unbind())),
        Ok(code) => PyOSError::new_err((code, text, path.clone().unbind())),
        Err(error) => error,
    }
}

/// Reads a file of records, or those of a kind in the folder of a store, and shows every entry while it is checked.
pub fn checked(
    file: &Bound<'_, PyAny>,
    kind: Kind,
    signer: Option<EntityId>,
    end: Option<Digest>,
    mut see: impl FnMut(Entry) + Send,
) -> PyResult<Proven> {
    let py = file.py();
    let shown = args::path(file, "file")?;
    let path: PathBuf = shown.extract()?;
    let mut signal = None;
    if py.detach(|| path.is_dir()) {
        let found = keyless("read_records", file, |opened| {
            let mut looks = || guard::interrupted(&mut signal);
            let rows = Rows::of(&opened.store, kind);
            if matches!(rows.is_empty(), Ok(true)) {
                return Ok(None);
            }
            Ok(Some(trail_file::verify(
                rows,
                signer,
                end.as_ref(),
                &mut looks,
                &mut see,
            )))
        })?;
        let Some(found) = found else {
            return Err(InvalidArgument::new_err((
                "kind",
                "is of records that the store has none of",
            )));
        };
        return found.map_err(|error| not_verified(error, &shown, signal));
    }
    let verified = py.detach(|| {
        let opened = File::open(&path)?;
        let mut looks = || guard::interrupted(&mut signal);
        trail_file::verify(opened, signer, end.as_ref(), &mut looks, &mut see)
    });
    verified.map_err(|error| not_verified(error, &shown, signal))
}

fn not_verified(error: VerifyError, shown: &Bound<'_, PyString>, signal: Option<PyErr>) -> PyErr {
    match error {
        VerifyError::Io(error) => os_error(&error, shown),
        VerifyError::Trail(error) => errors::trail(&error),
        VerifyError::Interrupted => raised(signal),
    }
}

fn known_kind(kind: &str) -> PyResult<Kind> {
    let found = kind_of(kind);
    (found.name() == kind)
        .then_some(found)
        .ok_or_else(|| InvalidArgument::new_err(("kind", "must be \"audit\", \"log\", \"failure\" or \"action\"")))
}

/// Check a file of records.
#[pyfunction]
#[pyo3(
    signature = (file, *, kind = Kind::Audit.name(), signer = Given::Not, head_digest = Given::Not),
    text_signature = "(file, *, kind='audit', signer=None, head_digest=None)"
)]
fn verify_records(
    file: &Bound<'_, PyAny>,
    kind: &str,
    signer: Given<'_>,
    head_digest: Given<'_>,
) -> PyResult<PyRecordsReport> {
    entry("verify_records", || {
        let signer = signer.map_or(None, |signer| read::<Option<EntityId>>(signer, "signer"))?;
        let end = head_digest.map_or(None, |digest| read::<Option<Digest>>(digest, "head_digest"))?;
        checked(file, known_kind(kind)?, signer, end, drop).map(PyRecordsReport::from)
    })
}

/// Check a file of records, and return them.
#[pyfunction]
#[pyo3(signature = (file, *, kind = Kind::Audit.name()), text_signature = "(file, *, kind='audit')")]
fn read_records<'py>(file: &Bound<'py, PyAny>, kind: &str) -> PyResult<Bound<'py, PyTuple>> {
    entry("read_records", || {
        let py = file.py();
        let mut entries = Vec::new();
        checked(file, known_kind(kind)?, None, None, |entry| {
            if entry.kind().is_some() {
                entries.push(entry);
            }
        })?;
        let shown = entries.iter().map(|entry| show(py, entry));
        PyTuple::new(py, shown.collect::<PyResult<Vec<_>>>()?)
    })
}

fn show<'py>(py: Python<'py>, entry: &Entry) -> PyResult<Bound<'py, PyAny>> {
    match entry {
        Entry::Audit(record) => PyAdminAuditRecord::from(record).to_python(py),
        Entry::Log(record) => PyLogRecord::from(record).to_python(py),
        Entry::Failure(record) => PyFailureRecord::from(record).to_python(py),
        Entry::Action(record) => PyActionRecord::of(record.seq, record.at, &record.disposed, false).to_python(py),
        Entry::Signed { .. } | Entry::Run { .. } => Ok(py.None().into_bound(py)),
    }
}

/// Adds classes and functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyRecordsReport>()?;
    module.add_class::<PyRecordFile>()?;
    module.add_function(wrap_pyfunction!(verify_records, module)?)?;
    module.add_function(wrap_pyfunction!(read_records, module)?)
}
