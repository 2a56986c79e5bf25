//! Encoded snapshots in chunks, for tools that carry them: cut here, put together there, in any order.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshos_core::digest::{self, Digest};
use meshos_core::move_frame::MAX_SNAPSHOT_CHUNK_SIZE;
use meshos_node::sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::args;
use crate::channels::Shared;
use crate::errors::{InvalidArgument, SnapshotDecodeError};
use crate::guard::entry;
use crate::record::field::{Given, read};
use crate::record::record;
use crate::snapshot::PyStateSnapshot;

/// Bytes of a snapshot that travels at most.
const MAX_SNAPSHOT_SIZE: u64 = 16 << 30;

record! {
    /// A part of an encoded snapshot.
    pub struct PySnapshotChunk in "meshos.migration" as "SnapshotChunk" {
        /// Which part, from 0.
        index: u32,
        /// How many there are.
        total: u32,
        /// BLAKE3 of `data`.
        digest: Digest,
        /// The bytes. All parts but the last have as many.
        data: Shared,
    }
}

/// Cut bytes into chunks.
#[pyclass(frozen, name = "_Chunks", module = "meshos._core")]
pub struct PyChunks {
    bytes: Py<PyBytes>,
    each: usize,
    next: Mutex<usize>,
}

#[pymethods]
impl PyChunks {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<PySnapshotChunk>> {
        entry("chunk_snapshot", || {
            let bytes = self.bytes.as_bytes(py);
            let index = {
                let mut next = self.next.lock();
                *next += 1;
                *next - 1
            };
            let Some(data) = bytes.chunks(self.each).nth(index) else {
                return Ok(None);
            };
            let whole = |number: usize| u32::try_from(number).expect("chunks were counted before");
            Ok(Some(PySnapshotChunk {
                index: whole(index),
                total: whole(bytes.len().div_ceil(self.each)),
                digest: digest::plain(data),
                data: Shared(Arc::from(data)),
            }))
        })
    }
}

/// Cut an encoded snapshot into chunks of so many bytes.
#[pyfunction]
#[pyo3(signature = (snapshot, *, chunk_bytes_max = Given::Not), text_signature = "(snapshot, *, chunk_bytes_max=1048576)")]
fn chunk_snapshot(snapshot: &Bound<'_, PyAny>, chunk_bytes_max: Given<'_>) -> PyResult<PyChunks> {
    entry("chunk_snapshot", || {
        let snapshot = args::instance::<PyStateSnapshot>(snapshot, "snapshot", "a StateSnapshot")?;
        let each: u64 = chunk_bytes_max.read_or("chunk_bytes_max", MAX_SNAPSHOT_CHUNK_SIZE as u64)?;
        let bytes = snapshot.call_method0("to_bytes")?.cast_into::<PyBytes>()?;
        let each = usize::try_from(each).unwrap_or(usize::MAX);
        if !(1..=MAX_SNAPSHOT_CHUNK_SIZE).contains(&each) || u32::try_from(bytes.as_bytes().len() / each).is_err() {
            let rule = format!("must be from 1 to {MAX_SNAPSHOT_CHUNK_SIZE}, and make at most 2^32 - 1 chunks");
            return Err(InvalidArgument::new_err(("chunk_bytes_max", rule)));
        }
        Ok(PyChunks {
            bytes: bytes.unbind(),
            each,
            next: Mutex::new(0),
        })
    })
}

#[derive(Default)]
struct Held {
    chunks: BTreeMap<u32, (Digest, Arc<[u8]>)>,
    /// How long every chunk but the last is, once one of them came.
    each: Option<usize>,
    is_whole: bool,
}

/// Puts chunks together again, in any order, twice too.
#[pyclass(frozen, name = "SnapshotReassembler", module = "meshos.migration")]
pub struct PySnapshotReassembler {
    total: u32,
    size: u64,
    bytes_max: u64,
    held: Mutex<Held>,
}

fn corrupt(offset: u64, message: String) -> PyErr {
    SnapshotDecodeError::new_err(("corrupt", offset, message))
}

impl PySnapshotReassembler {
    /// How long the chunk has to be, and where it begins; `None`: nothing is known of the others yet.
    fn place(&self, held: &Held, index: u32, length: usize) -> Result<u64, String> {
        let last = self.total - 1;
        let size = self.size;
        let each = match (index == last, held.each) {
            (false, Some(each)) if each != length => {
                return Err(format!("chunk {index} has {length} bytes, the others have {each}"));
            }
            (false, _) => length as u64,
            (true, Some(each)) => each as u64,
            // The last one alone: the others share what it leaves.
            (true, None) if last == 0 => size,
            (true, None) => match size.checked_sub(length as u64) {
                Some(rest) if rest.is_multiple_of(u64::from(last)) => rest / u64::from(last),
                _ => {
                    return Err(format!(
                        "chunk {index} has {length} bytes, which do not fit a snapshot of {size}"
                    ));
                }
            },
        };
        let before = each * u64::from(last);
        let rest = size.checked_sub(before).filter(|rest| (1..=each).contains(rest));
        match rest {
            Some(rest) if index < last || rest == length as u64 => Ok(each * u64::from(index)),
            _ => Err(format!(
                "chunk {index} has {length} bytes, which do not fit a snapshot of {size}"
            )),
        }
    }

    /// Takes a chunk in, and gives all of them with the one that was missing.
    fn take(&self, chunk: &PySnapshotChunk) -> PyResult<Option<Vec<Arc<[u8]>>>> {
        let bytes = &chunk.data.0;
        let about = |message: String| corrupt(0, message);
        if chunk.total != self.total || chunk.index >= self.total {
            let message = format!(
                "chunk {} of {}, expected one of {}",
                chunk.index, chunk.total, self.total
            );
            return Err(about(message));
        }
        if bytes.is_empty() || bytes.len() > MAX_SNAPSHOT_CHUNK_SIZE {
            return Err(about(format!("chunk {} has {} bytes", chunk.index, bytes.len())));
        }
        if digest::plain(bytes) != chunk.digest {
            return Err(about(format!(
                "chunk {} does not have the digest that it names",
                chunk.index
            )));
        }
        let mut held = self.held.lock();
        if let Some((digest, _)) = held.chunks.get(&chunk.index) {
            let is_same = *digest == chunk.digest;
            drop(held);
            return if is_same {
                Ok(None)
            } else {
                Err(about(format!("chunk {} came before, with other bytes", chunk.index)))
            };
        }
        let place = self.place(&held, chunk.index, bytes.len());
        let offset = match place {
            Ok(offset) => offset,
            Err(message) => {
                drop(held);
                return Err(about(message));
            }
        };
        if chunk.index + 1 < self.total {
            held.each = Some(bytes.len());
        } else if offset > 0 {
            held.each = usize::try_from(offset / u64::from(self.total - 1)).ok();
        }
        held.chunks.insert(chunk.index, (chunk.digest, Arc::clone(bytes)));
        if held.chunks.len() < self.total as usize {
            return Ok(None);
        }
        Ok(Some(held.chunks.values().map(|(_, bytes)| Arc::clone(bytes)).collect()))
    }

    /// All chunks are there, and were read. What is no snapshot gives its last chunk back.
    fn finish(&self, last: u32, is_good: bool) -> bool {
        let mut held = self.held.lock();
        if is_good {
            // Digests tell repeats; the bytes are in the snapshot.
            held.chunks.values_mut().for_each(|(_, bytes)| *bytes = Arc::from([]));
        } else {
            held.chunks.remove(&last);
        }
        is_good && !std::mem::replace(&mut held.is_whole, true)
    }
}

#[pymethods]
impl PySnapshotReassembler {
    #[new]
    #[pyo3(
        signature = (total, snapshot_bytes, *, bytes_max = Given::Not),
        text_signature = "(total, snapshot_bytes, *, bytes_max=17179869184)"
    )]
    fn new(total: &Bound<'_, PyAny>, snapshot_bytes: &Bound<'_, PyAny>, bytes_max: Given<'_>) -> PyResult<Self> {
        entry("SnapshotReassembler", || {
            let (total, size): (u32, u64) = (read(total, "total")?, read(snapshot_bytes, "snapshot_bytes")?);
            let bytes_max = bytes_max.read_or("bytes_max", MAX_SNAPSHOT_SIZE)?;
            if bytes_max > MAX_SNAPSHOT_SIZE {
                let rule = format!("must be at most {MAX_SNAPSHOT_SIZE}");
                return Err(InvalidArgument::new_err(("bytes_max", rule)));
            }
            if !(1..=bytes_max).contains(&size) {
                let rule = format!("must be from 1 to {bytes_max}, not {size}");
                return Err(InvalidArgument::new_err(("snapshot_bytes", rule)));
            }
            let fewest = size.div_ceil(MAX_SNAPSHOT_CHUNK_SIZE as u64);
            if !(fewest..=size).contains(&u64::from(total)) {
                let rule = format!("must be from {fewest} to {size} for {size} bytes, not {total}");
                return Err(InvalidArgument::new_err(("total", rule)));
            }
            Ok(Self {
                total,
                size,
                bytes_max,
                held: Mutex::default(),
            })
        })
    }

    /// Take one chunk, and return the snapshot with the last.
    fn add(&self, chunk: &Bound<'_, PyAny>) -> PyResult<Option<PyStateSnapshot>> {
        entry("SnapshotReassembler.add", || {
            let py = chunk.py();
            let chunk = args::instance::<PySnapshotChunk>(chunk, "chunk", "a SnapshotChunk")?.get();
            let Some(parts) = py.detach(|| self.take(chunk))? else {
                return Ok(None);
            };
            let size = usize::try_from(self.size).map_err(|_| corrupt(0, "it does not fit in memory".to_owned()))?;
            let whole = PyBytes::new_with(py, size, |mut into| {
                for part in &parts {
                    let (here, rest) = into.split_at_mut(part.len());
                    here.copy_from_slice(part);
                    into = rest;
                }
                Ok(())
            })?;
            drop(parts);
            let snapshot = PyStateSnapshot::read(&whole, self.bytes_max);
            let is_good = snapshot.is_ok();
            let is_first = py.detach(|| self.finish(chunk.index, is_good));
            snapshot.map(|snapshot| is_first.then_some(snapshot))
        })
    }

    /// The indexes of the chunks that did not come yet.
    fn missing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        entry("SnapshotReassembler.missing", || {
            let missing: Vec<u32> = py.detach(|| {
                let held = self.held.lock();
                (0..self.total)
                    .filter(|index| !held.chunks.contains_key(index))
                    .collect()
            });
            PyTuple::new(py, missing)
        })
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let held = py.detach(|| self.held.lock().chunks.len());
        format!(
            "<SnapshotReassembler: {held} of {} chunks, {} bytes>",
            self.total, self.size
        )
    }
}

/// Adds classes and function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PySnapshotChunk>()?;
    module.add_class::<PyChunks>()?;
    module.add_class::<PySnapshotReassembler>()?;
    module.add_function(wrap_pyfunction!(chunk_snapshot, module)?)
}
