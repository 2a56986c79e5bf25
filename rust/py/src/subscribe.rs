//! Subscriptions of daemons, and waiting for what they do.

use std::sync::Arc;

use meshos_core::bindings::SubscriptionBinding;
use meshos_core::id::NodeId;
use meshos_core::name::ChannelName;
use meshos_core::token::PermissionToken;
use meshos_node::channel_desk::Desk;
use meshos_node::channel_stream::ANSWER;
use meshos_node::clock::Deadline;
use meshos_node::deliver;
use meshos_node::progress::Progressed;
use meshos_node::slot::Slot;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::aio;
use crate::args;
use crate::bindings::PySubscriptionBinding;
use crate::channels;
use crate::daemon::PyDaemon;
use crate::enter::{self, enter};
use crate::errors::{self, LoopClosed};
use crate::guard::{self, InUserCode};
use crate::runtime::PyRuntime;

fn desk(runtime: &PyRuntime) -> PyResult<&Desk<PyDaemon>> {
    runtime.runtime.desk().ok_or_else(|| LoopClosed::new_err(("Mesh",)))
}

/// Changes the ledger of a daemon between two events, and waits until the store has that.
fn change(
    py: Python<'_>,
    slot: &Arc<Slot<PyDaemon>>,
    change: impl FnOnce(&mut meshos_core::bindings::DaemonBindings) -> PyResult<()>,
) -> PyResult<()> {
    let mut entered = enter(py, slot)?;
    change(entered.host.bindings_mut())?;
    entered.keep_ledger();
    slot.publish(entered.host.bindings());
    let commit = deliver::submit(&mut entered);
    drop(entered);
    commit.map_or(Ok(()), |commit| enter::kept(py, slot.origin(), &commit))
}

/// Subscribes a daemon, waits for the publisher, and records it.
pub fn subscribe(
    py: Python<'_>,
    runtime: &PyRuntime,
    slot: &Arc<Slot<PyDaemon>>,
    publisher: NodeId,
    channel: &ChannelName,
    token: Option<&PermissionToken>,
    group: Option<ChannelName>,
) -> PyResult<()> {
    aio::may_block(py, "DaemonRuntime.subscribe_channel")?;
    let desk = desk(runtime)?;
    let binding = SubscriptionBinding {
        publisher,
        channel: channel.clone(),
        token: token.map(PermissionToken::to_bytes),
        group,
    };
    let mut signal = None;
    let subscribed = py.detach(|| {
        let deadline = Deadline::after(ANSWER);
        let mut interrupted = || guard::interrupted(&mut signal);
        let of = channels::publisher(desk.channels(), publisher, deadline, &mut interrupted)?;
        desk.subscribe(slot, of, &binding, deadline, &mut interrupted)
    });
    match (subscribed, signal) {
        (Ok(()), None) => {}
        (Ok(()), Some(raised)) => {
            desk.unsubscribe(slot.origin(), publisher, channel);
            return Err(raised);
        }
        (Err(_), Some(raised)) => return Err(raised),
        (Err(error), None) => return Err(channels::not_subscribed(py, error, publisher, channel)),
    }
    let SubscriptionBinding { token, group, .. } = binding;
    let recorded = change(py, slot, |ledger| {
        let recorded = ledger.record_in(publisher, channel.clone(), token, group);
        recorded.map_err(|error| errors::InvalidArgument::new_err(("token", error.to_string())))
    });
    if recorded.is_err() {
        desk.unsubscribe(slot.origin(), publisher, channel);
    }
    recorded
}

/// Ends a subscription of a daemon, and takes it out of its ledger.
pub fn unsubscribe(
    py: Python<'_>,
    runtime: &PyRuntime,
    slot: &Arc<Slot<PyDaemon>>,
    publisher: NodeId,
    channel: &ChannelName,
) -> PyResult<()> {
    desk(runtime)?.unsubscribe(slot.origin(), publisher, channel);
    let bindings = slot.bindings();
    let is_there = |binding: &SubscriptionBinding| binding.publisher == publisher && binding.channel == *channel;
    if !bindings.iter().any(is_there) {
        return Ok(());
    }
    change(py, slot, |ledger| {
        ledger.forget(publisher, channel);
        Ok(())
    })
}

/// The ledger of a daemon.
pub fn subscriptions<'py>(py: Python<'py>, slot: &Slot<PyDaemon>) -> PyResult<Bound<'py, PyTuple>> {
    let bindings = slot.bindings();
    let bindings = bindings
        .iter()
        .map(|binding| Bound::new(py, PySubscriptionBinding::from(binding)));
    PyTuple::new(py, bindings.collect::<PyResult<Vec<_>>>()?)
}

/// Asks a predicate of a daemon between two events, now and after each event, until it holds.
pub fn wait_for(
    runtime: &PyRuntime,
    slot: &Arc<Slot<PyDaemon>>,
    class: &Bound<'_, PyType>,
    predicate: &Bound<'_, PyAny>,
    timeout: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = predicate.py();
    let span = args::span(Some(timeout), "timeout")?;
    runtime.may_block(py, slot, "DaemonRuntime.wait_for")?;
    let deadline = span.map_or_else(Deadline::never, Deadline::after);
    let mut signal = None;
    loop {
        let seen = slot.progress();
        {
            let entered = enter(py, slot)?;
            let object = entered.daemon.object(py).clone();
            if !object.is_instance(class)? {
                return Err(args::wrong_type("the daemon", &format!("a {}", class.name()?), &object));
            }
            let _inside = InUserCode::begin();
            if predicate.call1((object,))?.is_truthy()? {
                return Ok(());
            }
        }
        let waited = py.detach(|| slot.wait_for_progress(seen, deadline, &mut || guard::interrupted(&mut signal)));
        match (waited, signal.take()) {
            (_, Some(raised)) => return Err(raised),
            (Progressed::Timeout, None) => {
                let what = format!("what was asked of daemon {}", slot.origin());
                return Err(errors::waited(&what, span.unwrap_or_default(), py));
            }
            (Progressed::Changed | Progressed::Interrupted, None) => {}
        }
    }
}
