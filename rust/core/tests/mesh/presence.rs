//! Presence: every pair of state and signal, and what a group of nodes makes of a bad network.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use meshos_core::capability::CapabilitySet;
use meshos_core::frame::Refusal;
use meshos_core::heartbeat::{Beat, Echo, Heartbeat};
use meshos_core::id::EntityId;
use meshos_core::presence::{Action, Event, Members, PeerState, Presence, PresenceConfig, Signal, next};
use meshos_core::testing::meshes;
use meshos_core::testing::random::SplitMix64;
use meshos_core::testing::samples::keypair;

use PeerState::{Alive, Dead, Suspect};

const STATES: [Option<PeerState>; 4] = [None, Some(Alive), Some(Suspect), Some(Dead)];
const EVENTS: [Event; 7] = [
    Event::Next,
    Event::NewRun,
    Event::Repeated,
    Event::OldRun,
    Event::Left,
    Event::Silent,
    Event::Gone,
];
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_pair_of_state_and_event_is_decided() {
    let (alive, suspect, dead) = (Ok(Some(Alive)), Ok(Some(Suspect)), Ok(Some(Dead)));
    let (replayed, old) = (Err(Refusal::Replayed), Err(Refusal::OtherRun));
    let table = [
        [alive, alive, replayed, old, Ok(None), Ok(None), Ok(None)],
        [alive, alive, replayed, old, suspect, suspect, dead],
        [alive, alive, replayed, old, suspect, suspect, dead],
        [alive, alive, replayed, old, dead, dead, dead],
    ];
    for (state, row) in STATES.into_iter().zip(table) {
        for (event, wanted) in EVENTS.into_iter().zip(row) {
            assert_eq!(next(state, event), wanted, "{state:?} {event:?}");
        }
    }
}

static ENTITIES: LazyLock<Vec<EntityId>> =
    LazyLock::new(|| (0..=u8::MAX).map(|byte| keypair(byte).entity_id()).collect());

static HEARTBEAT: LazyLock<Heartbeat> = LazyLock::new(meshes::heartbeat);

fn entity(byte: u8) -> EntityId {
    ENTITIES[usize::from(byte)]
}

fn config() -> PresenceConfig {
    PresenceConfig {
        jitter: 0.0,
        ..PresenceConfig::default()
    }
}

fn beat(from: u8, run: u64, counter: u64) -> Arc<Beat> {
    Arc::new(Beat {
        from: entity(from),
        node: entity(from).node_id(),
        run,
        counter,
        heartbeat: HEARTBEAT.clone(),
    })
}

fn fresh(config: PresenceConfig) -> Presence {
    Presence::new(config, entity(1).node_id(), 5, Members::Anybody)
}

fn changes(actions: &[Action]) -> Vec<(Option<PeerState>, PeerState)> {
    let change = |action: &Action| match action {
        Action::Changed { from, to, .. } => Some((*from, *to)),
        _ => None,
    };
    actions.iter().filter_map(change).collect()
}

/// A presence that has peer 2 in a state, heard in run 5 under counter 10 at 1 s.
fn with(state: Option<PeerState>) -> Presence {
    let mut presence = fresh(config());
    presence.step(Duration::ZERO, Signal::Turn);
    let Some(state) = state else { return presence };
    presence.step(SECOND, Signal::Heard(beat(2, 5, 10)));
    if state != Alive {
        presence.step(SECOND, Signal::Left(entity(2)));
    }
    if state == Dead {
        while presence.due() <= SECOND * 11 {
            presence.step(presence.due(), Signal::Turn);
        }
    }
    assert_eq!(presence.peer(&entity(2)).map(|peer| peer.state), Some(state));
    presence
}

#[test]
fn every_pair_of_state_and_signal_has_its_effect() {
    let now = Duration::from_millis(11_001);
    for state in STATES {
        let known = state.is_some();
        let alive = |greets: bool| {
            let mut wanted = vec![];
            wanted.extend(greets.then(|| Action::Greet(entity(2))));
            wanted.extend((state != Some(Alive)).then(|| Action::Changed {
                node: entity(2).node_id(),
                from: state,
                to: Alive,
            }));
            wanted
        };
        let refused = |refusal| vec![Action::Refuse(refusal)];
        let cases = [
            (beat(2, 5, 11), alive(!known)),
            (beat(2, 6, 1), alive(true)),
            (
                beat(2, 5, 10),
                if known { refused(Refusal::Replayed) } else { alive(true) },
            ),
            (
                beat(2, 5, 9),
                if known { refused(Refusal::Replayed) } else { alive(true) },
            ),
            (
                beat(2, 4, 99),
                if known { refused(Refusal::OtherRun) } else { alive(true) },
            ),
            (beat(1, 5, 1), refused(Refusal::Ourselves)),
        ];
        for (beat, wanted) in cases {
            let mut presence = with(state);
            let before = presence.peers().clone();
            assert_eq!(
                presence.step(now, Signal::Heard(Arc::clone(&beat))),
                wanted,
                "{state:?} {beat:?}"
            );
            if matches!(wanted[..], [Action::Refuse(_)]) {
                assert_eq!(presence.peers(), &before, "a refusal has no effect");
            } else {
                let peer = presence.peer(&entity(2)).expect("it was heard");
                assert_eq!((peer.state, peer.heard, &peer.beat), (Alive, now, &beat));
            }
        }
        let mut presence = with(state);
        let left = changes(&presence.step(now, Signal::Left(entity(2))));
        assert_eq!(
            left,
            if state == Some(Alive) {
                vec![(state, Suspect)]
            } else {
                vec![]
            }
        );
        let mut presence = with(state);
        assert!(presence.step(now, Signal::Announce(Arc::default())).is_empty());
        assert!(presence.due() <= now + SECOND / 10);
    }
}

#[test]
fn silence_makes_suspect_then_dead_and_a_heartbeat_alive_again() {
    let mut presence = fresh(config());
    let mut seen = Vec::new();
    presence.step(Duration::ZERO, Signal::Turn);
    presence.step(Duration::ZERO, Signal::Heard(beat(2, 5, 1)));
    while presence.due() <= SECOND * 12 {
        let now = presence.due();
        let actions = presence.step(now, Signal::Turn);
        seen.extend(changes(&actions).into_iter().map(|(_, to)| (now, to)));
    }
    assert_eq!(seen, [(SECOND * 3, Suspect), (SECOND * 10, Dead)]);
    let back = presence.step(SECOND * 13, Signal::Heard(beat(2, 5, 2)));
    assert_eq!(changes(&back), [(Some(Dead), Alive)]);
}

#[test]
fn who_was_held_up_itself_blames_nobody() {
    let mut presence = fresh(config());
    presence.step(Duration::ZERO, Signal::Turn);
    presence.step(Duration::ZERO, Signal::Heard(beat(2, 5, 1)));
    // It should have had a turn after a second, and has it after 30.
    assert!(changes(&presence.step(SECOND * 30, Signal::Turn)).is_empty());
    assert_eq!(presence.stats().stalls, 1);
    let mut seen = Vec::new();
    while seen.is_empty() {
        let now = presence.due();
        seen.extend(
            changes(&presence.step(now, Signal::Turn))
                .into_iter()
                .map(|(_, to)| (now, to)),
        );
    }
    // One second of its silence was before; the other two are after.
    assert_eq!(seen, [(SECOND * 32, Suspect)]);
}

#[test]
fn peers_are_bounded_and_the_longest_dead_gives_way() {
    let small = PresenceConfig {
        peers_max: 2,
        ..config()
    };
    let mut presence = fresh(small);
    presence.step(Duration::ZERO, Signal::Heard(beat(2, 5, 1)));
    presence.step(SECOND / 2, Signal::Heard(beat(3, 5, 1)));
    let crowded = vec![Action::Refuse(Refusal::Crowded)];
    assert_eq!(presence.step(SECOND / 2, Signal::Heard(beat(4, 5, 1))), crowded);
    while presence.due() <= SECOND * 11 {
        let now = presence.due();
        presence.step(now, Signal::Turn);
    }
    assert_eq!(
        changes(&presence.step(SECOND * 11, Signal::Heard(beat(4, 5, 1)))),
        [(None, Alive)]
    );
    assert!(presence.peer(&entity(2)).is_none() && presence.peer(&entity(3)).is_some());
    assert_eq!((presence.peers().len(), presence.stats().replaced), (2, 1));
}

#[test]
fn only_members_are_heard() {
    let listed = Members::Listed(Arc::new([entity(1), entity(2)].into()));
    let mut presence = Presence::new(config(), entity(1).node_id(), 5, listed);
    let refused = vec![Action::Refuse(Refusal::UnknownSender)];
    assert_eq!(presence.step(SECOND, Signal::Heard(beat(3, 5, 1))), refused);
    assert_eq!(
        changes(&presence.step(SECOND, Signal::Heard(beat(2, 5, 1)))),
        [(None, Alive)]
    );
}

#[test]
fn the_full_id_decides_who_a_peer_is() {
    let mut presence = with(Some(Alive));
    let mut impostor = (*beat(2, 9, 9)).clone();
    impostor.from = entity(3);
    let actions = presence.step(SECOND * 2, Signal::Heard(Arc::new(impostor)));
    assert_eq!(actions, [Action::Refuse(Refusal::UnknownSender)]);
}

#[test]
fn many_nodes_beat_more_rarely_and_who_announces_often_does_not_flood() {
    let mut presence = fresh(config());
    for byte in 2..=200 {
        presence.step(Duration::ZERO, Signal::Heard(beat(byte, 5, 1)));
    }
    assert_eq!(presence.interval(), SECOND * 199 / 30);
    presence.step(Duration::ZERO, Signal::Turn);
    let mut beats = 0;
    for millis in 0..1000 {
        let now = Duration::from_millis(millis);
        presence.step(now, Signal::Announce(Arc::default()));
        let actions = presence.step(now, Signal::Turn);
        beats += actions
            .iter()
            .filter(|action| matches!(action, Action::Beat { .. }))
            .count();
    }
    assert!((9..=10).contains(&beats), "{beats}");
}

/// A group of nodes over a network that loses, repeats, delays and divides; one seed gives one run.
struct Group {
    nodes: BTreeMap<u8, (Presence, Duration)>,
    flying: BTreeMap<(Duration, u64), (u8, Arc<Beat>)>,
    random: SplitMix64,
    /// Each in 100.
    losses: usize,
    repeats: usize,
    /// Nodes that hear nobody of the others.
    apart: Vec<u8>,
    /// Nodes that stand still.
    paused: Vec<u8>,
    now: Duration,
    sent: u64,
    changes: Vec<(Duration, u8, PeerState)>,
}

impl Group {
    fn new(seed: u64, count: u8) -> Self {
        let node = |byte: u8| {
            let config = PresenceConfig {
                seed: seed ^ u64::from(byte),
                ..PresenceConfig::default()
            };
            let presence = Presence::new(config, entity(byte).node_id(), 5, Members::Anybody);
            (byte, (presence, Duration::ZERO))
        };
        Self {
            nodes: (1..=count).map(node).collect(),
            flying: BTreeMap::new(),
            random: SplitMix64::new(seed),
            losses: 0,
            repeats: 0,
            apart: Vec::new(),
            paused: Vec::new(),
            now: Duration::ZERO,
            sent: 0,
            changes: Vec::new(),
        }
    }

    fn run_until(&mut self, end: Duration) {
        loop {
            let turn = self.nodes.iter().filter(|(byte, _)| !self.paused.contains(byte));
            let turn = turn
                .map(|(byte, (presence, _))| (presence.due().max(self.now), *byte))
                .min();
            let arrival = self.flying.keys().next().copied();
            match (turn, arrival) {
                (_, Some((at, number))) if at <= end && turn.is_none_or(|(due, _)| at <= due) => {
                    self.now = at;
                    let (to, beat) = self.flying.remove(&(at, number)).expect("it is first");
                    if !self.paused.contains(&to) {
                        self.step(to, Signal::Heard(beat));
                    }
                }
                (Some((due, byte)), _) if due <= end => {
                    self.now = due;
                    self.step(byte, Signal::Turn);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn step(&mut self, byte: u8, signal: Signal) {
        let now = self.now;
        let actions = self.nodes.get_mut(&byte).expect("a node").0.step(now, signal);
        for action in actions {
            match action {
                Action::Beat {
                    counter,
                    interval_ms,
                    echoes,
                    capabilities,
                } => {
                    let mut beat = (*beat(byte, 5, counter)).clone();
                    beat.heartbeat.interval_ms = interval_ms;
                    beat.heartbeat.echoes = echoes;
                    beat.heartbeat.capabilities = capabilities;
                    self.send(byte, &Arc::new(beat));
                }
                Action::Changed { node, to, .. } => {
                    let of = (1..=200).find(|byte| entity(*byte).node_id() == node).expect("a node");
                    self.changes.push((now, of, to));
                }
                Action::Greet(_) => {}
                Action::Refuse(refusal) => assert_eq!(refusal, Refusal::Replayed),
            }
        }
    }

    fn send(&mut self, from: u8, beat: &Arc<Beat>) {
        for to in self.nodes.keys().copied().filter(|to| *to != from).collect::<Vec<_>>() {
            if self.apart.contains(&from) != self.apart.contains(&to) {
                continue;
            }
            let copies = match self.random.below(100) {
                chance if chance < self.losses => 0,
                chance if chance < self.losses + self.repeats => 2,
                _ => 1,
            };
            for _ in 0..copies {
                let delay = Duration::from_micros(500 + self.random.below(1_000) as u64);
                self.sent += 1;
                self.flying
                    .insert((self.now + delay, self.sent), (to, Arc::clone(beat)));
            }
        }
    }

    fn states(&self, of: u8) -> Vec<PeerState> {
        let others = self.nodes.iter().filter(|(byte, _)| **byte != of);
        others
            .filter_map(|(_, (presence, _))| Some(presence.peer(&entity(of))?.state))
            .collect()
    }
}

#[test]
fn a_group_finds_itself_also_over_a_bad_network_and_blames_nobody() {
    for seed in 0..200 {
        let mut group = Group::new(seed, 5);
        (group.losses, group.repeats) = (10, 20);
        group.run_until(SECOND * 60);
        assert!(group.changes.iter().all(|(_, _, to)| *to != Dead), "seed {seed}");
        group.losses = 0;
        group.run_until(SECOND * 65);
        for byte in 1..=5 {
            assert_eq!(group.states(byte), [Alive; 4], "seed {seed}");
            // A round trip is twice a delay of 0.5 to 1.5 ms.
            let (presence, _) = &group.nodes[&byte];
            let trips = presence.peers().values().map(|peer| peer.rtt.expect("it was measured"));
            assert!(
                trips.into_iter().all(|rtt| (900..3_100).contains(&rtt.as_micros())),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn a_divided_group_calls_the_other_side_dead_in_time_and_finds_it_again() {
    for seed in 0..100 {
        let mut group = Group::new(seed, 4);
        group.run_until(SECOND * 20);
        group.apart = vec![4];
        group.run_until(SECOND * 32);
        assert_eq!(group.states(4), [Dead; 3], "seed {seed}");
        let of_four: Vec<_> = group
            .changes
            .iter()
            .filter(|(at, of, _)| *of == 4 && *at > SECOND * 20)
            .collect();
        assert!(
            of_four[..3]
                .iter()
                .all(|(at, _, to)| *to == Suspect && *at < SECOND * 24),
            "seed {seed}"
        );
        group.apart.clear();
        group.run_until(SECOND * 34);
        (1..=4).for_each(|byte| assert_eq!(group.states(byte), [Alive; 3], "seed {seed}"));
    }
}

#[test]
fn a_node_that_stands_still_is_suspect_and_comes_back_without_blaming_others() {
    for seed in 0..100 {
        let mut group = Group::new(seed, 4);
        group.run_until(SECOND * 20);
        group.paused = vec![2];
        group.run_until(SECOND * 25);
        assert_eq!(group.states(2), [Suspect; 3], "seed {seed}");
        group.paused.clear();
        group.run_until(SECOND * 27);
        assert_eq!(group.states(2), [Alive; 3], "seed {seed}");
        let blamed = group
            .changes
            .iter()
            .filter(|(at, of, to)| *at > SECOND * 20 && *of != 2 && *to != Alive);
        assert_eq!(blamed.count(), 0, "seed {seed}");
    }
}

#[test]
fn one_seed_gives_one_run() {
    let run = || {
        let mut group = Group::new(7, 6);
        (group.losses, group.repeats) = (30, 30);
        group.run_until(SECOND * 60);
        (group.changes, group.sent)
    };
    assert_eq!(run(), run());
}

#[test]
fn every_peer_is_echoed_in_turn() {
    let often = PresenceConfig {
        beats_per_second: 1000,
        ..config()
    };
    let mut presence = fresh(often);
    for byte in 2..=50 {
        presence.step(Duration::ZERO, Signal::Heard(beat(byte, 5, 1)));
    }
    let mut echoed: Vec<Echo> = Vec::new();
    for second in 1..=4 {
        for action in presence.step(SECOND * second, Signal::Turn) {
            if let Action::Beat { echoes, .. } = action {
                echoed.extend(echoes);
            }
        }
        for byte in 2..=50 {
            presence.step(SECOND * second, Signal::Heard(beat(byte, 5, 1 + u64::from(second))));
        }
    }
    let nodes: std::collections::BTreeSet<_> = echoed.iter().map(|echo| echo.node).collect();
    assert_eq!((echoed.len(), nodes.len()), (64, 49));
}

#[test]
fn what_a_node_offers_is_in_its_next_heartbeat() {
    let mut presence = fresh(config());
    presence.step(Duration::ZERO, Signal::Turn);
    let offered = Arc::new(CapabilitySet::parse(["gpu"], []).expect("a tag"));
    presence.step(SECOND / 5, Signal::Announce(Arc::clone(&offered)));
    let actions = presence.step(presence.due(), Signal::Turn);
    assert!(matches!(&actions[..], [Action::Beat { counter: 2, capabilities, .. }] if *capabilities == offered));
}
