//! Arguments: types and ranges are checked here, so that a wrong one is a `TypeError` or an `InvalidArgument`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meshos_core::id::Origin;
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDateTime, PyDelta, PyInt, PyMemoryView, PyString, PyTzInfo};
use pyo3::{PyClass, intern};

use crate::errors::InvalidArgument;

/// Says what was given instead of what was wanted.
pub fn wrong_type(name: &str, wanted: &str, given: &Bound<'_, PyAny>) -> PyErr {
    let class = given
        .get_type()
        .name()
        .map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("{name} must be {wanted}, not {class}"))
}

/// An integer from 0 to 2^64 - 1.
#[inline]
pub fn u64(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<u64> {
    if value.is_exact_instance_of::<PyInt>()
        && let Ok(number) = value.extract::<u64>()
    {
        return Ok(number);
    }
    u64_slowly(value, name)
}

#[cold]
fn u64_slowly(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<u64> {
    if value.is_instance_of::<PyBool>() {
        return Err(wrong_type(name, "an int", value));
    }
    value.extract::<u64>().map_err(|error| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            InvalidArgument::new_err((name, "must be from 0 to 2^64 - 1"))
        } else {
            wrong_type(name, "an int", value)
        }
    })
}

/// The handle of a daemon.
#[inline]
pub fn origin(value: &Bound<'_, PyAny>) -> PyResult<Origin> {
    u64(value, "origin_hash").map(Origin::new)
}

/// A payload: `bytes` as it is, `bytearray` and `memoryview` as a copy.
#[inline]
pub fn payload<'py>(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Bound<'py, PyBytes>> {
    match value.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.clone()),
        Err(_) => copied(value).unwrap_or_else(|| Err(wrong_type(name, "bytes, bytearray or memoryview", value))),
    }
}

/// A copy of a `bytearray` or `memoryview`; `None` when it is neither.
pub fn copied<'py>(value: &Bound<'py, PyAny>) -> Option<PyResult<Bound<'py, PyBytes>>> {
    if value.is_instance_of::<PyByteArray>() || value.is_instance_of::<PyMemoryView>() {
        let copy = value.py().get_type::<PyBytes>().call1((value,));
        return Some(copy.and_then(|copy| copy.cast_into::<PyBytes>().map_err(PyErr::from)));
    }
    None
}

/// An instance of a native class.
pub fn instance<'a, 'py, T: PyClass>(
    value: &'a Bound<'py, PyAny>,
    name: &'static str,
    class: &'static str,
) -> PyResult<&'a Bound<'py, T>> {
    value.cast::<T>().map_err(|_| wrong_type(name, class, value))
}

/// The path of a file, as its text.
pub fn path<'py>(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Bound<'py, PyString>> {
    static FSPATH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let wrong = || wrong_type(name, "a str or a PathLike of one", value);
    if !value.is_instance_of::<PyString>() && !value.hasattr(intern!(py, "__fspath__"))? {
        return Err(wrong());
    }
    let path = FSPATH.import(py, "os", "fspath")?.call1((value,))?;
    let path = path.cast_into::<PyString>().map_err(|_| wrong())?;
    if path.contains("\0")? {
        return Err(InvalidArgument::new_err((name, "must not contain a null character")));
    }
    Ok(path)
}

/// A span of time, not negative; `None` stands for no end where `optional` says so.
pub fn span(value: Option<&Bound<'_, PyAny>>, name: &'static str) -> PyResult<Option<Duration>> {
    let Some(value) = value.filter(|value| !value.is_none()) else {
        return Ok(None);
    };
    if !value.is_instance_of::<PyDelta>() {
        return Err(wrong_type(name, "a timedelta or None", value));
    }
    value
        .extract::<Duration>()
        .map(Some)
        .map_err(|_| InvalidArgument::new_err((name, "must not be negative")))
}

/// Unix time in nanoseconds.
///
/// On Linux it is the kernel's time of its last tick, a few milliseconds old at most: each event asks for it, and the
/// exact time would cost a twentieth of a delivery.
#[inline]
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn unix_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the result, and the clock exists on every Linux.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut now) } != 0;
    if failed {
        return exact_unix_ns();
    }
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Unix time in nanoseconds.
#[cfg(not(target_os = "linux"))]
pub fn unix_ns() -> u64 {
    exact_unix_ns()
}

fn exact_unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// An aware `datetime` in UTC.
pub fn datetime_from_ns(py: Python<'_>, unix_ns: u64) -> PyResult<Bound<'_, PyAny>> {
    let seconds = (unix_ns / 1_000) as f64 / 1e6;
    let utc = PyTzInfo::utc(py)?;
    Ok(PyDateTime::from_timestamp(py, seconds, Some(&utc))?.into_any())
}
