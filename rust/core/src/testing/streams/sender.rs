//! A node with a sender: its numbers, and an outbox for each daemon.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::facts::Uid;
use super::owner::flow_of;
use super::{DAEMONS, Held, Mistake, NODES, OWNERS, SENDERS, Scene, broken, daemon_of, node_of};
use crate::config::Durability;
use crate::id::Origin;
use crate::inflow::WINDOW;
use crate::ingress::DIRECT;
use crate::numbers::{self, Numbers};
use crate::outbox::{self, Limits, Outbox, Outcome, Refusal, Signal};
use crate::stream::{Flow, Frame};

const BLOCK: u64 = 50;
const EVENTS_MAX: usize = 90;
const NEVER: Duration = Duration::MAX;

/// An event that is to be sent: what is in it, and its number once it has one.
type Draft = (u64, Option<u64>);

pub(super) struct Sender {
    pub node: usize,
    origin: Origin,
    numbers: Numbers,
    /// What is durable of the reservation of numbers.
    kept: u64,
    /// A reservation under way, and when it is durable.
    reserving: Option<(u64, Duration)>,
    outboxes: [Outbox<Vec<u8>>; 2],
    drafts: [VecDeque<Draft>; 2],
    /// What is in the event of a number; of all lives.
    contents: BTreeMap<(usize, u64), u64>,
    next_content: u64,
}

fn outbox(daemon: usize, origin: Origin, scene: &mut Scene) -> Outbox<Vec<u8>> {
    let flow = Flow {
        entity: DAEMONS[daemon],
        origin,
        stream: DIRECT,
    };
    let window = if scene.makes(Mistake::WindowCountsOpen) {
        10 * WINDOW
    } else {
        WINDOW
    };
    let limits = Limits {
        events_max: if window > WINDOW { 10 * EVENTS_MAX } else { EVENTS_MAX },
        window,
        ..Limits::default()
    };
    Outbox::new(flow, limits, scene.random.next_u64())
}

impl Sender {
    pub(super) fn new(sender: usize, scene: &mut Scene) -> Self {
        let origin = Origin::new(1001 + sender as u64);
        Self {
            node: SENDERS[sender],
            origin,
            numbers: Numbers::after(0, BLOCK),
            kept: 0,
            reserving: None,
            outboxes: [0, 1].map(|daemon| outbox(daemon, origin, scene)),
            drafts: [VecDeque::new(), VecDeque::new()],
            contents: BTreeMap::new(),
            next_content: (sender as u64 + 1) << 32,
        }
    }

    /// The application has so many new events, for one daemon or for both.
    pub(super) fn write(&mut self, count: usize, scene: &mut Scene) -> Held {
        let daemon = scene.random.below(3);
        for at in 0..count {
            self.next_content += 1;
            let to = if daemon == 2 { at % 2 } else { daemon };
            self.drafts[to].push_back((self.next_content, None));
        }
        self.pump(scene)
    }

    pub(super) fn crash(&mut self, scene: &mut Scene) {
        scene.report.crashes += 1;
        if let Some((up_to, _)) = self.reserving.take()
            && scene.random.below(2) == 0
        {
            self.kept = up_to;
        }
        self.numbers = if scene.makes(Mistake::SenderRestartsAtOne) {
            Numbers::fresh()
        } else {
            Numbers::after(self.kept, BLOCK)
        };
        self.outboxes = [0, 1].map(|daemon| outbox(daemon, self.origin, scene));
        self.drafts = [VecDeque::new(), VecDeque::new()];
    }

    /// Hands events to the outboxes, as far as they and the numbers go.
    fn pump(&mut self, scene: &mut Scene) -> Held {
        for daemon in [0, 1] {
            while let Some((content, number)) = self.drafts[daemon].front().copied() {
                let open = self.outboxes[daemon].open().count();
                if scene.makes(Mistake::WindowCountsOpen) && open >= WINDOW {
                    break;
                }
                let Some(sequence) = number.or_else(|| self.number(scene)) else {
                    break;
                };
                self.drafts[daemon][0].1 = Some(sequence);
                self.contents.insert((daemon, sequence), content);
                let deadline = (content.is_multiple_of(4)).then(|| scene.now + Duration::from_millis(150));
                let signal = Signal::Send {
                    sequence,
                    payload: content.to_le_bytes().to_vec(),
                    deadline,
                };
                let mut actions = Vec::new();
                self.outboxes[daemon].step(scene.now, signal, &mut actions);
                let refused = actions.iter().find_map(|action| match action {
                    outbox::Action::Refused { why, .. } => Some(*why),
                    _ => None,
                });
                match refused {
                    Some(Refusal::Backpressure) => break,
                    Some(Refusal::OutOfOrder) => return broken("Order", format!("{sequence} is refused")),
                    None => drop(self.drafts[daemon].pop_front()),
                }
                self.act(daemon, actions, scene)?;
            }
        }
        Ok(())
    }

    fn number(&mut self, scene: &mut Scene) -> Option<u64> {
        let (mut actions, mut number) = (Vec::new(), None);
        self.numbers.step(numbers::Signal::Take, &mut actions);
        for action in actions {
            match action {
                numbers::Action::Number(found) => number = Some(found),
                numbers::Action::Reserve { up_to } => self.reserving = Some((up_to, scene.soon(20_000))),
                numbers::Action::Wait | numbers::Action::Exhausted => {}
            }
        }
        number
    }

    pub(super) fn hear(&mut self, frame: &Frame<'_>, scene: &mut Scene) -> Held {
        let Some(flow) = flow_of(frame).filter(|flow| flow.origin == self.origin) else {
            return Ok(());
        };
        let (Some(daemon), Some(signal)) = (daemon_of(flow.entity), Signal::of(frame)) else {
            return Ok(());
        };
        if let Signal::Ack { receipt, .. } = signal {
            let sequence = receipt.sequence;
            let Some(content) = self.contents.get(&(daemon, sequence)).copied() else {
                return broken("Receipt", format!("{sequence} was never sent"));
            };
            let uid = Uid {
                origin: self.origin,
                stream: DIRECT,
                sequence,
                content,
            };
            if scene.facts.acknowledged(daemon, uid, receipt)? {
                scene.report.acknowledged += 1;
            }
        }
        let before = self.outboxes[daemon].owner();
        if let (Signal::Moved(owner), true) = (&signal, scene.makes(Mistake::BelievesLowerEpochs)) {
            self.outboxes[daemon] = self.outboxes[daemon].clone().with_owner(*owner);
        }
        let mut actions = Vec::new();
        self.outboxes[daemon].step(scene.now, signal, &mut actions);
        scene.facts.believed(daemon, before, self.outboxes[daemon].owner())?;
        self.act(daemon, actions, scene)?;
        self.pump(scene)
    }

    fn act(&mut self, daemon: usize, actions: Vec<outbox::Action>, scene: &mut Scene) -> Held {
        for action in actions {
            match action {
                outbox::Action::Transmit { sequence, to } => {
                    let event = self.outboxes[daemon].event(sequence);
                    if let (Some(event), Some(to)) = (event, node_of(to)) {
                        scene.send(self.node, to, &Frame::Event(event));
                    }
                }
                outbox::Action::Locate => {
                    let flow = self.outboxes[daemon].flow();
                    for node in OWNERS[0]..NODES {
                        scene.send(self.node, node, &Frame::Locate { flow });
                    }
                }
                outbox::Action::Settled { sequence, outcome } => {
                    let is_durable = scene.options.durability == Durability::Journal || !scene.options.owners_crash;
                    if outcome == Outcome::Unknown && is_durable {
                        return broken(
                            "Receipt",
                            format!("{sequence} to daemon {daemon} is open, and got Stale"),
                        );
                    }
                }
                outbox::Action::TimedOut { sequence } => self.once_more(daemon, sequence, scene)?,
                outbox::Action::Lost { after, through, epoch } => {
                    let flow = self.outboxes[daemon].flow();
                    scene.report.lost += scene.facts.lost(&flow, after, through, epoch)?;
                }
                outbox::Action::Refused { .. } | outbox::Action::Release { .. } => {}
            }
        }
        Ok(())
    }

    /// The application sends an event again that takes too long.
    fn once_more(&mut self, daemon: usize, sequence: u64, scene: &mut Scene) -> Held {
        let content = self.contents.get(&(daemon, sequence)).copied().unwrap_or_default();
        if scene.makes(Mistake::RetriesUnderNewNumber) {
            self.drafts[daemon].push_back((content, None));
            return Ok(());
        }
        let signal = Signal::Send {
            sequence,
            payload: content.to_le_bytes().to_vec(),
            deadline: Some(scene.now + Duration::from_millis(400)),
        };
        let mut actions = Vec::new();
        self.outboxes[daemon].step(scene.now, signal, &mut actions);
        if actions.is_empty() {
            return Ok(());
        }
        broken(
            "Receipt",
            format!("{sequence} is sent again, and {actions:?} comes of it"),
        )
    }

    pub(super) fn wake_at(&self) -> Duration {
        let outboxes = self.outboxes.iter().filter_map(Outbox::wake_at);
        outboxes.chain(self.reserving.map(|(_, at)| at)).min().unwrap_or(NEVER)
    }

    pub(super) fn wake(&mut self, scene: &mut Scene) -> Held {
        if let Some((up_to, at)) = self.reserving
            && at <= scene.now
        {
            self.reserving = None;
            if scene.random.below(8) == 0 && !scene.is_calm {
                self.numbers.step(numbers::Signal::Failed, &mut Vec::new());
            } else {
                self.kept = up_to;
                self.numbers.step(numbers::Signal::Kept { up_to }, &mut Vec::new());
            }
        }
        for daemon in [0, 1] {
            let mut actions = Vec::new();
            self.outboxes[daemon].step(scene.now, Signal::Timer, &mut actions);
            self.act(daemon, actions, scene)?;
        }
        self.pump(scene)
    }

    pub(super) fn is_done(&self) -> bool {
        self.outboxes.iter().all(Outbox::is_empty) && self.drafts.iter().all(VecDeque::is_empty)
    }

    pub(super) fn waits(&self) -> String {
        let open = [0, 1].map(|daemon| self.outboxes[daemon].open().collect::<Vec<_>>());
        let owners = [0, 1].map(|daemon| self.outboxes[daemon].owner());
        format!(
            "open {open:?}, drafts {:?}, owners {owners:?}",
            [0, 1].map(|daemon| self.drafts[daemon].len())
        )
    }
}
