//! A network that goes wrong, over virtual time: it loses, delays, repeats and reorders messages, and falls apart. One seed
//! gives one run.
//!
//! Who simulates takes [`Network::take_next`] for as long as there is one, and goes on at the time that it says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::random::SplitMix64;

/// How often things go wrong, each in 1000, and how long messages take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// A message is lost.
    pub loss: u16,
    /// It arrives twice, each time after a delay of its own.
    pub duplicate: u16,
    /// It takes up to [`Faults::late_max`].
    pub late: u16,
    /// The shortest delay.
    pub delay_min: Duration,
    /// The longest delay of a message that is not late. Messages overtake each other within it.
    pub delay_max: Duration,
    /// The longest delay of one that is.
    pub late_max: Duration,
    /// Messages on their way to one node; more are refused.
    pub queue_max: usize,
}

impl Faults {
    /// Nothing goes wrong, and messages keep their order.
    pub const CALM: Self = Self {
        loss: 0,
        duplicate: 0,
        late: 0,
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(1),
        late_max: Duration::from_millis(1),
        queue_max: usize::MAX,
    };
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss: 80,
            duplicate: 80,
            late: 20,
            delay_min: Duration::from_micros(200),
            delay_max: Duration::from_millis(5),
            late_max: Duration::from_millis(600),
            queue_max: 512,
        }
    }
}

/// What became of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Handed in.
    pub sent: u64,
    /// Arrived.
    pub delivered: u64,
    /// Lost.
    pub lost: u64,
    /// Repeated.
    pub duplicated: u64,
    /// Arrived before one that was sent earlier to the same node.
    pub overtook: u64,
    /// Sent across a cut.
    pub cut: u64,
    /// Refused, since too many were on their way.
    pub refused: u64,
}

/// A message that arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival<M> {
    /// When.
    pub at: Duration,
    /// Which node sent it.
    pub from: usize,
    /// Where it arrives.
    pub to: usize,
    /// The message.
    pub message: M,
}

/// A network of numbered nodes.
#[derive(Debug, Clone)]
pub struct Network<M> {
    faults: Faults,
    random: SplitMix64,
    /// By time of arrival, then by the order of sending.
    flying: BTreeMap<(Duration, u64), (usize, usize, M)>,
    sent: u64,
    waiting: Vec<usize>,
    newest: Vec<u64>,
    cuts: BTreeSet<(usize, usize)>,
    counters: Counters,
}

impl<M: Clone> Network<M> {
    /// A network of so many nodes; everything that goes wrong follows from the seed.
    #[must_use]
    pub fn new(nodes: usize, seed: u64, faults: Faults) -> Self {
        Self {
            faults,
            random: SplitMix64::new(seed),
            flying: BTreeMap::new(),
            sent: 0,
            waiting: vec![0; nodes],
            newest: vec![0; nodes],
            cuts: BTreeSet::new(),
            counters: Counters::default(),
        }
    }

    /// What became of messages so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sends a message.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn send(&mut self, now: Duration, from: usize, to: usize, message: M) {
        self.counters.sent += 1;
        if self.cuts.contains(&(from, to)) {
            self.counters.cut += 1;
        } else if self.happens(self.faults.loss) {
            self.counters.lost += 1;
        } else {
            if self.happens(self.faults.duplicate) {
                self.counters.duplicated += 1;
                self.fly(now, from, to, message.clone());
            }
            self.fly(now, from, to, message);
        }
    }

    fn fly(&mut self, now: Duration, from: usize, to: usize, message: M) {
        if self.waiting[to] >= self.faults.queue_max {
            self.counters.refused += 1;
            return;
        }
        let Faults {
            delay_min,
            delay_max,
            late_max,
            ..
        } = self.faults;
        let longest = if self.happens(self.faults.late) {
            late_max
        } else {
            delay_max
        };
        let spread = usize::try_from(longest.saturating_sub(delay_min).as_micros()).unwrap_or(usize::MAX);
        let extra = self.random.below(spread.saturating_add(1));
        let at = now + delay_min + Duration::from_micros(extra as u64);
        self.put(at, from, to, message);
    }

    fn put(&mut self, at: Duration, from: usize, to: usize, message: M) {
        self.sent += 1;
        self.waiting[to] += 1;
        self.flying.insert((at, self.sent), (from, to, message));
    }

    /// Puts an arrival off: its node does not look at it before.
    pub fn postpone(&mut self, arrival: Arrival<M>, until: Duration) {
        self.counters.delivered -= 1;
        self.put(until, arrival.from, arrival.to, arrival.message);
    }

    /// Has a node hear a message again, which arrived already.
    pub fn put_off(&mut self, until: Duration, from: usize, to: usize, message: M) {
        self.put(until, from, to, message);
    }

    /// When the next message arrives.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.flying.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next message that arrives.
    pub fn take_next(&mut self) -> Option<Arrival<M>> {
        let ((at, order), (from, to, message)) = self.flying.pop_first()?;
        self.waiting[to] -= 1;
        self.counters.delivered += 1;
        if order < self.newest[to] {
            self.counters.overtook += 1;
        }
        self.newest[to] = self.newest[to].max(order);
        Some(Arrival { at, from, to, message })
    }

    /// Cuts a group of nodes off from all others, in both directions or in one.
    pub fn cut(&mut self, group: &[usize], both: bool) {
        for node in 0..self.waiting.len() {
            for member in group.iter().copied().filter(|_| !group.contains(&node)) {
                self.cuts.insert((member, node));
                if both {
                    self.cuts.insert((node, member));
                }
            }
        }
    }

    /// Ends all cuts.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// From now on nothing goes wrong. What is on its way arrives when it does.
    pub fn calm(&mut self) {
        self.heal();
        self.faults = Faults::CALM;
    }

    fn happens(&mut self, in_1000: u16) -> bool {
        in_1000 > 0 && self.random.below(1000) < usize::from(in_1000)
    }
}
