//! What happens to daemons, as their registry tells it.

use std::sync::Arc;

use crate::id::Origin;
use crate::time::UnixMs;

/// How a daemon says it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum DaemonHealth {
    /// Working.
    #[default]
    Healthy,
    /// Working, but not well.
    Degraded {
        /// What is wrong, in the daemon's words.
        reason: String,
    },
    /// Alive, but not working; that is not a crash.
    Unhealthy {
        /// What is wrong; may be empty.
        reason: String,
    },
}

/// Why a daemon crashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Crash {
    /// In one line.
    pub reason: Arc<str>,
    /// Class name of the exception; empty when there was none.
    pub exception: Arc<str>,
    /// Its text.
    pub message: Arc<str>,
    /// Origin and number of the event it failed on, if it was one.
    pub event: Option<(Origin, u64)>,
}

impl Crash {
    /// One without an exception.
    #[must_use]
    pub fn because(reason: &str) -> Self {
        Self {
            reason: Arc::from(reason),
            ..Self::default()
        }
    }
}

/// What happened to a daemon.
#[derive(Debug, Clone, PartialEq)]
pub enum DaemonLifecycleSignal {
    /// It is in the registry.
    Registered,
    /// It left the registry.
    Unregistered,
    /// It runs again after a crash that had taken it down.
    Started,
    /// Its code raised, or it could not be restored.
    Crashed {
        /// Why.
        crash: Crash,
        /// Whether it takes no events until it is started again; else it went on by itself.
        down: bool,
    },
    /// It failed too often on an event, which is a dead letter now.
    PassedOver {
        /// Origin and number of the event.
        event: (Origin, u64),
        /// Number of the letter.
        letter: u64,
        /// Tries at the event.
        attempts: u32,
    },
    /// It reports another health.
    HealthChanged {
        /// What it reports now.
        health: DaemonHealth,
    },
    /// It reports another load.
    SaturationChanged {
        /// 0 (idle) to 1 (full).
        saturation: f64,
    },
}

/// One signal of one daemon. `number` rises by one with each event of a registry, so a reader sees what it missed.
#[derive(Debug, Clone, PartialEq)]
pub struct DaemonLifecycleEvent {
    /// The daemon's handle.
    pub origin: Origin,
    /// Its label, for people.
    pub name: String,
    /// What happened.
    pub signal: DaemonLifecycleSignal,
    /// When, by the node's wall clock.
    pub at: UnixMs,
    /// Position in the registry's sequence of events, from 1.
    pub number: u64,
}

/// Smallest change of a reported load that is told.
pub const SATURATION_STEP: f64 = 0.05;

/// Decides whether a sample of health and load is news, compared with the last one told.
///
/// A load is clamped to 0..=1 and told when it moved by [`SATURATION_STEP`] or reached an end; a load that is not a
/// number is the caller's error and never gets here.
#[must_use]
pub fn changes(
    told: &(DaemonHealth, f64),
    health: &DaemonHealth,
    saturation: f64,
) -> (Option<DaemonLifecycleSignal>, Option<DaemonLifecycleSignal>) {
    let saturation = saturation.clamp(0.0, 1.0);
    let health_news = (told.0 != *health).then(|| DaemonLifecycleSignal::HealthChanged { health: health.clone() });
    let moved = (told.1 - saturation).abs();
    let reached_end = moved > 0.0 && (saturation == 0.0 || saturation == 1.0);
    let load_news =
        (moved >= SATURATION_STEP || reached_end).then_some(DaemonLifecycleSignal::SaturationChanged { saturation });
    (health_news, load_news)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_sample_is_no_news() {
        let told = (DaemonHealth::Healthy, 0.5);
        assert_eq!(changes(&told, &DaemonHealth::Healthy, 0.52), (None, None));
    }

    #[test]
    fn health_and_load_are_told_apart() {
        let told = (DaemonHealth::Healthy, 0.5);
        let sick = DaemonHealth::Unhealthy { reason: String::new() };
        let (health, load) = changes(&told, &sick, 0.5);
        assert_eq!(health, Some(DaemonLifecycleSignal::HealthChanged { health: sick }));
        assert_eq!(load, None);
        let (health, load) = changes(&told, &DaemonHealth::Healthy, 0.56);
        assert_eq!(health, None);
        assert_eq!(
            load,
            Some(DaemonLifecycleSignal::SaturationChanged { saturation: 0.56 })
        );
    }

    #[test]
    fn the_ends_are_always_told() {
        let told = (DaemonHealth::Healthy, 0.98);
        assert_eq!(
            changes(&told, &DaemonHealth::Healthy, 7.0).1,
            Some(DaemonLifecycleSignal::SaturationChanged { saturation: 1.0 })
        );
        let told = (DaemonHealth::Healthy, 1.0);
        assert_eq!(changes(&told, &DaemonHealth::Healthy, 1.0).1, None);
    }
}
