//! Scorers: user code that says how good a node is for a copy of a chain.
//!
//! Invariants
//! * What a scorer raises, and a number that is not finite, is no opinion.
//! * A pass keeps the scorer it began with.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use meshos_core::command::ChainId;
use meshos_core::finite::Finite;
use meshos_core::id::NodeId;
use meshos_core::placement::ScoreRequest;
use meshos_core::signal::Scored;

use crate::callback::{CallFailed, Callback};

/// What moving a copy would cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MigrationCost {
    /// Time to copy.
    pub state_transfer: Duration,
    /// Time in which the copy is of no use.
    pub disruption: Duration,
    /// Weight of both; one that is not positive and finite counts as 1.
    pub reliability_factor: f64,
}

impl Default for MigrationCost {
    fn default() -> Self {
        Self {
            state_transfer: Duration::ZERO,
            disruption: Duration::ZERO,
            reliability_factor: 1.0,
        }
    }
}

impl MigrationCost {
    /// The cost as a score, when a second costs `cost_per_sec`.
    #[must_use]
    pub fn score_equivalent(&self, cost_per_sec: Finite) -> Finite {
        let weight = self.reliability_factor;
        let weight = if weight.is_finite() && weight > 0.0 {
            weight
        } else {
            1.0
        };
        let seconds = self.state_transfer.as_secs_f64() + self.disruption.as_secs_f64();
        let cost = Finite::new(cost_per_sec.get() * seconds * weight);
        cost.unwrap_or_else(|| Finite::new(f64::MAX).expect("a literal"))
    }
}

/// Scores nodes for chains, 0 to 1. `None` is no opinion.
pub trait PlacementScorer: Any + Send + Sync {
    /// How good a node is for a chain.
    ///
    /// # Errors
    /// What it raised.
    fn score(&self, chain: ChainId, node: NodeId) -> Result<Option<f64>, CallFailed>;

    /// The best node that is not excluded, and its score.
    ///
    /// # Errors
    /// What it raised.
    fn best_alternative(&self, chain: ChainId, exclude: &[NodeId]) -> Result<Option<(NodeId, f64)>, CallFailed>;

    /// The score without any cache.
    ///
    /// # Errors
    /// What it raised.
    fn live_score(&self, chain: ChainId, node: NodeId) -> Result<Option<f64>, CallFailed> {
        self.score(chain, node)
    }

    /// A number that changes with whatever the score of a node depends on. `None`: it may have changed.
    ///
    /// # Errors
    /// What it raised.
    fn node_fingerprint(&self, _node: NodeId) -> Result<Option<u64>, CallFailed> {
        Ok(None)
    }

    /// What moving a copy to `target` would cost.
    ///
    /// # Errors
    /// What it raised.
    fn migration_cost(&self, _chain: ChainId, _target: NodeId) -> Result<Option<MigrationCost>, CallFailed> {
        Ok(None)
    }

    /// Calls `pass`, which asks all questions of one pass, so that what they share is done once.
    fn batch(&self, pass: &mut dyn FnMut()) {
        pass();
    }

    /// Its name, for people.
    fn name(&self) -> &str;
}

/// The slot of the active scorer; a clone is the same slot.
#[derive(Clone, Default)]
pub struct SchedulerRegistry {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    scorer: Mutex<Option<Arc<dyn PlacementScorer>>>,
    changes: AtomicU64,
}

impl SchedulerRegistry {
    /// An empty slot.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses `scorer` from the next pass on; returns the one before.
    pub fn install(&self, scorer: Arc<dyn PlacementScorer>) -> Option<Arc<dyn PlacementScorer>> {
        self.replace(Some(scorer))
    }

    /// Empties the slot; returns what was in it.
    pub fn take(&self) -> Option<Arc<dyn PlacementScorer>> {
        self.replace(None)
    }

    fn replace(&self, scorer: Option<Arc<dyn PlacementScorer>>) -> Option<Arc<dyn PlacementScorer>> {
        let previous = std::mem::replace(&mut *self.shared.scorer.lock(), scorer);
        self.shared.changes.fetch_add(1, Ordering::Relaxed);
        previous
    }

    /// The active scorer.
    #[must_use]
    pub fn current(&self) -> Option<Arc<dyn PlacementScorer>> {
        self.shared.scorer.lock().clone()
    }

    /// Shows the active scorer to `look`, which must neither call user code nor this registry; shows none when another
    /// thread holds the lock.
    pub fn peek(&self, look: impl FnOnce(&dyn PlacementScorer)) {
        if let Some(slot) = self.shared.scorer.try_lock() {
            slot.as_deref().map(look);
        }
    }

    /// Whether there is one.
    #[must_use]
    pub fn has_scorer(&self) -> bool {
        self.shared.scorer.lock().is_some()
    }

    /// Rises when another scorer was installed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Relaxed)
    }
}

/// Asks a scorer, on this thread; each of its calls has the budget.
#[must_use]
pub fn score(scorer: &dyn PlacementScorer, callback: &Callback, budget: Duration, request: &ScoreRequest) -> Scored {
    in_one_pass(scorer, || ask_for_scores(scorer, callback, budget, request))
}

fn ask_for_scores(
    scorer: &dyn PlacementScorer,
    callback: &Callback,
    budget: Duration,
    request: &ScoreRequest,
) -> Scored {
    let chain = request.chain;
    let of_holder = |node: &NodeId| {
        let score = ask(callback, budget, || {
            if request.live {
                scorer.live_score(chain, *node)
            } else {
                scorer.score(chain, *node)
            }
        });
        Some((*node, Finite::new(score?)?))
    };
    let holders = request.holders.iter().filter_map(of_holder).collect();
    let best = ask(callback, budget, || {
        let best = scorer.best_alternative(chain, &request.exclude)?;
        match best {
            Some((node, _)) if request.exclude.contains(&node) => Err(CallFailed::new(format!(
                "best_alternative gave node {}, which is excluded",
                node.get()
            ))),
            best => Ok(best),
        }
    });
    let best = best.and_then(|(node, score)| Some((node, Finite::new(score)?)));
    let cost = best.and_then(|(target, _)| ask(callback, budget, || scorer.migration_cost(chain, target)));
    Scored {
        chain,
        holders,
        best,
        cost: cost.map(|cost| cost.score_equivalent(request.cost_per_sec)),
        live: request.live,
    }
}

/// Asks a scorer whether nodes changed, on this thread; each of its calls has the budget.
#[must_use]
pub fn fingerprints(
    scorer: &dyn PlacementScorer,
    callback: &Callback,
    budget: Duration,
    nodes: &[NodeId],
) -> Vec<(NodeId, Option<u64>)> {
    let of_node = |node: &NodeId| (*node, ask(callback, budget, || scorer.node_fingerprint(*node)));
    in_one_pass(scorer, || nodes.iter().map(of_node).collect())
}

fn in_one_pass<R>(scorer: &dyn PlacementScorer, ask: impl FnOnce() -> R) -> R {
    let mut ask = Some(ask);
    let mut answer = None;
    scorer.batch(&mut || {
        if let Some(ask) = ask.take() {
            answer = Some(ask());
        }
    });
    answer.expect("a scorer calls the pass")
}

fn ask<R>(callback: &Callback, budget: Duration, body: impl FnOnce() -> Result<Option<R>, CallFailed>) -> Option<R> {
    callback.run(Instant::now(), budget, body)?.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshos_core::status::Part;

    const BUDGET: Duration = Duration::from_secs(60);

    fn finite(value: f64) -> Finite {
        Finite::new(value).expect("finite")
    }

    fn node(raw: u64) -> NodeId {
        NodeId::new(raw)
    }

    /// Scores node 1 with 0.25, node 2 not, node 3 with a number that is none, node 4 without end; raises for others.
    struct Table;

    impl PlacementScorer for Table {
        fn score(&self, _chain: ChainId, node: NodeId) -> Result<Option<f64>, CallFailed> {
            match node.get() {
                1 => Ok(Some(0.25)),
                2 => Ok(None),
                3 => Ok(Some(f64::NAN)),
                4 => Ok(Some(f64::INFINITY)),
                _ => Err(CallFailed::new("not known")),
            }
        }

        fn best_alternative(&self, chain: ChainId, exclude: &[NodeId]) -> Result<Option<(NodeId, f64)>, CallFailed> {
            let best = if chain.get() == 1 { node(9) } else { exclude[0] };
            Ok(Some((best, 0.75)))
        }

        fn live_score(&self, _chain: ChainId, _node: NodeId) -> Result<Option<f64>, CallFailed> {
            Ok(Some(1.0))
        }

        fn node_fingerprint(&self, node: NodeId) -> Result<Option<u64>, CallFailed> {
            match node.get() {
                1 => Ok(Some(7)),
                2 => Ok(None),
                _ => std::panic::resume_unwind(Box::new("on purpose")),
            }
        }

        fn migration_cost(&self, _chain: ChainId, _target: NodeId) -> Result<Option<MigrationCost>, CallFailed> {
            let state_transfer = Duration::from_secs(5);
            Ok(Some(MigrationCost {
                state_transfer,
                ..MigrationCost::default()
            }))
        }

        fn name(&self) -> &'static str {
            "Table"
        }
    }

    fn request(chain: u64, live: bool) -> ScoreRequest {
        ScoreRequest {
            chain: ChainId::new(chain),
            holders: (1..=5).map(node).collect(),
            exclude: (1..=5).map(node).collect(),
            live,
            cost_per_sec: finite(0.1),
        }
    }

    #[test]
    fn what_is_raised_or_not_finite_is_no_opinion() {
        let callback = Callback::new("Table", Part::Callback);
        let scored = score(&Table, &callback, BUDGET, &request(1, false));
        assert_eq!(scored.holders, [(node(1), finite(0.25))]);
        assert_eq!(scored.best, Some((node(9), finite(0.75))));
        assert_eq!(scored.cost, Some(finite(0.5)));
        assert_eq!(callback.status(Instant::now(), BUDGET).failures, 1);
    }

    #[test]
    fn a_best_alternative_that_is_excluded_is_none() {
        let callback = Callback::new("Table", Part::Callback);
        let scored = score(&Table, &callback, BUDGET, &request(2, false));
        assert_eq!((scored.best, scored.cost), (None, None));
        let error = callback.status(Instant::now(), BUDGET).last_error;
        assert_eq!(
            error.as_deref(),
            Some("best_alternative gave node 1, which is excluded")
        );
    }

    #[test]
    fn a_live_question_asks_for_live_scores() {
        let callback = Callback::new("Table", Part::Callback);
        let scored = score(&Table, &callback, BUDGET, &request(1, true));
        assert!(scored.live);
        assert_eq!(scored.holders.len(), 5);
    }

    #[test]
    fn a_fingerprint_that_panics_is_none() {
        let callback = Callback::new("Table", Part::Callback);
        let nodes = [node(1), node(2), node(3)];
        let said = fingerprints(&Table, &callback, BUDGET, &nodes);
        assert_eq!(said, [(node(1), Some(7)), (node(2), None), (node(3), None)]);
    }

    #[test]
    fn the_cost_rises_with_each_of_its_parts() {
        let second = Duration::from_secs(1);
        let cost = |state_transfer, disruption, reliability_factor, per_sec| {
            let cost = MigrationCost {
                state_transfer,
                disruption,
                reliability_factor,
            };
            cost.score_equivalent(finite(per_sec)).get()
        };
        assert!((cost(2 * second, 3 * second, 1.0, 0.1) - 0.5).abs() < 1e-12);
        assert!(cost(3 * second, 3 * second, 1.0, 0.1) > cost(2 * second, 3 * second, 1.0, 0.1));
        assert!(cost(2 * second, 4 * second, 1.0, 0.1) > cost(2 * second, 3 * second, 1.0, 0.1));
        assert!(cost(2 * second, 3 * second, 1.5, 0.1) > cost(2 * second, 3 * second, 1.0, 0.1));
        assert!(cost(2 * second, 3 * second, 1.0, 0.2) > cost(2 * second, 3 * second, 1.0, 0.1));
    }

    #[test]
    fn a_weight_that_makes_no_sense_is_one() {
        let cost = |reliability_factor| {
            let cost = MigrationCost {
                state_transfer: Duration::from_secs(1),
                reliability_factor,
                ..MigrationCost::default()
            };
            cost.score_equivalent(finite(0.5))
        };
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(cost(weight), finite(0.5), "{weight}");
        }
        assert_eq!(cost(f64::MAX).get(), f64::MAX / 2.0);
        assert!((MigrationCost::default().reliability_factor - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_slot_gives_back_what_was_in_it() {
        let registry = SchedulerRegistry::new();
        let same = registry.clone();
        assert!(!registry.has_scorer());
        let first: Arc<dyn PlacementScorer> = Arc::new(Table);
        assert!(registry.install(Arc::clone(&first)).is_none());
        let known = same.changes();
        assert!(same.has_scorer());
        let previous = registry.install(Arc::new(Table)).expect("the first");
        assert!(Arc::ptr_eq(&previous, &first));
        assert!(same.changes() > known);
        assert!(same.take().is_some());
        assert!(registry.current().is_none());
    }
}
