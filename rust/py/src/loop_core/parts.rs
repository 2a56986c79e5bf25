//! What a loop is made of, read from the arguments of the public class.

use std::sync::Arc;

use meshos_core::id::NodeId;
use meshos_core::loop_config::MeshOsConfig;
use meshos_node::dispatch::ActionDispatcher;
use pyo3::intern;
use pyo3::prelude::*;

use super::{PyCompute, Traverse, given};
use crate::aio::Loop;
use crate::args;
use crate::dispatch::PyDispatcher;
use crate::errors::ConfigError;
use crate::record::field::Field;
use crate::registry::PyRegistry;
use crate::runtime::PyRuntime;

pub(super) fn registry_of<T: pyo3::PyClass>(
    value: &Bound<'_, PyAny>,
    name: &'static str,
    class: &'static str,
) -> PyResult<Py<T>> {
    match given(value) {
        Some(value) => Ok(args::instance::<T>(value, name, class)?.clone().unbind()),
        None => Ok(value.py().get_type::<T>().call0()?.cast_into::<T>()?.unbind()),
    }
}

/// The dispatcher, with what it says of itself.
pub(super) struct Dispatching {
    pub(super) dispatcher: Arc<dyn ActionDispatcher>,
    pub(super) runtime: Option<Py<PyRuntime>>,
    pub(super) registry: Option<Py<PyRegistry>>,
    pub(super) node: Option<NodeId>,
}

pub(super) fn dispatching(
    object: &Bound<'_, PyAny>,
    home: &Arc<Loop>,
    held: &mut Vec<Traverse>,
) -> PyResult<Dispatching> {
    let py = object.py();
    let native = object.getattr_opt(intern!(py, "_native"))?;
    if let Some(native) = native
        && let Ok(compute) = native.cast::<PyCompute>()
    {
        let runtime = compute.get().runtime.bind(py).clone();
        let registry = runtime.call_method0(intern!(py, "daemon_registry"))?;
        return Ok(Dispatching {
            dispatcher: Arc::clone(&compute.get().dispatcher) as Arc<dyn ActionDispatcher>,
            registry: Some(registry.cast_into::<PyRegistry>()?.unbind()),
            node: Some(runtime.get().runtime.node().node_id()),
            runtime: Some(runtime.unbind()),
        });
    }
    let dispatcher = Arc::new(PyDispatcher::new(object, Arc::clone(home))?);
    let said = |method: &str| match object.getattr_opt(method)? {
        Some(method) => method.call0(),
        None => Ok(py.None().into_bound(py)),
    };
    let registry = match given(&said("daemon_registry")?) {
        Some(registry) => {
            let name = "what daemon_registry gives";
            Some(
                args::instance::<PyRegistry>(registry, name, "a DaemonRegistry or None")?
                    .clone()
                    .unbind(),
            )
        }
        None => None,
    };
    let node = Option::<NodeId>::from_python(&said("node_id")?, "node_id")?;
    let shown = Arc::clone(&dispatcher);
    held.push(Box::new(move |visit| shown.traverse(visit)));
    Ok(Dispatching {
        dispatcher,
        runtime: None,
        registry,
        node,
    })
}

pub(super) fn this_node(config: &MeshOsConfig, said: Option<NodeId>) -> PyResult<NodeId> {
    match (config.this_node, said) {
        (Some(given), Some(said)) if given != said => Err(ConfigError::new_err((
            "this_node",
            format!("must be the dispatcher's node, 0x{said}, not 0x{given}"),
        ))),
        (Some(node), _) | (None, Some(node)) => Ok(node),
        (None, None) => Err(ConfigError::new_err((
            "this_node",
            "must be given, since the dispatcher acts on no mesh",
        ))),
    }
}
