//! Back-pressure: asserted when much waits, released when little does.

use crate::finite::Share;
use crate::world::World;

use super::Executor;

/// A change of level below this is no news.
const LEVEL_STEP: f64 = 0.1;

impl Executor {
    /// Decides whether back-pressure is asserted; tells an edge, or a level that moved.
    pub fn pressure(&mut self, world: &World) -> Option<Option<Share>> {
        let config = &world.config.backpressure;
        let depth = self.depth();
        // A threshold above the capacity could never be reached.
        let capacity = world.config.action_queue_capacity as usize;
        let high = (config.cluster_backpressure_threshold as usize).min(capacity);
        let low = (config.cluster_backpressure_release as usize).min(high - 1);
        let over = depth.saturating_sub(low) as f64;
        let level = Share::new(over / (capacity.max(high) - low) as f64).unwrap_or_default();
        match self.asserted {
            None if depth >= high => {
                self.asserted = Some(level);
                self.stats.cluster_backpressure_asserts += 1;
                Some(Some(level))
            }
            Some(_) if depth <= low => {
                self.asserted = None;
                self.stats.cluster_backpressure_releases += 1;
                Some(None)
            }
            Some(told) if (level.get() - told.get()).abs() >= LEVEL_STEP => {
                self.asserted = Some(level);
                Some(Some(level))
            }
            _ => None,
        }
    }
}
