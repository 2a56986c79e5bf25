//! What a consumer accepts, by table and by example.

use std::time::Duration;

use meshos_core::certificate::{Certificate, Reason};
use meshos_core::chain::CausalChainBuilder;
use meshos_core::consumer::{ASK_PAUSE, Action, Alarm, Consumer, DIGESTS_MAX, Position, Signal};
use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::link::CausalLink;
use meshos_core::stream::{Announce, Output, lineage_digest};

const ENTITY: EntityId = EntityId::from_bytes([1; 32]);
const NOW: Duration = Duration::from_secs(1);

/// A chain of outputs; two with the same mark are the same.
struct Chain {
    links: Vec<(CausalLink, Vec<u8>)>,
    digests: Vec<Digest>,
    builder: CausalChainBuilder,
}

impl Chain {
    fn new(outputs: u64) -> Self {
        let builder = CausalChainBuilder::new(ENTITY);
        let mut chain = Self {
            links: Vec::new(),
            digests: vec![builder.digest()],
            builder,
        };
        chain.grow(outputs, 0);
        chain
    }

    /// The same up to `n`, and then other outputs.
    fn forked(&self, n: usize, outputs: u64, mark: u8) -> Self {
        let mut chain = Self {
            links: self.links[..n].to_vec(),
            digests: self.digests[..=n].to_vec(),
            builder: CausalChainBuilder::new(ENTITY),
        };
        for (_, payload) in &chain.links {
            chain.builder.append(payload, 0).expect("few");
        }
        chain.grow(outputs, mark);
        chain
    }

    fn grow(&mut self, outputs: u64, mark: u8) {
        for _ in 0..outputs {
            let payload = vec![mark, u8::try_from(self.links.len() % 256).expect("below 256")];
            let link = self.builder.append(&payload, 0).expect("few");
            self.links.push((link, payload));
            self.digests.push(self.builder.digest());
        }
    }

    fn output(&self, n: usize, epoch: u64, lineage: &[Certificate]) -> Output<'_> {
        let (link, payload) = &self.links[n - 1];
        Output {
            entity: ENTITY,
            epoch,
            lineage: lineage_digest(lineage),
            link: *link,
            payload,
        }
    }

    fn announce(&self, n: usize, lineage: &[Certificate]) -> Announce {
        Announce {
            entity: ENTITY,
            epoch: lineage.last().map_or(0, |last| last.epoch),
            n: n as u64,
            head: self.digests[n],
            lineage: lineage.to_vec(),
        }
    }

    fn record(&self, epoch: u64, from: usize, reason: Reason) -> Certificate {
        Certificate {
            entity: ENTITY,
            epoch,
            node: EntityId::from_bytes([9; 32]),
            from_sequence: from as u64,
            digest: self.digests[from],
            reason,
            signer: ENTITY,
            signature: [0; 64],
        }
    }

    /// A spawn, and a move after two outputs.
    fn lineage(&self) -> Vec<Certificate> {
        vec![self.record(1, 0, Reason::Spawn), self.record(2, 2, Reason::Move)]
    }
}

fn step(consumer: &mut Consumer, signal: Signal<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    consumer.step(NOW, signal, &mut actions);
    actions
}

/// A consumer that took five of eight outputs, in epoch 2, and may ask again.
fn at_five(chain: &Chain) -> Consumer {
    let mut consumer = Consumer::new(ENTITY, Position::start(&ENTITY));
    let (lineage, mut actions) = (chain.lineage(), Vec::new());
    let announce = chain.announce(8, &lineage);
    consumer.step(NOW - ASK_PAUSE, Signal::Announce(&announce), &mut actions);
    assert_eq!(actions, [Action::Follow { epoch: 2, after: 0 }]);
    for n in 1..=5 {
        let actions = step(&mut consumer, Signal::Output(&chain.output(n, 2, &lineage)));
        let n = n as u64;
        assert_eq!(
            actions,
            [Action::Take { sequence: n }, Action::Acknowledge { epoch: 2, n }]
        );
    }
    consumer
}

const ACK: Action = Action::Acknowledge { epoch: 2, n: 5 };
const ASK: Action = Action::Follow { epoch: 2, after: 5 };

/// Every row of the module's table.
#[test]
fn table() {
    let chain = Chain::new(8);
    let lineage = chain.lineage();
    let other = [lineage[0], chain.record(2, 1, Reason::Move)];
    let later = [lineage[0], lineage[1], chain.record(3, 8, Reason::Move)];
    let forked = chain.forked(5, 3, 7);
    let altered = chain.forked(3, 3, 7);
    let stranger = Output {
        entity: EntityId::from_bytes([3; 32]),
        ..chain.output(6, 2, &lineage)
    };
    let relabelled = Output {
        link: CausalLink {
            parent: 1,
            ..chain.output(6, 2, &lineage).link
        },
        ..chain.output(6, 2, &lineage)
    };
    let foreign = Output {
        link: CausalLink {
            origin: meshos_core::id::Origin::new(5),
            ..chain.output(6, 2, &lineage).link
        },
        ..chain.output(6, 2, &lineage)
    };
    let outputs: [(&str, Output<'_>, Vec<Action>); 13] = [
        ("of an epoch that is over", chain.output(6, 1, &lineage[..1]), vec![]),
        (
            "another lineage",
            chain.output(6, 2, &other),
            vec![Action::Alarm(Alarm::Lineage { epoch: 2 })],
        ),
        (
            "the next",
            chain.output(6, 2, &lineage),
            vec![Action::Take { sequence: 6 }, Action::Acknowledge { epoch: 2, n: 6 }],
        ),
        (
            "the next of a fork there",
            forked.output(6, 2, &lineage),
            vec![Action::Take { sequence: 6 }, Action::Acknowledge { epoch: 2, n: 6 }],
        ),
        (
            "another parent",
            relabelled,
            vec![Action::Alarm(Alarm::Parent { sequence: 6 })],
        ),
        (
            "another origin",
            foreign,
            vec![Action::Alarm(Alarm::Parent { sequence: 6 })],
        ),
        (
            "after a fork",
            altered.output(6, 2, &lineage),
            vec![Action::Alarm(Alarm::Parent { sequence: 6 })],
        ),
        ("taken", chain.output(5, 2, &lineage), vec![ACK]),
        ("taken long ago", chain.output(1, 2, &lineage), vec![ACK]),
        (
            "taken as another",
            altered.output(5, 2, &lineage),
            vec![Action::Alarm(Alarm::Altered { sequence: 5 })],
        ),
        ("behind a hole", chain.output(7, 2, &lineage), vec![ASK]),
        (
            "of an epoch that nobody announced",
            chain.output(6, 3, &later),
            vec![ASK],
        ),
        ("of another entity", stranger, vec![]),
    ];
    for (name, output, expected) in outputs {
        assert_eq!(step(&mut at_five(&chain), Signal::Output(&output)), expected, "{name}");
    }

    let back = |after, epoch| Action::RolledBack {
        after,
        through: 5,
        epoch,
    };
    let follow = |epoch, after| Action::Follow { epoch, after };
    let with = |records: &[Certificate]| [&lineage[..], records].concat();
    let restart = with(&[chain.record(3, 3, Reason::Restart)]);
    let rewritten = chain.forked(3, 4, 9);
    let twice = with(&[
        chain.record(3, 3, Reason::Restart),
        rewritten.record(4, 6, Reason::Restart),
    ]);
    let moved_back = with(&[chain.record(3, 3, Reason::Move)]);
    let elsewhere = with(&[altered.record(3, 4, Reason::Restart)]);
    let alarm = |alarm| vec![Action::Alarm(alarm)];
    let unsorted = [lineage[1], lineage[0], chain.record(3, 8, Reason::Move)];
    let announcements: [(&str, Announce, Vec<Action>); 16] = [
        ("of an epoch that is over", chain.announce(2, &lineage[..1]), vec![]),
        ("more", chain.announce(8, &lineage), vec![ASK]),
        ("as much", chain.announce(5, &lineage), vec![ACK]),
        ("less", chain.announce(4, &lineage), vec![ACK]),
        (
            "another head",
            altered.announce(5, &lineage),
            alarm(Alarm::Altered { sequence: 5 }),
        ),
        (
            "another lineage",
            chain.announce(8, &other),
            alarm(Alarm::Lineage { epoch: 2 }),
        ),
        ("a move", chain.announce(8, &later), vec![follow(3, 5)]),
        (
            "a restart below",
            rewritten.announce(3, &restart),
            vec![back(3, 3), follow(3, 3)],
        ),
        (
            "a restart at the head",
            chain.announce(5, &with(&[chain.record(3, 5, Reason::Restart)])),
            vec![follow(3, 5)],
        ),
        (
            "a takeover of everything",
            chain.announce(0, &with(&[chain.record(9, 0, Reason::Takeover)])),
            vec![back(0, 9), follow(9, 0)],
        ),
        (
            "two restarts",
            rewritten.announce(7, &twice),
            vec![back(3, 3), follow(4, 3)],
        ),
        (
            "a move below",
            chain.announce(8, &moved_back),
            alarm(Alarm::Overrun {
                epoch: 3,
                from_sequence: 3,
            }),
        ),
        (
            "a restart at another digest",
            altered.announce(4, &elsewhere),
            alarm(Alarm::Altered { sequence: 4 }),
        ),
        (
            "shorter, and no record says why",
            chain.announce(4, &later),
            alarm(Alarm::Short { n: 4 }),
        ),
        (
            "without a beginning",
            chain.announce(8, &later[2..]),
            alarm(Alarm::Lineage { epoch: 3 }),
        ),
        (
            "in another order",
            chain.announce(8, &unsorted),
            alarm(Alarm::Lineage { epoch: 3 }),
        ),
    ];
    for (name, announce, expected) in announcements {
        let mut consumer = at_five(&chain);
        let before = *consumer.position();
        assert_eq!(step(&mut consumer, Signal::Announce(&announce)), expected, "{name}");
        if matches!(expected[..], [Action::Alarm(_)]) {
            assert_eq!(
                *consumer.position(),
                before,
                "after an alarm nothing has changed: {name}"
            );
            assert_eq!(consumer.counters().alarms, 1);
        }
    }
}

#[test]
fn an_epoch_is_not_in_force_without_its_own_record() {
    let chain = Chain::new(8);
    let mut consumer = at_five(&chain);
    let announce = Announce {
        epoch: 3,
        ..chain.announce(8, &chain.lineage())
    };
    let actions = step(&mut consumer, Signal::Announce(&announce));
    assert_eq!(actions, [Action::Alarm(Alarm::Lineage { epoch: 3 })]);
}

#[test]
fn a_consumer_that_was_rolled_back_takes_what_comes_instead() {
    let chain = Chain::new(8);
    let mut consumer = at_five(&chain);
    let rewritten = chain.forked(3, 4, 9);
    let lineage = [&chain.lineage()[..], &[chain.record(3, 3, Reason::Restart)]].concat();
    step(&mut consumer, Signal::Announce(&rewritten.announce(3, &lineage)));
    for n in 4..=7 {
        let actions = step(&mut consumer, Signal::Output(&rewritten.output(n, 3, &lineage)));
        assert_eq!(actions[0], Action::Take { sequence: n as u64 });
    }
    assert_eq!(
        (consumer.position().n, consumer.position().head),
        (7, rewritten.digests[7])
    );
    assert_eq!(consumer.counters().rolled_back, 2);
    // What the owner before still has on its way is over.
    let late = step(&mut consumer, Signal::Output(&chain.output(8, 2, &chain.lineage())));
    assert_eq!((late, consumer.counters().fenced), (vec![], 1));
}

#[test]
fn a_consumer_asks_once_in_a_while_and_when_it_begins() {
    let chain = Chain::new(8);
    let (mut consumer, lineage) = (at_five(&chain), chain.lineage());
    let hole = chain.output(8, 2, &lineage);
    assert_eq!(step(&mut consumer, Signal::Output(&hole)), [ASK]);
    assert_eq!(step(&mut consumer, Signal::Output(&hole)), []);
    assert_eq!(step(&mut consumer, Signal::Started), [ASK]);
    let mut actions = Vec::new();
    consumer.step(NOW + ASK_PAUSE, Signal::Output(&hole), &mut actions);
    assert_eq!((actions, consumer.counters().early), (vec![ASK], 3));
}

#[test]
fn a_consumer_goes_on_from_what_it_kept() {
    let chain = Chain::new(8);
    let (before, lineage) = (at_five(&chain), chain.lineage());
    let mut consumer = Consumer::new(ENTITY, *before.position());
    assert_eq!(
        step(&mut consumer, Signal::Output(&chain.output(5, 2, &lineage))),
        [ACK]
    );
    let actions = step(&mut consumer, Signal::Output(&chain.output(6, 2, &lineage)));
    assert_eq!(actions[0], Action::Take { sequence: 6 });
    // It rolls back behind what it remembers, on the word of the record.
    let lineage = [&lineage[..], &[chain.record(3, 2, Reason::Restart)]].concat();
    step(&mut consumer, Signal::Announce(&chain.announce(2, &lineage)));
    assert_eq!((consumer.position().n, consumer.position().head), (2, chain.digests[2]));
    let actions = step(&mut consumer, Signal::Output(&chain.output(3, 3, &lineage)));
    assert_eq!(actions[0], Action::Take { sequence: 3 });
}

#[test]
fn who_begins_in_the_middle_goes_back_on_no_record_and_knows_by_the_parent() {
    let chain = Chain::new(8);
    let lineage = [&chain.lineage()[..], &[chain.record(3, 4, Reason::Restart)]].concat();
    let begin = |n: usize, head| Consumer::new(ENTITY, Position::at(n as u64, head));
    for n in [1, 3, 5] {
        let mut consumer = begin(n, chain.digests[n]);
        let actions = step(&mut consumer, Signal::Announce(&chain.announce(8, &lineage)));
        assert_eq!(
            actions,
            [Action::Follow {
                epoch: 3,
                after: n as u64
            }]
        );
        let actions = step(&mut consumer, Signal::Output(&chain.output(n + 1, 3, &lineage)));
        assert_eq!(actions[0], Action::Take { sequence: n as u64 + 1 });
    }
    // What it read does not stand any more.
    let mut consumer = begin(5, Digest::from_bytes([7; 32]));
    step(&mut consumer, Signal::Announce(&chain.announce(8, &lineage)));
    let actions = step(&mut consumer, Signal::Output(&chain.output(6, 3, &lineage)));
    assert_eq!(actions, [Action::Alarm(Alarm::Parent { sequence: 6 })]);
    let mut consumer = begin(8, Digest::from_bytes([7; 32]));
    let actions = step(&mut consumer, Signal::Announce(&chain.announce(8, &lineage)));
    assert_eq!(actions, [Action::Alarm(Alarm::Altered { sequence: 8 })]);
    let mut consumer = begin(8, chain.digests[8]);
    let actions = step(&mut consumer, Signal::Announce(&chain.announce(7, &lineage)));
    assert_eq!(actions, [Action::Alarm(Alarm::Short { n: 7 })]);
}

#[test]
fn only_so_many_digests_are_kept() {
    let count = DIGESTS_MAX + 20;
    let chain = Chain::new(count as u64);
    let lineage = chain.lineage();
    let mut consumer = Consumer::new(ENTITY, Position::start(&ENTITY));
    step(&mut consumer, Signal::Announce(&chain.announce(count, &lineage)));
    for n in 1..=count {
        step(&mut consumer, Signal::Output(&chain.output(n, 2, &lineage)));
    }
    let altered = chain.forked(10, count as u64 - 10, 7);
    // Too long ago to tell.
    let old = step(&mut consumer, Signal::Output(&altered.output(15, 2, &lineage)));
    assert!(matches!(old[..], [Action::Acknowledge { .. }]));
    let new = step(&mut consumer, Signal::Output(&altered.output(count, 2, &lineage)));
    assert_eq!(new, [Action::Alarm(Alarm::Altered { sequence: count as u64 })]);
}
