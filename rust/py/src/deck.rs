//! What an operator's client gives and takes: receipts, cooldowns, queries.

use std::borrow::Cow;

use meshos_core::authority::Bucket;
use meshos_core::id::{NodeId, Origin};
use meshos_core::signal::LogLevel;
use meshos_core::time::UnixMs;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::args;
use crate::errors::InvalidArgument;
use crate::record::field::{Field, read};
use crate::record::moment::Moment;
use crate::record::record;
use crate::status::audit::Verdict;

record! {
    /// A command that took effect: audited as `audit_seq`, visible in snapshots from `generation` on.
    pub struct PyCommitReceipt in "meshos.operator" as "CommitReceipt", by keyword {
        /// The envelope it came in.
        envelope_id: [u8; 16],
        /// Stable name of the command.
        event_kind: Cow<'static, str>,
        /// What the node made of it.
        verdict: Verdict,
        /// Operators whose signatures verified, ascending.
        operator_ids: Vec<u64>,
        /// When it took effect.
        committed_at: Moment,
        /// Number of its audit record.
        audit_seq: u64,
        /// Snapshots from this generation on show its effect.
        generation: u64,
    }
}

record! {
    /// A target that break-glass actions have to leave alone until then.
    pub struct PyCooldown in "meshos.operator" as "Cooldown" {
        /// What it is about, such as `node:7` or `cluster:freeze`.
        bucket: Cow<'static, str>,
        /// Until when.
        until: Moment,
    }
}

impl PyCooldown {
    /// Shows a cooldown.
    pub fn of(bucket: Bucket, until: UnixMs) -> Self {
        Self {
            bucket: Cow::Owned(bucket.to_string()),
            until: Moment::of(until),
        }
    }
}

record! {
    /// Which lines of the log; all conditions hold together.
    pub struct PyLogFilter in "meshos.operator" as "LogFilter", by keyword,
    signature "(*, min_level=..., daemon=None, node=None, since=0)" {
        /// Only lines as severe.
        min_level: LogLevel = LogLevel::Trace,
        /// Only lines of this daemon.
        daemon: Option<Origin> = None,
        /// Only lines of this node.
        node: Option<NodeId> = None,
        /// Only lines with a higher number; 0: from the oldest in the ring.
        since: u64 = 0,
    }
}

/// Two moments, the first not after the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Between(Moment, Moment);

impl Field for Between {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let wrong = || args::wrong_type(name, "a tuple of two datetimes or None", value);
        let pair = value.cast::<PyTuple>().map_err(|_| wrong())?;
        if pair.len() != 2 {
            return Err(wrong());
        }
        let (first, last): (Moment, Moment) = (read(&pair.get_item(0)?, name)?, read(&pair.get_item(1)?, name)?);
        if first > last {
            return Err(InvalidArgument::new_err((name, "must not end before it begins")));
        }
        Ok(Self(first, last))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyTuple::new(py, [self.0.to_python(py)?, self.1.to_python(py)?])?.into_any())
    }
}

record! {
    /// Which audit records; all conditions hold together.
    pub struct PyAuditQuery in "meshos.operator" as "AuditQuery", by keyword,
    signature "(*, recent=None, by_operator=None, between=None, since=0, force_only=False, verdict=None, \
        event_kind=None, target=None)" {
        /// At most so many of the newest.
        recent: Option<u64> = None,
        /// Signed by this operator, among others perhaps.
        by_operator: Option<u64> = None,
        /// Committed between these moments, both included.
        between: Option<Between> = None,
        /// Only records with a higher number; 0: from the oldest in the ring.
        since: u64 = 0,
        /// Only break-glass actions.
        force_only: bool = false,
        /// Only with this verdict.
        verdict: Option<Verdict> = None,
        /// Only commands of this kind.
        event_kind: Option<String> = None,
        /// Only about this node, chain or daemon.
        target: Option<u64> = None,
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCommitReceipt>()?;
    module.add_class::<PyCooldown>()?;
    module.add_class::<PyLogFilter>()?;
    module.add_class::<PyAuditQuery>()
}
