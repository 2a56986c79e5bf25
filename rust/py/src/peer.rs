//! Other nodes: what probes say of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshos_core::finite::Finite;
use meshos_core::id::NodeId;
use meshos_core::peer::{NodeHealth, PeerInventory, Samples};
use meshos_node::probes::{ProbeCounts, ProbeKind};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::args;
use crate::errors::InvalidArgument;
use crate::record::field::{Field, Share};
use crate::record::record;
use crate::record::word::word;

word! {
    NodeHealth as "NodeHealth" in "meshos.probes" {
        Healthy = "healthy",
        Degraded = "degraded",
        Unreachable = "unreachable",
    }
}

record! {
    /// What a node has; `None` means not sampled by this probe, and leaves the value of another probe alone.
    pub struct PyPeerInventory in "meshos.probes" as "PeerInventory", by keyword,
    signature "(*, cpu_load_1m=None, mem_used_bytes=None, mem_total_bytes=None, disk_used_bytes=None, \
        disk_total_bytes=None, saturation_trend=None, capability_set=None, software_version=None, forked_from=None)" {
        /// Load average of one minute.
        cpu_load_1m: Option<Finite> = None,
        /// Memory in use.
        mem_used_bytes: Option<u64> = None,
        /// Memory there is.
        mem_total_bytes: Option<u64> = None,
        /// Disk in use.
        disk_used_bytes: Option<u64> = None,
        /// Disk there is.
        disk_total_bytes: Option<u64> = None,
        /// Where the load is heading, 0 to 1.
        saturation_trend: Option<Share> = None,
        /// Capability tags.
        capability_set: Option<Arc<BTreeSet<String>>> = None,
        /// Version of its software.
        software_version: Option<Arc<str>> = None,
        /// The node it was forked from.
        forked_from: Option<NodeId> = None,
    }
}

impl PyPeerInventory {
    /// The inventory as the loop takes it.
    pub fn core(&self) -> PeerInventory {
        PeerInventory {
            cpu_load_1m: self.cpu_load_1m,
            mem_used_bytes: self.mem_used_bytes,
            mem_total_bytes: self.mem_total_bytes,
            disk_used_bytes: self.disk_used_bytes,
            disk_total_bytes: self.disk_total_bytes,
            saturation_trend: self.saturation_trend.map(Into::into),
            capability_set: self.capability_set.clone(),
            software_version: self.software_version.clone(),
            forked_from: self.forked_from,
        }
    }
}

record! {
    /// How many probes are installed.
    pub struct PyProbeCounts in "meshos.probes" as "ProbeCounts" {
        /// Of round trips.
        locality: u64,
        /// Of health.
        health: u64,
        /// Of inventories.
        inventory: u64,
    }
}

impl From<ProbeCounts> for PyProbeCounts {
    fn from(counts: ProbeCounts) -> Self {
        Self {
            locality: counts.locality as u64,
            health: counts.health as u64,
            inventory: counts.inventory as u64,
        }
    }
}

/// Most samples of one call of a probe.
const SAMPLES_MAX: usize = 1 << 20;

/// Reads what a probe returned: an iterable of pairs. What is wrong names the pair by its position.
pub fn extract_samples(kind: ProbeKind, object: &Bound<'_, PyAny>) -> PyResult<Samples> {
    Ok(match kind {
        ProbeKind::Locality => Samples::Locality(pairs::<Duration>(object, "rtt_samples")?),
        ProbeKind::Health => Samples::Health(pairs::<NodeHealth>(object, "health_samples")?),
        ProbeKind::Inventory => {
            let samples = pairs::<PyPeerInventory>(object, "inventory_samples")?;
            let core = samples.into_iter().map(|(node, inventory)| (node, inventory.core()));
            Samples::Inventory(core.collect())
        }
    })
}

fn pairs<T: Field>(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Vec<(NodeId, T)>> {
    let items = object.try_iter().map_err(|error| {
        if error.is_instance_of::<PyTypeError>(object.py()) {
            args::wrong_type(name, "an iterable of pairs", object)
        } else {
            error
        }
    })?;
    let mut pairs = Vec::new();
    for (index, item) in items.enumerate() {
        if index == SAMPLES_MAX {
            let message = format!("must have at most {SAMPLES_MAX} pairs");
            return Err(InvalidArgument::new_err((name, message)));
        }
        let item = item?;
        pairs.push(pair(&item, name).map_err(|error| at(error, name, index, &item))?);
    }
    Ok(pairs)
}

fn pair<T: Field>(item: &Bound<'_, PyAny>, name: &'static str) -> PyResult<(NodeId, T)> {
    match item.cast::<PyTuple>() {
        Ok(pair) if pair.len() == 2 => Ok((
            NodeId::from_python(&pair.get_item(0)?, name)?,
            T::from_python(&pair.get_item(1)?, name)?,
        )),
        _ => Err(args::wrong_type(name, "a tuple of two", item)),
    }
}

/// Says which pair an error is about.
fn at(error: PyErr, name: &'static str, index: usize, item: &Bound<'_, PyAny>) -> PyErr {
    let py = item.py();
    let text = error.value(py).to_string();
    let rule = text
        .strip_prefix(name)
        .map_or(&*text, |rule| rule.trim_start_matches([':', ' ']));
    if error.is_instance_of::<InvalidArgument>(py) {
        InvalidArgument::new_err((name, format!("pair {index}: {rule}")))
    } else if error.is_instance_of::<PyTypeError>(py) {
        PyTypeError::new_err(format!("{name}[{index}] {rule}"))
    } else {
        error
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyPeerInventory>()?;
    module.add_class::<PyProbeCounts>()
}
