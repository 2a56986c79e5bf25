//! Options of a behaviour loop.

use std::time::Duration;

use meshos_core::finite::{Finite, Share};
use meshos_core::id::NodeId;
use meshos_core::loop_config::{
    Authority, BackoffConfig, BackpressureConfig, LocalityConfig, MaintenanceConfig, MeshOsConfig, SchedulerConfig,
};
use pyo3::prelude::*;

use crate::record::options::options;
use crate::record::word::literal;

options! {
    /// How fast actions are admitted. Options are given by keyword; raises `ConfigError`.
    pub struct PyBackpressureConfig(BackpressureConfig) in "meshos.runtime" as "BackpressureConfig",
    signature "(*, pull_cooldown=..., drain_rate_per_zone_per_sec=10, replica_stabilization_window=..., \
        cluster_backpressure_threshold=1000, cluster_backpressure_release=200, max_defer_count=16)" {
        /// Time between two pulls of any chains; 250 ms.
        pull_cooldown: Duration,
        /// Drains a second; at least 1.
        drain_rate_per_zone_per_sec: u32,
        /// Time in which a chain that was pulled or dropped is left alone; 60 s.
        replica_stabilization_window: Duration,
        /// Waiting actions at which back-pressure is asserted.
        cluster_backpressure_threshold: u32,
        /// Waiting actions at which it is released; below the threshold.
        cluster_backpressure_release: u32,
        /// Retries of one action; at least 1.
        max_defer_count: u32,
    }
}

options! {
    /// When a slow peer is avoided, and for how long. Options are given by keyword; raises `ConfigError`.
    pub struct PyLocalityConfig(LocalityConfig) in "meshos.runtime" as "LocalityConfig",
    signature "(*, degraded_rtt_threshold=..., avoid_ttl=...)" {
        /// A smoothed round trip above it is slow; it is no longer slow below four fifths of it. 250 ms.
        degraded_rtt_threshold: Duration,
        /// How long a slow peer is avoided; 5 min.
        avoid_ttl: Duration,
    }
}

options! {
    /// Deadlines of maintenance. Options are given by keyword; raises `ConfigError`.
    pub struct PyMaintenanceConfig(MaintenanceConfig) in "meshos.runtime" as "MaintenanceConfig",
    signature "(*, default_drain_deadline=..., exit_deadline=..., recovery_ramp_window=..., stop_grace=...)" {
        /// How long draining may take when the command does not say; 10 min.
        default_drain_deadline: Duration,
        /// How long daemons may take to start again, 10 min; then the node goes on, and says which did not.
        exit_deadline: Duration,
        /// Time in which a node that came back takes nothing new; 5 min.
        recovery_ramp_window: Duration,
        /// How long a daemon may take to stop, 30 s; after it, it is stopped by force.
        stop_grace: Duration,
    }
}

options! {
    /// When replicas are moved to better nodes. Options are given by keyword; raises `ConfigError`.
    ///
    /// A share is kept in steps of 1/10,000.
    pub struct PySchedulerConfig(SchedulerConfig) in "meshos.runtime" as "SchedulerConfig",
    signature "(*, score_floor=0.5, hysteresis_gap=0.2, cooldown=..., decision_interval=..., cost_per_sec=0.1, \
        moves_in_flight_max=4)" {
        /// A holder that scores so much is good enough; 0 to 1.
        score_floor: Share,
        /// A move must gain more than this.
        hysteresis_gap: Finite,
        /// Time between two moves of one chain; 5 min.
        cooldown: Duration,
        /// Time after which scores are asked for anew though nothing seems to have changed; 30 s.
        decision_interval: Duration,
        /// What a second of moving costs, as a score.
        cost_per_sec: Finite,
        /// Moves that this node has under way at once; at least 1.
        moves_in_flight_max: u32,
    }
}

options! {
    /// How long a crashed daemon waits. Options are given by keyword; raises `ConfigError`.
    ///
    /// A share is kept in steps of 1/10,000.
    pub struct PyBackoffConfig(BackoffConfig) in "meshos.runtime" as "BackoffConfig",
    signature "(*, initial=..., factor=2.0, maximum=..., jitter=0.2, crash_loop_threshold=5, crash_loop_window=..., \
        crash_loop_cooldown=..., stable_run_threshold=...)" {
        /// After the first crash; 500 ms.
        initial: Duration,
        /// Each crash waits so many times longer than the one before; at least 1.
        factor: Finite,
        /// Longest wait; 60 s.
        maximum: Duration,
        /// The wait is shortened by up to this share, so that restarts spread out; 0 to 1.
        jitter: Share,
        /// So many crashes within the window are a crash loop; 1 to 1000.
        crash_loop_threshold: u32,
        /// Window of the crash loop; 60 s.
        crash_loop_window: Duration,
        /// Wait after a crash loop; 5 min.
        crash_loop_cooldown: Duration,
        /// Who ran so long without a crash starts over with `initial`; 60 s.
        stable_run_threshold: Duration,
    }
}

options! {
    /// Options of a behaviour loop, by keyword; raises `ConfigError` naming the field.
    ///
    /// A share is kept in steps of 1/10,000.
    pub struct PyMeshOsConfig(MeshOsConfig) in "meshos.runtime" as "MeshOsConfig",
    signature "(*, this_node=None, tick_interval=..., event_queue_capacity=1024, action_queue_capacity=1024, \
        callback_budget=0.2, authority='verified', audit='best_effort', seed=None, backpressure=..., locality=..., \
        maintenance=..., scheduler=..., backoff=...)" {
        /// The node it acts for; `None`: that of the dispatcher's mesh.
        this_node: Option<NodeId>,
        /// How long nothing may happen before everything is looked at; a change is acted on at once. 500 ms.
        tick_interval: Duration,
        /// Events that may wait; 1 to 16,777,216.
        event_queue_capacity: u32,
        /// Actions that may wait; 1 to 16,777,216.
        action_queue_capacity: u32,
        /// Share of a tick that user code may take before its answer counts as late; above 0, up to 1.
        callback_budget: Share,
        /// Without a verifier: "verified" refuses every command, "open" obeys (development; every snapshot shows it).
        authority: Authority,
        /// "required": a command that the audit appender could not keep is refused.
        audit in audit_required: Audit,
        /// Seed of jitter; `None`: from the operating system.
        seed: Option<u64>,
        /// How fast actions are admitted.
        backpressure: BackpressureConfig,
        /// When a slow peer is avoided.
        locality: LocalityConfig,
        /// Deadlines of maintenance.
        maintenance: MaintenanceConfig,
        /// When replicas are moved.
        scheduler: SchedulerConfig,
        /// How long a crashed daemon waits.
        backoff: BackoffConfig,
    }
}

impl PyMeshOsConfig {
    /// The options, checked.
    pub fn core(&self) -> &MeshOsConfig {
        &self.0
    }
}

/// What becomes of a command that the audit appender could not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audit {
    BestEffort,
    Required,
}

impl From<bool> for Audit {
    fn from(required: bool) -> Self {
        if required { Self::Required } else { Self::BestEffort }
    }
}

impl From<Audit> for bool {
    fn from(audit: Audit) -> Self {
        audit == Audit::Required
    }
}

literal! { Audit { BestEffort = "best_effort", Required = "required", } }
literal! { Authority { Verified = "verified", Open = "open", } }

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyBackpressureConfig>()?;
    module.add_class::<PyLocalityConfig>()?;
    module.add_class::<PyMaintenanceConfig>()?;
    module.add_class::<PySchedulerConfig>()?;
    module.add_class::<PyBackoffConfig>()?;
    module.add_class::<PyMeshOsConfig>()
}
