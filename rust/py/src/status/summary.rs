//! A snapshot of the loop in one line.

use meshos_core::maintenance_state::MaintenancePhase;
use meshos_core::peer::NodeHealth;
use meshos_core::status::{Lifecycle, MeshOsSnapshot};
use meshos_core::supervision::RestartState;
use pyo3::prelude::*;

use super::cluster::PyReplicaSnapshot;
use crate::record::record;

record! {
    /// Nodes by health.
    pub struct PyPeerCounts in "meshos.status" as "PeerCounts", by keyword {
        /// Those that answer in time.
        healthy: u64,
        /// Those that answer late.
        degraded: u64,
        /// Those that do not answer.
        unreachable: u64,
        /// Those whose health nobody sampled.
        unknown: u64,
    }
}

record! {
    /// Daemons by lifecycle; the last two overlap with the others.
    pub struct PyDaemonCounts in "meshos.status" as "DaemonCounts", by keyword {
        /// Those that run.
        running: u64,
        /// Those whose start is under way.
        starting: u64,
        /// Those whose stop is under way.
        stopping: u64,
        /// Those that do not run.
        stopped: u64,
        /// Those that wait after a crash.
        backing_off: u64,
        /// Those that crashed too often and cool down.
        crash_looping: u64,
    }
}

record! {
    /// A snapshot in one line.
    pub struct PyStatusSummary in "meshos.status" as "StatusSummary", by keyword {
        /// Other nodes.
        peers: PyPeerCounts,
        /// Daemons.
        daemons: PyDaemonCounts,
        /// Replicated chains.
        replica_chains: u64,
        /// Peers that nothing new is placed on.
        avoid_list_entries: u64,
        /// Actions in `recently_emitted`.
        recently_emitted: u64,
        /// Failures in `recent_failures`.
        recent_failures: u64,
        /// Whether the cluster is frozen.
        frozen: bool,
        /// Maintenance of the node.
        local_maintenance: MaintenancePhase,
    }
}

impl From<&MeshOsSnapshot> for PyStatusSummary {
    fn from(snapshot: &MeshOsSnapshot) -> Self {
        let view = &snapshot.view;
        let count = |matching: usize| matching as u64;
        let peers = |health| count(view.peers.values().filter(|peer| peer.health == health).count());
        let daemons = |lifecycle| {
            count(
                view.daemons
                    .values()
                    .filter(|daemon| daemon.lifecycle == lifecycle)
                    .count(),
            )
        };
        let restarts = |state: fn(&RestartState) -> bool| {
            count(
                view.daemons
                    .values()
                    .filter(|daemon| state(&daemon.backoff.state))
                    .count(),
            )
        };
        Self {
            peers: PyPeerCounts {
                healthy: peers(Some(NodeHealth::Healthy)),
                degraded: peers(Some(NodeHealth::Degraded)),
                unreachable: peers(Some(NodeHealth::Unreachable)),
                unknown: peers(None),
            },
            daemons: PyDaemonCounts {
                running: daemons(Lifecycle::Running),
                starting: daemons(Lifecycle::Starting),
                stopping: daemons(Lifecycle::Stopping),
                stopped: daemons(Lifecycle::Stopped),
                backing_off: restarts(|state| matches!(state, RestartState::BackingOff { .. })),
                crash_looping: restarts(|state| matches!(state, RestartState::CrashLooping { .. })),
            },
            replica_chains: count(
                view.chains
                    .values()
                    .filter(|chain| PyReplicaSnapshot::exists(chain))
                    .count(),
            ),
            avoid_list_entries: count(view.avoid.len()),
            recently_emitted: count(view.emissions.len()),
            recent_failures: count(snapshot.failures.len()),
            frozen: view.freeze_until.is_some(),
            local_maintenance: view.maintenance.phase(),
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyPeerCounts>()?;
    module.add_class::<PyDaemonCounts>()?;
    module.add_class::<PyStatusSummary>()
}
