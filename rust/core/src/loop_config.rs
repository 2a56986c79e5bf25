//! Options of a behaviour loop.

use std::time::Duration;

use crate::config::ConfigError;
use crate::finite::{Finite, Share};
use crate::id::NodeId;

/// How fast actions are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackpressureConfig {
    /// Time between two pulls of any chains.
    pub pull_cooldown: Duration,
    /// Drains a second; at least 1.
    pub drain_rate_per_zone_per_sec: u32,
    /// Time in which a chain that was pulled or dropped is left alone.
    pub replica_stabilization_window: Duration,
    /// Waiting actions at which back-pressure is asserted.
    pub cluster_backpressure_threshold: u32,
    /// Waiting actions at which it is released; below the threshold.
    pub cluster_backpressure_release: u32,
    /// Retries of one action; at least 1.
    pub max_defer_count: u32,
}

impl Default for BackpressureConfig {
    fn default() -> Self {
        Self {
            pull_cooldown: Duration::from_millis(250),
            drain_rate_per_zone_per_sec: 10,
            replica_stabilization_window: Duration::from_secs(60),
            cluster_backpressure_threshold: 1000,
            cluster_backpressure_release: 200,
            max_defer_count: 16,
        }
    }
}

/// When a slow peer is avoided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocalityConfig {
    /// A round trip above it is slow, and some of them in a row make a peer slow; one below four fifths of it ends that.
    pub degraded_rtt_threshold: Duration,
    /// How long a slow peer is avoided.
    pub avoid_ttl: Duration,
}

impl Default for LocalityConfig {
    fn default() -> Self {
        Self {
            degraded_rtt_threshold: Duration::from_millis(250),
            avoid_ttl: Duration::from_secs(300),
        }
    }
}

/// Deadlines of maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MaintenanceConfig {
    /// How long draining may take when the command does not say.
    pub default_drain_deadline: Duration,
    /// How long daemons may take to start again; then the node goes on, and says which did not.
    pub exit_deadline: Duration,
    /// Time in which a node that came back takes nothing new.
    pub recovery_ramp_window: Duration,
    /// How long a daemon may take to stop; after it, it is stopped by force.
    pub stop_grace: Duration,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self {
            default_drain_deadline: Duration::from_secs(600),
            exit_deadline: Duration::from_secs(600),
            recovery_ramp_window: Duration::from_secs(300),
            stop_grace: Duration::from_secs(30),
        }
    }
}

/// When replicas are moved to better nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SchedulerConfig {
    /// A holder that scores so much is good enough.
    pub score_floor: Share,
    /// A move must gain more than this.
    pub hysteresis_gap: Finite,
    /// Time between two moves of one chain.
    pub cooldown: Duration,
    /// Time after which scores are asked for anew though nothing seems to have changed.
    pub decision_interval: Duration,
    /// What a second of moving costs, as a score.
    pub cost_per_sec: Finite,
    /// Moves that this node has under way at once; at least 1.
    pub moves_in_flight_max: u32,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        let finite = |value| Finite::new(value).expect("a literal");
        Self {
            score_floor: Share::new(0.5).expect("a literal"),
            hysteresis_gap: finite(0.2),
            cooldown: Duration::from_secs(300),
            decision_interval: Duration::from_secs(30),
            cost_per_sec: finite(0.1),
            moves_in_flight_max: 4,
        }
    }
}

/// How long a crashed daemon waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackoffConfig {
    /// After the first crash.
    pub initial: Duration,
    /// Each crash waits so many times longer than the one before; at least 1.
    pub factor: Finite,
    /// Longest wait.
    pub maximum: Duration,
    /// The wait is shortened by up to this share, so that restarts spread out.
    pub jitter: Share,
    /// So many crashes within the window are a crash loop; at least 1.
    pub crash_loop_threshold: u32,
    /// Window of the crash loop.
    pub crash_loop_window: Duration,
    /// Wait after a crash loop.
    pub crash_loop_cooldown: Duration,
    /// Who ran so long without a crash starts over with `initial`.
    pub stable_run_threshold: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            factor: Finite::new(2.0).expect("a literal"),
            maximum: Duration::from_secs(60),
            jitter: Share::new(0.2).expect("a literal"),
            crash_loop_threshold: 5,
            crash_loop_window: Duration::from_secs(60),
            crash_loop_cooldown: Duration::from_secs(300),
            stable_run_threshold: Duration::from_secs(60),
        }
    }
}

/// What commands need to be obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Authority {
    /// A verifier's word; without a verifier every command is refused.
    #[default]
    Verified,
    /// Nothing: for development.
    Open,
}

/// Options of a behaviour loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MeshOsConfig {
    /// The node it acts for.
    pub this_node: Option<NodeId>,
    /// How long nothing may happen before everything due is looked at.
    pub tick_interval: Duration,
    /// Events of one lane that may wait; at least 1.
    pub event_queue_capacity: u32,
    /// Actions that may wait; at least 1.
    pub action_queue_capacity: u32,
    /// Share of a tick that user code may take before its answer counts as late; above 0.
    pub callback_budget: Share,
    /// What commands need to be obeyed.
    pub authority: Authority,
    /// Whether a command that the audit appender could not keep is refused.
    pub audit_required: bool,
    /// Seed of jitter; `None`: from the operating system.
    pub seed: Option<u64>,
    /// How fast actions are admitted.
    pub backpressure: BackpressureConfig,
    /// When a slow peer is avoided.
    pub locality: LocalityConfig,
    /// Deadlines of maintenance.
    pub maintenance: MaintenanceConfig,
    /// When replicas are moved.
    pub scheduler: SchedulerConfig,
    /// How long a crashed daemon waits.
    pub backoff: BackoffConfig,
}

impl Default for MeshOsConfig {
    fn default() -> Self {
        Self {
            this_node: None,
            tick_interval: Duration::from_millis(500),
            event_queue_capacity: 1024,
            action_queue_capacity: 1024,
            callback_budget: Share::new(0.2).expect("a literal"),
            authority: Authority::Verified,
            audit_required: false,
            seed: None,
            backpressure: BackpressureConfig::default(),
            locality: LocalityConfig::default(),
            maintenance: MaintenanceConfig::default(),
            scheduler: SchedulerConfig::default(),
            backoff: BackoffConfig::default(),
        }
    }
}

/// Longest span of any option: a hundred years. Deadlines made of it still fit into every clock.
pub const SPAN_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);
/// Largest capacity of a queue.
pub const CAPACITY_MAX: u32 = 1 << 24;

const fn fault(field: &'static str, rule: &'static str) -> ConfigError {
    ConfigError { field, rule }
}

fn ranges<const N: usize>(ranges: [(&'static str, bool, &'static str); N]) -> Result<(), ConfigError> {
    let broken = ranges.into_iter().find(|(_, holds, _)| !holds);
    broken.map_or(Ok(()), |(field, _, rule)| Err(fault(field, rule)))
}

const SPAN: &str = "must be from 1 ms to a hundred years";
const SPAN_OR_ZERO: &str = "must be from 0 to a hundred years";
const AT_LEAST_ONE: &str = "must be at least 1";

fn span(value: Duration) -> bool {
    value >= Duration::from_millis(1) && value <= SPAN_MAX
}

fn span_or_zero(value: Duration) -> bool {
    value <= SPAN_MAX
}

impl BackpressureConfig {
    /// Checks the ranges that the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] for the first option out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ranges([
            ("pull_cooldown", span_or_zero(self.pull_cooldown), SPAN_OR_ZERO),
            (
                "drain_rate_per_zone_per_sec",
                self.drain_rate_per_zone_per_sec >= 1,
                AT_LEAST_ONE,
            ),
            (
                "replica_stabilization_window",
                span_or_zero(self.replica_stabilization_window),
                SPAN_OR_ZERO,
            ),
            (
                "cluster_backpressure_threshold",
                self.cluster_backpressure_threshold >= 1,
                AT_LEAST_ONE,
            ),
            (
                "cluster_backpressure_release",
                self.cluster_backpressure_release < self.cluster_backpressure_threshold,
                "must be below cluster_backpressure_threshold",
            ),
            ("max_defer_count", self.max_defer_count >= 1, AT_LEAST_ONE),
        ])
    }
}

impl LocalityConfig {
    /// Checks the ranges that the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] for the first option out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ranges([
            ("degraded_rtt_threshold", span(self.degraded_rtt_threshold), SPAN),
            ("avoid_ttl", span(self.avoid_ttl), SPAN),
        ])
    }
}

impl MaintenanceConfig {
    /// Checks the ranges that the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] for the first option out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ranges([
            ("default_drain_deadline", span(self.default_drain_deadline), SPAN),
            ("exit_deadline", span(self.exit_deadline), SPAN),
            (
                "recovery_ramp_window",
                span_or_zero(self.recovery_ramp_window),
                SPAN_OR_ZERO,
            ),
            ("stop_grace", span_or_zero(self.stop_grace), SPAN_OR_ZERO),
        ])
    }
}

impl SchedulerConfig {
    /// Checks the ranges that the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] for the first option out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ranges([
            (
                "hysteresis_gap",
                self.hysteresis_gap.get() >= 0.0,
                "must not be negative",
            ),
            ("cooldown", span_or_zero(self.cooldown), SPAN_OR_ZERO),
            ("decision_interval", span(self.decision_interval), SPAN),
            ("cost_per_sec", self.cost_per_sec.get() >= 0.0, "must not be negative"),
            ("moves_in_flight_max", self.moves_in_flight_max >= 1, AT_LEAST_ONE),
        ])
    }
}

impl BackoffConfig {
    /// Checks the ranges that the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] for the first option out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ranges([
            ("initial", span(self.initial), SPAN),
            ("factor", self.factor.get() >= 1.0, AT_LEAST_ONE),
            ("maximum", span(self.maximum), SPAN),
            ("maximum", self.maximum >= self.initial, "must not be below initial"),
            ("crash_loop_threshold", self.crash_loop_threshold >= 1, AT_LEAST_ONE),
            (
                "crash_loop_threshold",
                self.crash_loop_threshold <= 1000,
                "must be at most 1000",
            ),
            ("crash_loop_window", span(self.crash_loop_window), SPAN),
            ("crash_loop_cooldown", span(self.crash_loop_cooldown), SPAN),
            ("stable_run_threshold", span(self.stable_run_threshold), SPAN),
        ])
    }
}

impl MeshOsConfig {
    /// Checks the ranges that the types do not; the parts check their own.
    ///
    /// # Errors
    /// [`ConfigError`] for the first option out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const CAPACITY: &str = "must be from 1 to 16,777,216";
        let capacity = |value: u32| (1..=CAPACITY_MAX).contains(&value);
        ranges([
            (
                "tick_interval",
                span(self.tick_interval) && self.tick_interval <= Duration::from_secs(3600),
                "must be from 1 ms to 1 h",
            ),
            ("event_queue_capacity", capacity(self.event_queue_capacity), CAPACITY),
            ("action_queue_capacity", capacity(self.action_queue_capacity), CAPACITY),
            (
                "callback_budget",
                self.callback_budget > Share::default(),
                "must be above 0",
            ),
        ])?;
        self.backpressure.validate()?;
        self.locality.validate()?;
        self.maintenance.validate()?;
        self.scheduler.validate()?;
        self.backoff.validate()
    }
}
