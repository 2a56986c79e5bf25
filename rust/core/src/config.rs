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
    /// Everything: inputs and outputs are kept before they are acknowledged.
    Journal,
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
    /// Outputs kept for export; older ones are dropped and the export begins after them.
    pub outputs_max: u32,
    /// Payload bytes of the outputs kept for export.
    pub outputs_bytes_max: u64,
}

impl Default for DaemonHostConfig {
    fn default() -> Self {
        Self {
            auto_snapshot_interval: 0,
            max_log_entries: 10_000,
            delivery: Delivery::Once,
            on_error: OnError::Raise,
            durability: Durability::None,
            outputs_max: 10_000,
            outputs_bytes_max: 64 << 20,
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
        if self.max_log_entries == 0 {
            return Err(ConfigError {
                field: "max_log_entries",
                rule: "must be at least 1",
            });
        }
        Ok(())
    }
}
