//! How one daemon is kept.

/// What happens to an event whose number was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Delivery {
    /// It changes nothing and is answered as a duplicate.
    #[default]
    Once,
    /// It is processed again; the cursor never moves back.
    AtLeastOnce,
}

/// State of a daemon after its `process` raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnError {
    /// As user code left it.
    #[default]
    Raise,
    /// Rebuilt from the newest snapshot and the inputs since.
    Restore,
}

/// What of a daemon outlives its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// Nothing.
    #[default]
    None,
    /// The newest snapshot: what came after it may be lost with the process.
    Snapshot,
    /// Everything: inputs and outputs are kept before they are acknowledged.
    Journal,
}

/// What becomes of a daemon that does something else when it takes its inputs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnDivergence {
    /// It does not start.
    #[default]
    Stop,
    /// It goes on from what it emitted the first time.
    Continue,
    /// It is never asked to: a snapshot is taken after every event.
    SnapshotEveryEvent,
}

/// Options of one daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DaemonHostConfig {
    /// Events between snapshots that are taken on their own; 0: none.
    pub auto_snapshot_interval: u64,
    /// Inputs kept since the newest snapshot when `on_error` is `Restore`; one more forces a snapshot first. At least 1.
    pub max_log_entries: u32,
    /// What happens to a number seen before.
    pub delivery: Delivery,
    /// State after a raise.
    pub on_error: OnError,
    /// What of it outlives the process.
    pub durability: Durability,
    /// What becomes of it when it does not do again what it did.
    pub on_divergence: OnDivergence,
    /// Tries at an event that nobody waits for, before it is passed over and becomes a dead letter. At least 1.
    pub attempts_max: u32,
    /// Newest snapshots that a store keeps; all but the newest are there in case that it is damaged. At least 1.
    pub snapshots_max: u32,
    /// Outputs kept for export; older ones are dropped and the export begins after them.
    pub outputs_max: u32,
    /// Payload bytes of the outputs kept for export.
    pub outputs_bytes_max: u64,
    /// Milliseconds after which an output is not kept for export any longer, at least 1; `None`: age does not matter.
    pub outputs_age_max_ms: Option<u64>,
}

impl Default for DaemonHostConfig {
    fn default() -> Self {
        Self {
            auto_snapshot_interval: 0,
            max_log_entries: 10_000,
            delivery: Delivery::Once,
            on_error: OnError::Raise,
            durability: Durability::None,
            on_divergence: OnDivergence::Stop,
            attempts_max: 5,
            snapshots_max: 2,
            outputs_max: 10_000,
            outputs_bytes_max: 64 << 20,
            outputs_age_max_ms: None,
        }
    }
}

/// An option is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct ConfigError {
    /// Name of the option.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

impl DaemonHostConfig {
    /// Checks the ranges that the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] for the first option out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let at_least_one = [
            ("max_log_entries", self.max_log_entries),
            ("attempts_max", self.attempts_max),
            ("snapshots_max", self.snapshots_max),
        ];
        if let Some((field, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError {
                field,
                rule: "must be at least 1",
            });
        }
        if self.outputs_age_max_ms == Some(0) {
            return Err(ConfigError {
                field: "outputs_age_max",
                rule: "must be at least 1 ms",
            });
        }
        Ok(())
    }
}
