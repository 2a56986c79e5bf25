//! Which member of a queue group gets which event.

use std::collections::{BTreeMap, BTreeSet};

use meshos_core::channel_frame::Gap;
use meshos_core::id::EntityId;
use meshos_core::queue_group::{Action, QueueGroup, Signal, WINDOW};
use meshos_core::testing::random::SplitMix64;

fn id(number: u8) -> EntityId {
    EntityId::from_bytes([number; 32])
}

fn give(to: u8, term: u64, turn: u64, sequence: u64) -> Action {
    Action::Give {
        to: id(to),
        term,
        turn,
        sequence,
    }
}

fn welcome(to: u8, term: u64) -> Action {
    Action::Welcome { to: id(to), term }
}

fn lost(first: u64, last: u64) -> Action {
    Action::Lost(Gap { first, last })
}

fn taken(who: u8, term: u64, turn: u64) -> Signal {
    let who = id(who);
    Signal::Taken { who, term, turn }
}

/// Members 1 and 2 of a group that gets what comes after number 10.
fn group() -> QueueGroup {
    let mut group = QueueGroup::after(10, 0);
    assert_eq!(group.step(Signal::Joined(id(1))), [welcome(1, 1)]);
    assert_eq!(group.step(Signal::Joined(id(2))), [welcome(2, 2)]);
    group
}

#[test]
fn each_event_goes_to_one_member_in_turn() {
    let mut group = group();
    let actions = group.step(Signal::Published { last: 13 });
    assert_eq!(actions, [give(2, 2, 1, 11), give(1, 1, 1, 12), give(2, 2, 2, 13)]);
    assert_eq!(group.step(Signal::Published { last: 13 }), []);
    assert_eq!(group.step(Signal::Published { last: 12 }), []);
    assert_eq!(group.open(&id(2)).collect::<Vec<_>>(), [(1, 11), (2, 13)]);
    assert_eq!(group.step(taken(2, 2, 1)), []);
    assert_eq!(group.open(&id(2)).collect::<Vec<_>>(), [(2, 13)]);
}

/// Every signal, about who is a member and who is none.
#[test]
fn table() {
    let known = || {
        let mut group = group();
        let _ = group.step(Signal::Published { last: 13 });
        group
    };
    let mut found = known();
    assert_eq!(found.step(Signal::Joined(id(1))), [welcome(1, 1)]);
    assert_eq!(found, known());
    assert_eq!(known().step(Signal::Joined(id(3))), [welcome(3, 3)]);
    assert_eq!(
        known().step(Signal::Left(id(2))),
        [give(1, 1, 2, 11), give(1, 1, 3, 13)]
    );
    for late in [taken(3, 1, 1), taken(1, 9, 1), taken(1, 1, 2), Signal::Left(id(3))] {
        let mut found = known();
        assert_eq!(found.step(late), []);
        assert_eq!((found.ignored(), found.open(&id(1)).count()), (1, 1));
    }
    let mut found = known();
    assert_eq!(found.step(taken(1, 1, 1)), []);
    assert_eq!(found.step(taken(1, 1, 1)), []);
    assert_eq!((found.ignored(), found.open(&id(1)).count()), (0, 0));
    assert_eq!(known().step(Signal::Pruned { first: 12 }), []);
    let actions = known().step(Signal::Pruned { first: 20 });
    assert_eq!(actions, [lost(14, 19)]);
}

#[test]
fn a_member_has_a_window_and_the_rest_waits() {
    let window = u64::try_from(WINDOW).expect("small");
    let mut group = group();
    let actions = group.step(Signal::Published {
        last: 10 + 2 * window + 5,
    });
    assert_eq!(actions.len(), 2 * WINDOW);
    assert_eq!(group.step(taken(1, 1, 2)).len(), 2);
    assert_eq!(group.open(&id(1)).count(), WINDOW);
    // What waits and is gone meanwhile is counted.
    let first = 10 + 2 * window + 4;
    assert_eq!(group.step(Signal::Pruned { first }), [lost(first - 1, first - 1)]);
    assert_eq!(group.lost(), 1);
    assert_eq!(group.step(taken(2, 2, 64)).len(), 2);
}

#[test]
fn who_leaves_leaves_what_it_had_not_taken_to_others_first() {
    let mut group = group();
    let _ = group.step(Signal::Published { last: 14 });
    let _ = group.step(taken(2, 2, 1));
    let mut alone = group.clone();
    assert_eq!(group.step(Signal::Left(id(2))), [give(1, 1, 3, 13)]);
    // Who comes back begins a term of its own.
    assert_eq!(group.step(Signal::Joined(id(2))), [welcome(2, 3)]);
    assert_eq!(group.step(taken(2, 2, 9)), []);
    assert_eq!(group.ignored(), 1);
    assert_eq!(group.step(Signal::Published { last: 15 }), [give(2, 3, 1, 15)]);
    // With nobody left, what was not taken is lost to the group.
    assert_eq!(alone.step(Signal::Left(id(1))), [give(2, 2, 3, 12), give(2, 2, 4, 14)]);
    assert_eq!(alone.step(Signal::Left(id(2))), [lost(12, 14)]);
    assert!(alone.is_empty());
    assert_eq!(
        (alone.lost(), alone.step(Signal::Published { last: 20 }), alone.lost()),
        (3, vec![], 3)
    );
    assert_eq!(alone.step(Signal::Joined(id(4))), [welcome(4, 3)]);
    assert_eq!(alone.step(Signal::Published { last: 21 }), [give(4, 3, 1, 21)]);
}

/// A group, and what its members have.
struct Model {
    group: QueueGroup,
    last: u64,
    has: BTreeMap<EntityId, (u64, BTreeMap<u64, u64>)>,
    done: BTreeSet<u64>,
    missing: BTreeSet<u64>,
    seen: BTreeSet<u64>,
}

impl Model {
    fn step(&mut self, signal: Signal) {
        if let Signal::Left(who) = signal {
            self.has.remove(&who);
        }
        for action in self.group.step(signal) {
            match action {
                Action::Welcome { to, term } => {
                    let (known, _) = self.has.entry(to).or_insert((term, BTreeMap::new()));
                    assert_eq!(*known, term);
                }
                Action::Give {
                    to,
                    term,
                    turn,
                    sequence,
                } => {
                    let mut with = self.has.values().flat_map(|(_, open)| open.values());
                    assert!(with.all(|other| *other != sequence), "with two members");
                    assert!(!self.done.contains(&sequence) && !self.missing.contains(&sequence));
                    let (known, open) = self.has.get_mut(&to).expect("a member");
                    assert_eq!((*known, open.insert(turn, sequence)), (term, None));
                    assert!(open.len() <= WINDOW);
                    self.seen.insert(sequence);
                }
                Action::Lost(gap) => (gap.first..=gap.last).for_each(|number| {
                    assert!(self.missing.insert(number), "lost twice");
                }),
            }
        }
        for (who, (_, open)) in &self.has {
            let known = open.iter().map(|(turn, number)| (*turn, *number));
            assert!(self.group.open(who).eq(known));
        }
    }

    /// A member takes what it has up to the turn at a position.
    fn take(&mut self, who: EntityId, position: usize) {
        let Some((term, open)) = self.has.get_mut(&who) else {
            return;
        };
        let Some((&turn, _)) = open.iter().nth(position) else {
            return;
        };
        let rest = open.split_off(&(turn + 1));
        let taken = std::mem::replace(open, rest);
        assert!(
            taken.into_values().all(|number| self.done.insert(number)),
            "taken twice"
        );
        let term = *term;
        self.step(Signal::Taken { who, term, turn });
    }
}

/// Whatever members do: each event is with one at a time, and ends taken or lost.
#[test]
fn every_event_is_taken_once_or_counted_as_lost() {
    for seed in 0..50 {
        let mut random = SplitMix64::new(seed);
        let mut model = Model {
            group: QueueGroup::after(0, 0),
            last: 0,
            has: BTreeMap::new(),
            done: BTreeSet::new(),
            missing: BTreeSet::new(),
            seen: BTreeSet::new(),
        };
        for _ in 0..300 {
            let who = id(u8::try_from(random.below(5)).expect("small"));
            let some = u64::try_from(random.below(30)).expect("small");
            match random.below(40) {
                0..=4 => model.step(Signal::Joined(who)),
                5..=6 => model.step(Signal::Left(who)),
                7 => model.step(Signal::Pruned {
                    first: model.last.saturating_sub(some).max(1),
                }),
                8..=24 => model.take(who, random.below(WINDOW)),
                _ => {
                    model.last += some;
                    let last = model.last;
                    model.step(Signal::Published { last });
                }
            }
        }
        model.step(Signal::Joined(id(0)));
        while let Some((who, open)) = model.has.iter().find(|(_, (_, open))| !open.is_empty()) {
            let (who, all) = (*who, open.1.len());
            model.take(who, all - 1);
        }
        let ended: BTreeSet<u64> = model.done.union(&model.missing).copied().collect();
        assert!(model.seen.is_subset(&ended), "seed {seed}");
        assert!(model.done.is_disjoint(&model.missing), "seed {seed}");
        assert_eq!(model.group.lost(), model.missing.len() as u64);
        assert!(model.done.len() > 50, "seed {seed}: {}", model.done.len());
    }
}
