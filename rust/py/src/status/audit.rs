//! Records of what was commanded, logged, done and what failed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use meshos_core::command;
use meshos_core::id::{NodeId, Origin};
use meshos_core::signal::LogLevel;
use meshos_core::status::{AuditRecord, Disposed, Disposition, Failure, FailureRecord, FailureSource, LogRecord, Part};
use meshos_core::time::UnixMs;
use meshos_core::trail::{self, ActionEntry};
use pyo3::prelude::*;

use crate::errors::InvalidArgument;
use crate::operator::action::PyOrder;
use crate::record::moment::Moment;
use crate::record::record;
use crate::record::word::{literal, word};

literal! {
    Part {
        Action = "action",
        Callback = "callback",
        Probe = "probe",
        Recovery = "recovery",
        Appender = "appender",
        Migration = "migration",
        Loop = "loop",
    }
}

literal! {
    Disposition {
        Dispatched = "dispatched",
        Failed = "failed",
        Gated = "gated",
        Superseded = "superseded",
    }
}

record! {
    /// Where a failure came from.
    pub struct PyFailureSource in "meshos.audit" as "FailureSource", by keyword,
    signature "(*, part, name, target=None, action_id=None, envelope_id=None)" {
        /// Which part.
        part: Part,
        /// Kind of the action, or name of the callback.
        name: Arc<str>,
        /// The daemon, chain or node it was about.
        target: Option<u64> = None,
        /// The action.
        action_id: Option<u64> = None,
        /// The envelope, 16 bytes, when an operator ordered it.
        envelope_id: Option<[u8; 16]> = None,
    }
}

impl From<&FailureSource> for PyFailureSource {
    fn from(source: &FailureSource) -> Self {
        Self {
            part: source.part,
            name: Arc::clone(&source.name),
            target: source.target,
            action_id: source.action_id,
            envelope_id: source.envelope_id,
        }
    }
}

record! {
    /// Something that did not work.
    pub struct PyFailureRecord in "meshos.audit" as "FailureRecord", by keyword,
    signature "(*, seq, at, source, reason, traceback=None, chain_pending=False)" {
        /// Its number, from 1 in a run.
        seq: u64,
        /// When.
        at: Moment,
        /// Where it came from.
        source: PyFailureSource,
        /// Why, for people.
        reason: Arc<str>,
        /// Where in user code, for people.
        traceback: Option<Arc<str>> = None,
        /// Whether an appender could not keep it.
        chain_pending: bool = false,
    }
}

impl From<&FailureRecord> for PyFailureRecord {
    fn from(record: &FailureRecord) -> Self {
        Self {
            seq: record.seq,
            at: Moment::of(record.at),
            source: (&record.failure.source).into(),
            reason: Arc::clone(&record.failure.reason),
            traceback: record.failure.traceback.clone(),
            chain_pending: record.chain_pending,
        }
    }
}

record! {
    /// One line of a daemon or of the node.
    pub struct PyLogRecord in "meshos.audit" as "LogRecord", by keyword,
    signature "(*, seq, at, level, node, daemon, message, chain_pending=False)" {
        /// Its number, from 1 in a run.
        seq: u64,
        /// When.
        at: Moment,
        /// How severe.
        level: LogLevel,
        /// Which node.
        node: NodeId,
        /// Which daemon; `None`: the node itself.
        daemon: Option<Origin>,
        /// The line.
        message: Arc<str>,
        /// Whether an appender could not keep it.
        chain_pending: bool = false,
    }
}

impl From<&LogRecord> for PyLogRecord {
    fn from(record: &LogRecord) -> Self {
        Self {
            seq: record.seq,
            at: Moment::of(record.at),
            level: record.level,
            node: record.node,
            daemon: record.daemon,
            message: Arc::clone(&record.message),
            chain_pending: record.chain_pending,
        }
    }
}

impl PyLogRecord {
    /// The record as an appender keeps it.
    pub fn core(&self) -> LogRecord {
        LogRecord {
            seq: self.seq,
            at: self.at.unix_ms(),
            level: self.level,
            node: self.node,
            daemon: self.daemon,
            message: Arc::clone(&self.message),
            chain_pending: false,
        }
    }
}

impl PyFailureRecord {
    /// The record as an appender keeps it.
    pub fn core(&self) -> FailureRecord {
        FailureRecord {
            seq: self.seq,
            at: self.at.unix_ms(),
            failure: Failure {
                source: FailureSource {
                    part: self.source.part,
                    name: Arc::clone(&self.source.name),
                    target: self.source.target,
                    action_id: self.source.action_id,
                    envelope_id: self.source.envelope_id,
                },
                reason: Arc::clone(&self.reason),
                traceback: self.traceback.clone(),
            },
            chain_pending: false,
        }
    }
}

/// What a node made of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its signatures are good and its operators may.
    Accepted,
    /// It was refused.
    Rejected,
    /// Nobody checks here, and it was obeyed.
    Unverified,
}

word! {
    Verdict as "Verdict" in "meshos.operator" {
        Accepted = "accepted",
        Rejected = "rejected",
        Unverified = "unverified",
    }
}

record! {
    /// One attempt at a command, whatever came of it; written before the effect.
    pub struct PyAdminAuditRecord in "meshos.audit" as "AdminAuditRecord", by keyword,
    signature "(*, seq, committed_at, event, envelope_id, operator_ids, reason, verdict, rejected_kind, \
        times=1, chain_pending=False)" {
        /// Its number, from 1 in a run.
        seq: u64,
        /// When.
        committed_at: Moment,
        /// What was ordered.
        event: PyOrder,
        /// The envelope it came in, 16 bytes.
        envelope_id: Option<[u8; 16]>,
        /// The operators whose signatures verified.
        operator_ids: Vec<u64>,
        /// Why, in the operator's words.
        reason: Cow<'static, str>,
        /// What the node made of it.
        verdict: Verdict,
        /// Stable name of the reason, when refused.
        rejected_kind: Option<Cow<'static, str>>,
        /// How often the very same was refused; 1 of what was obeyed.
        times: u64 = 1,
        /// Whether an appender could not keep it.
        chain_pending: bool = false,
    }
}

impl From<&AuditRecord> for PyAdminAuditRecord {
    fn from(record: &AuditRecord) -> Self {
        let command = &record.command;
        let (verdict, rejected_kind) = match command.verdict {
            command::Verdict::Accepted => (Verdict::Accepted, None),
            command::Verdict::Open => (Verdict::Unverified, None),
            command::Verdict::Rejected { kind } => (Verdict::Rejected, Some(Cow::Borrowed(kind))),
        };
        Self {
            seq: record.seq,
            committed_at: Moment::of(record.at),
            event: (&command.order).into(),
            envelope_id: command.envelope_id,
            operator_ids: command.operators.clone(),
            reason: Cow::Owned(command.reason.clone()),
            verdict,
            rejected_kind,
            times: record.times,
            chain_pending: record.chain_pending,
        }
    }
}

impl PyAdminAuditRecord {
    /// The record as an appender keeps it.
    pub fn core(&self) -> PyResult<AuditRecord> {
        let refusal = |kind: &str| {
            let known = trail::refusal_kind(kind);
            known.ok_or_else(|| InvalidArgument::new_err(("rejected_kind", format!("is not known: {kind:?}"))))
        };
        let verdict = match (self.verdict, &self.rejected_kind) {
            (Verdict::Accepted, None) => command::Verdict::Accepted,
            (Verdict::Unverified, None) => command::Verdict::Open,
            (Verdict::Rejected, Some(kind)) => command::Verdict::Rejected { kind: refusal(kind)? },
            (Verdict::Rejected, None) => {
                let rule = "must say why the command was rejected";
                return Err(InvalidArgument::new_err(("rejected_kind", rule)));
            }
            (Verdict::Accepted | Verdict::Unverified, Some(_)) => {
                let rule = "must be None, since the command was not rejected";
                return Err(InvalidArgument::new_err(("rejected_kind", rule)));
            }
        };
        Ok(AuditRecord {
            seq: self.seq,
            at: self.committed_at.unix_ms(),
            command: command::Command {
                order: self.event.core(),
                verdict,
                operators: self.operator_ids.clone(),
                reason: self.reason.clone().into_owned(),
                envelope_id: self.envelope_id,
                issued_at: None,
            },
            times: self.times,
            chain_pending: false,
        })
    }
}

record! {
    /// What became of one action.
    pub struct PyActionRecord in "meshos.audit" as "ActionRecord", by keyword,
    signature "(*, seq, at, action_id, action, disposition, reason, retry_after=None, chain_pending=False)" {
        /// Its number, from 1 in a run.
        seq: u64,
        /// When.
        at: Moment,
        /// The action.
        action_id: u64,
        /// Its stable name.
        action: Cow<'static, str>,
        /// What became of it.
        disposition: Disposition,
        /// Why, for people; empty when it was carried out.
        reason: Arc<str>,
        /// When it is tried again.
        retry_after: Option<Duration> = None,
        /// Whether an appender could not keep it.
        chain_pending: bool = false,
    }
}

impl PyActionRecord {
    /// The record with this number.
    pub fn of(seq: u64, at: UnixMs, disposed: &Disposed, chain_pending: bool) -> Self {
        Self {
            seq,
            at: Moment::of(at),
            action_id: disposed.action_id,
            action: Cow::Borrowed(disposed.kind),
            disposition: disposed.disposition,
            reason: Arc::clone(&disposed.reason),
            retry_after: disposed.retry_after,
            chain_pending,
        }
    }

    /// The record as an appender keeps it.
    pub fn core(&self) -> PyResult<ActionEntry> {
        let unknown = || InvalidArgument::new_err(("action", format!("is not known: {:?}", self.action)));
        Ok(ActionEntry {
            seq: self.seq,
            at: self.at.unix_ms(),
            disposed: Disposed {
                action_id: self.action_id,
                kind: trail::action_kind(&self.action).ok_or_else(unknown)?,
                disposition: self.disposition,
                reason: Arc::clone(&self.reason),
                retry_after: self.retry_after,
            },
        })
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyFailureSource>()?;
    module.add_class::<PyFailureRecord>()?;
    module.add_class::<PyLogRecord>()?;
    module.add_class::<PyAdminAuditRecord>()?;
    module.add_class::<PyActionRecord>()
}
