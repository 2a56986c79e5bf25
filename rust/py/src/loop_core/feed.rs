//! What keeps the records of a loop: files as they are, and objects of users.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::authority::History;
use meshos_core::control_state::ControlState;
use meshos_core::status::{AuditRecord, Failure, FailureRecord, FailureSource, LogRecord, Part};
use meshos_core::trail::Kind;
use meshos_node::appender::{Appender, Lost, Numbered, Writer};
use meshos_node::callback::Callbacks;
use meshos_node::lane::Lanes;
use meshos_node::records::{self, ActionRecord, Records, Which};
use meshos_node::trail_file::{Claim, TrailFile};
use pyo3::intern;
use pyo3::prelude::*;

use super::{Traverse, given};
use crate::aio::Loop;
use crate::appender::PyAppender;
use crate::args;
use crate::errors::InvalidArgument;
use crate::trail::PyRecordFile;

/// What the appenders of a loop have in common.
pub(super) struct Feed<'a> {
    pub(super) home: &'a Arc<Loop>,
    pub(super) callbacks: &'a Callbacks,
    pub(super) records: &'a Arc<Records>,
    pub(super) lanes: &'a Lanes,
    pub(super) budget: Duration,
    /// Files that keep the records of this loop, once it runs.
    pub(super) claims: Vec<Claim>,
    /// What a file of commands tells of earlier runs.
    pub(super) history: Option<History>,
    /// What commands of earlier runs decided.
    pub(super) control: ControlState,
}

/// What keeps one sort of records, in an argument of the public class.
pub(super) struct Role<R> {
    which: Which,
    kind: Kind,
    argument: &'static str,
    class: &'static str,
    adapt: fn(&Bound<'_, PyAny>, Arc<Loop>) -> PyResult<PyAppender<R>>,
}

impl Feed<'_> {
    /// An appender: a file as it is, so that no Python runs for its records, or a user's object.
    fn appender<R: Send + Sync + 'static>(
        &mut self,
        object: &Bound<'_, PyAny>,
        role: &Role<R>,
        held: &mut Vec<Traverse>,
    ) -> PyResult<Arc<dyn Appender<R>>>
    where
        TrailFile: Appender<R>,
    {
        let py = object.py();
        let native = object.getattr_opt(intern!(py, "_native"))?;
        if let Some(native) = native
            && let Ok(native) = native.cast::<PyRecordFile>()
        {
            native.get().check()?;
            let file = &native.get().file;
            if file.kind() != role.kind {
                return Err(args::wrong_type(role.argument, role.class, object));
            }
            let claim = py.detach(|| file.claim());
            let claim = claim.map_err(|error| InvalidArgument::new_err((role.argument, error.to_string())))?;
            self.claims.push(claim);
            if role.kind == Kind::Audit {
                self.history = Some(py.detach(|| file.history()));
                self.control = file.control().clone();
            }
            return Ok(Arc::clone(file) as Arc<dyn Appender<R>>);
        }
        let appender = Arc::new((role.adapt)(object, Arc::clone(self.home))?);
        let shown = Arc::clone(&appender);
        held.push(Box::new(move |visit| shown.traverse(visit)));
        Ok(appender)
    }

    /// Feeds an appender, if one was given.
    pub(super) fn open<R: Numbered + Send + Sync + 'static>(
        &mut self,
        object: &Bound<'_, PyAny>,
        role: &Role<R>,
        held: &mut Vec<Traverse>,
    ) -> PyResult<Option<Arc<Writer<R>>>>
    where
        TrailFile: Appender<R>,
    {
        let Some(object) = given(object) else { return Ok(None) };
        let appender = self.appender(object, role, held)?;
        let which = role.which;
        let callback = self.callbacks.add(appender.name(), Part::Appender);
        let name = Arc::clone(callback.name());
        let records = Arc::clone(self.records);
        let lost = Arc::new(move |seq: u64, lost: Lost| {
            records.lost(which, seq);
            // A failure of the appender of failures would be one more failure to append, without end.
            if which != Which::Failures {
                records.failure(Failure {
                    source: FailureSource {
                        part: Part::Appender,
                        name: Arc::clone(&name),
                        target: Some(seq),
                        action_id: None,
                        envelope_id: None,
                    },
                    reason: Arc::from(records::reason_of(&lost)),
                    traceback: None,
                });
            }
        });
        let writer = Writer::new(appender, callback, self.lanes.clone(), self.budget, lost);
        Ok(Some(Arc::new(writer)))
    }
}

pub(super) const AUDITS: Role<AuditRecord> = Role {
    which: Which::Audits,
    kind: Kind::Audit,
    argument: "admin_audit_appender",
    class: "an AdminAuditChainAppender",
    adapt: PyAppender::of_audits,
};
pub(super) const LINES: Role<LogRecord> = Role {
    which: Which::Lines,
    kind: Kind::Log,
    argument: "log_appender",
    class: "a LogChainAppender",
    adapt: PyAppender::of_lines,
};
pub(super) const FAILURES: Role<Arc<FailureRecord>> = Role {
    which: Which::Failures,
    kind: Kind::Failure,
    argument: "failure_appender",
    class: "a FailureChainAppender",
    adapt: PyAppender::of_failures,
};
pub(super) const ACTIONS: Role<ActionRecord> = Role {
    which: Which::Actions,
    kind: Kind::Action,
    argument: "action_appender",
    class: "an ActionChainAppender",
    adapt: PyAppender::of_actions,
};
