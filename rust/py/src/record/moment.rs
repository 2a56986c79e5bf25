//! Time as Python sees it: moments are aware `datetime`s in UTC, spans are `timedelta`s.

use std::time::Duration;

use meshos_core::time::UnixMs;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDateTime, PyDelta, PyDeltaAccess, PyTzInfo};

use super::field::Field;
use crate::args;
use crate::errors::InvalidArgument;

const SECONDS_A_DAY: u64 = 86_400;
/// 9999-12-31 23:59:59.999999 UTC, the last moment that a `datetime` names.
const LAST_UNIX_US: u64 = 253_402_300_799_999_999;
/// The most days that a `timedelta` has.
const DAYS_MAX: u64 = 999_999_999;

/// A moment from 1970 to 9999 in microseconds, as fine as a `datetime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment of a record; one that no `datetime` names becomes the last one.
    pub fn of(at: UnixMs) -> Self {
        Self(at.get().saturating_mul(1000).min(LAST_UNIX_US))
    }

    /// The millisecond it lies in.
    pub fn unix_ms(self) -> UnixMs {
        UnixMs::new(self.0 / 1000)
    }

    /// Whether it is a whole millisecond, as records on the wire have it.
    pub fn is_whole_ms(self) -> bool {
        self.0.is_multiple_of(1000)
    }
}

impl Field for Moment {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let py = value.py();
        let Ok(at) = value.cast::<PyDateTime>() else {
            return Err(args::wrong_type(name, "an aware datetime", value));
        };
        if at.call_method0(intern!(py, "utcoffset"))?.is_none() {
            let message = "must be aware: give it a tzinfo, such as datetime.timezone.utc";
            return Err(InvalidArgument::new_err((name, message)));
        }
        let since = at.sub(epoch(py)?)?.cast_into::<PyDelta>()?;
        let Ok(days) = u64::try_from(since.get_days()) else {
            return Err(InvalidArgument::new_err((name, "must not be before 1970")));
        };
        let seconds = days * SECONDS_A_DAY + u64::from(since.get_seconds().unsigned_abs());
        Ok(Self(
            seconds * 1_000_000 + u64::from(since.get_microseconds().unsigned_abs()),
        ))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // By adding, not by `fromtimestamp`, whose float cannot tell microseconds apart in a far year.
        epoch(py)?.add(Duration::from_micros(self.0).to_python(py)?)
    }
}

impl Field for Duration {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let span = value
            .cast::<PyDelta>()
            .map_err(|_| args::wrong_type(name, "a timedelta", value))?;
        span.extract::<Self>()
            .map_err(|_| InvalidArgument::new_err((name, "must not be negative")))
    }

    /// A span longer than any `timedelta` becomes the longest.
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let days = (self.as_secs() / SECONDS_A_DAY).min(DAYS_MAX);
        let seconds = self.as_secs() % SECONDS_A_DAY;
        let fits = "below one second, one day, and as many days as fit";
        let days = i32::try_from(days).expect(fits);
        let seconds = i32::try_from(seconds).expect(fits);
        let micros = i32::try_from(self.subsec_micros()).expect(fits);
        Ok(PyDelta::new(py, days, seconds, micros, false)?.into_any())
    }
}

fn epoch(py: Python<'_>) -> PyResult<&Bound<'_, PyDateTime>> {
    static EPOCH: PyOnceLock<Py<PyDateTime>> = PyOnceLock::new();
    let made = EPOCH.get_or_try_init(py, || {
        let utc = PyTzInfo::utc(py)?;
        PyDateTime::new(py, 1970, 1, 1, 0, 0, 0, 0, Some(&utc)).map(Bound::unbind)
    });
    made.map(|epoch| epoch.bind(py))
}
