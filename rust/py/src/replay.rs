//! What an audit file tells of: the state that commands alone decided.

use meshos_core::control_state::{ForcedOrder, OutOfService};
use meshos_core::digest::Digest;
use meshos_core::id::NodeId;
use meshos_core::replay::{Replay, Replayed};
use meshos_core::time::UnixMs;
use meshos_core::trail::Kind;
use pyo3::prelude::*;

use crate::errors::FileDecodeError;
use crate::guard::entry;
use crate::record::field::{Given, read};
use crate::record::moment::Moment;
use crate::record::record;
use crate::record::word::literal;
use crate::trail::checked;

/// Where a file says what it keeps.
const KIND_OFFSET: u64 = 5;

/// What is forced on a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forced {
    /// A copy that shall go.
    Evict,
    /// A copy that shall come.
    Cutover,
}

literal! {
    Forced {
        Evict = "evict",
        Cutover = "cutover",
    }
}

record! {
    /// A node that operators want out of service.
    pub struct PyMaintenanceOrder in "meshos.audit" as "MaintenanceOrder", by keyword {
        /// Which node.
        node: NodeId,
        /// Since when.
        since: Moment,
        /// By when it shall be drained; `None`: as the node is configured.
        deadline: Option<Moment>,
        /// Whether it comes back by itself, at the deadline at the latest.
        returns: bool,
    }
}

record! {
    /// Something that operators force on a chain; it may have been carried out.
    pub struct PyForcedOrder in "meshos.audit" as "ForcedOrder", by keyword {
        /// Which chain.
        chain: u64,
        /// Whether a copy shall go or come.
        order: Forced,
        /// The node.
        node: NodeId,
        /// When it is given up.
        until: Moment,
        /// The envelope it came in, 16 bytes.
        envelope_id: Option<[u8; 16]>,
    }
}

record! {
    /// What an audit tells of: the state that commands alone decided, as it was at one moment.
    pub struct PyReplayReport in "meshos.audit" as "ReplayReport", by keyword {
        /// Commands in it.
        records: u64,
        /// Commands that took effect.
        accepted: u64,
        /// Commands that were refused.
        rejected: u64,
        /// Runs that wrote it.
        runs: u64,
        /// The moment; `None`: nothing is in it.
        at: Option<Moment>,
        /// When a freeze ends; `None`: not frozen.
        freeze_until: Option<Moment>,
        /// Nodes that nothing new is placed on, ascending.
        cordoned: Vec<NodeId>,
        /// Nodes that shall be out of service, ascending.
        maintenance: Vec<PyMaintenanceOrder>,
        /// What is forced on chains, and not given up.
        forced: Vec<PyForcedOrder>,
        /// Envelopes that are remembered, to be obeyed once.
        envelopes: u64,
        /// Digest of the state, as a running node shows it in its snapshot.
        digest: Digest,
    }
}

impl PyMaintenanceOrder {
    fn of(node: NodeId, wanted: OutOfService) -> Self {
        Self {
            node,
            since: Moment::of(wanted.since),
            deadline: wanted.deadline.map(Moment::of),
            returns: wanted.returns,
        }
    }
}

impl PyForcedOrder {
    fn of(chain: u64, order: Forced, forced: ForcedOrder) -> Self {
        Self {
            chain,
            order,
            node: forced.node,
            until: Moment::of(forced.held.until),
            envelope_id: forced.envelope_id,
        }
    }
}

impl PyReplayReport {
    fn of(replayed: &Replayed, at: Option<UnixMs>) -> Self {
        let state = &replayed.state;
        let shown = at.or(replayed.last_at);
        let now = shown.unwrap_or_default();
        let both = |chain: u64, evict: Option<ForcedOrder>, place: Option<ForcedOrder>| {
            let evict = evict.map(|order| PyForcedOrder::of(chain, Forced::Evict, order));
            let place = place.map(|order| PyForcedOrder::of(chain, Forced::Cutover, order));
            evict.into_iter().chain(place)
        };
        Self {
            records: replayed.obeyed + replayed.rejected,
            accepted: replayed.obeyed,
            rejected: replayed.rejected,
            runs: replayed.runs,
            at: shown.map(Moment::of),
            freeze_until: state.freeze_until(now).map(Moment::of),
            cordoned: state.cordoned().collect(),
            maintenance: state
                .out_of_service(now)
                .map(|(node, wanted)| PyMaintenanceOrder::of(node, wanted))
                .collect(),
            forced: state
                .all_forced(now)
                .flat_map(|(chain, orders)| both(chain.get(), orders.evict, orders.place))
                .collect(),
            envelopes: state.envelopes() as u64,
            digest: state.digest(),
        }
    }
}

/// Check a file of audit records, and tell what commands alone had decided.
#[pyfunction]
#[pyo3(signature = (file, *, at = Given::Not), text_signature = "(file, *, at=None)")]
fn replay_records(file: &Bound<'_, PyAny>, at: Given<'_>) -> PyResult<PyReplayReport> {
    entry("replay_records", || {
        let at = at.map_or(None, |at| read::<Option<Moment>>(at, "at"))?;
        let at = at.map(Moment::unix_ms);
        let mut replay = Replay::default().until(at);
        let proven = checked(file, Kind::Audit, None, None, |entry| replay.take(&entry))?;
        if proven.head.kind != Kind::Audit {
            let reason = format!("it keeps {} records, not audit records", proven.head.kind.name());
            return Err(FileDecodeError::new_err((KIND_OFFSET, reason)));
        }
        let py = file.py();
        Ok(py.detach(|| PyReplayReport::of(&replay.finish(), at)))
    })
}

/// Adds classes and functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyMaintenanceOrder>()?;
    module.add_class::<PyForcedOrder>()?;
    module.add_class::<PyReplayReport>()?;
    module.add_function(wrap_pyfunction!(replay_records, module)?)
}
