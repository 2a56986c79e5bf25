//! The world of a run: nodes, senders, consumers and the directory, what happens next, and when it is over.

use std::collections::BTreeMap;
use std::time::Duration;

use super::centre::Centre;
use super::ends::{Reader, Sender};
use super::node::Node;
use super::timeline::Note;
use super::{ENTITY, Held, Kind, Message, NODE_IDS, Options, Plan, Scene, broken, node_of};
use crate::mix;
use crate::move_rows::{MoveOrder, Outcome, Terms};
use crate::outbox;
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::stream::Frame;

/// Faults begin no more after so many of them.
const CHAOS: usize = 60;
/// Everything has to be settled so long after the last one.
const QUIET: Duration = Duration::from_secs(120);
/// The same where machines wait as long as those of a node.
const QUIET_PLANNED: Duration = Duration::from_secs(600);
/// Events of a sender that are not settled, at most.
const OPEN_MAX: usize = 256;

pub struct World {
    pub scene: Scene,
    nodes: Vec<Node>,
    senders: Vec<Sender>,
    readers: Vec<Reader>,
    centre: Centre,
    /// Until when a node does nothing at all.
    stopped: Vec<Duration>,
    heal_at: Option<Duration>,
    /// Orders that were given and have no outcome: who sees to each.
    ordered: BTreeMap<MigrationId, usize>,
}

impl World {
    pub fn new(seed: u64, options: &Options, kind: Box<dyn Kind>) -> Self {
        let scene = Scene::new(seed, options, kind);
        Self {
            nodes: (0..scene.layout.nodes()).map(Node::new).collect(),
            senders: Vec::new(),
            readers: Vec::new(),
            centre: Centre::new(scene.now),
            stopped: vec![Duration::ZERO; scene.layout.all()],
            heal_at: None,
            ordered: BTreeMap::new(),
            scene,
        }
    }

    /// Everybody begins.
    pub fn begin(&mut self) -> Held {
        for node in &mut self.nodes {
            node.begin(&mut self.scene)?;
        }
        for node in self.scene.layout.senders() {
            self.senders.push(Sender::new(node, &mut self.scene));
        }
        for node in self.scene.layout.readers() {
            self.readers.push(Reader::new(node, &mut self.scene)?);
        }
        Ok(())
    }

    /// Goes on until everything is settled.
    pub fn run(&mut self) -> Held {
        match self.scene.options.plan {
            Some(plan) => self.run_plan(&plan),
            None => self.run_chaos(),
        }
    }

    fn run_plan(&mut self, plan: &Plan) -> Held {
        let pause = self.scene.options.network.delay_max.max(Duration::from_millis(40));
        let pause = usize::try_from(pause.as_micros()).unwrap_or(usize::MAX);
        let mut act_at = self.scene.soon(20_000);
        let (mut end, mut look_at, mut progress) = (Duration::MAX, Duration::ZERO, (0, 0));
        loop {
            self.scene.kind.between()?;
            let wake_at = self.wake_at();
            let is_over = self.is_over(plan);
            if !self.scene.is_calm && (is_over || self.scene.report.steps >= plan.steps_max()) {
                self.scene.note(Note::Calm);
                self.calm();
            }
            let mut next = wake_at.min(self.scene.network.next_at().unwrap_or(Duration::MAX));
            if !is_over {
                next = next.min(act_at);
            }
            if self.scene.is_calm && next > look_at {
                if next > end || (is_over && self.is_done()) {
                    return self.finish();
                }
                look_at = next + Duration::from_millis(20);
            }
            self.pass(next);
            if self.scene.network.next_at().is_some_and(|at| at <= self.scene.now) {
                self.arrive()?;
            } else if !is_over && act_at <= self.scene.now {
                act_at = self.scene.soon(pause);
                self.act(plan)?;
                self.trouble(plan)?;
            }
            if wake_at <= self.scene.now {
                self.wake()?;
            }
            let now = (self.scene.report.written, self.scene.facts.outcomes.len());
            if self.scene.is_calm && (end == Duration::MAX || now != progress) {
                end = self.scene.now + QUIET_PLANNED;
                progress = now;
            }
        }
    }

    /// Whether all events were sent and all moves have an outcome.
    fn is_over(&self, plan: &Plan) -> bool {
        let report = &self.scene.report;
        report.written == plan.events && report.moves_completed + report.moves_aborted == plan.moves
    }

    /// Sends events, orders a move, and sees what became of those before.
    fn act(&mut self, plan: &Plan) -> Held {
        let scene = &mut self.scene;
        let (sender, count) = (scene.random.below(2), scene.random.below(6) as u64 + 1);
        let count = count.min(plan.events - scene.report.written);
        if self.senders[sender].open() < OPEN_MAX {
            self.senders[sender].write(usize::try_from(count).unwrap_or(0), scene)?;
        }
        for (mid, by) in self.ordered.clone() {
            match scene.facts.outcomes.get(&mid) {
                Some(Outcome::Committed) => scene.report.moves_completed += 1,
                Some(Outcome::Aborted) => scene.report.moves_aborted += 1,
                // A crash came before the order was durable: nobody knows of it.
                None if !self.nodes[by].is_down() && !self.nodes[by].sees_to(&mid) => scene.report.orders -= 1,
                None => continue,
            }
            self.ordered.remove(&mid);
        }
        let given = scene.report.orders;
        let is_due = given < plan.moves
            && self.ordered.is_empty()
            && (scene.report.written == plan.events
                || scene.report.written * (plan.moves + 1) >= plan.events * (given + 1));
        let Some(highest) = scene.facts.highest().copied().filter(|_| is_due) else {
            return Ok(());
        };
        let source = node_of(highest.node());
        let candidates = scene.layout.candidates;
        let target = (source + 1 + scene.random.below(candidates - 1)) % candidates;
        let orchestrator = scene.random.below(candidates + 1);
        if self.nodes[orchestrator].is_down() {
            return Ok(());
        }
        let order = new_order(highest.epoch(), (source, target, orchestrator), scene);
        self.ordered.insert(order.mid, orchestrator);
        scene.note(Note::Ordered(scene.next_mid, source, target, orchestrator));
        self.nodes[orchestrator].order(order, scene)
    }

    /// What goes wrong by itself at a step.
    fn trouble(&mut self, plan: &Plan) -> Held {
        let scene = &mut self.scene;
        if scene.is_calm {
            return Ok(());
        }
        if plan.faults.crash.happens(&mut scene.random) {
            let node = scene.random.below(scene.layout.nodes());
            self.nodes[node].crash(scene)?;
        }
        if plan.faults.partition.happens(&mut scene.random) && self.heal_at.is_none() {
            let node = scene.random.below(scene.layout.nodes());
            let group = [node, scene.random.below(scene.layout.all())];
            let both = scene.random.below(2) == 0;
            scene.network.cut(&group, both);
            scene.report.partitions += 1;
            scene.note(Note::CutOff(node));
            self.heal_at = Some(scene.soon(500_000));
        }
        if plan.faults.clock_jump.happens(&mut scene.random) {
            let node = scene.random.below(scene.layout.nodes());
            let by = scene.random.below(120_001) as i64 - 60_000;
            scene.walls[node] = by;
            scene.report.jumps += 1;
            scene.note(Note::Jumped(node, by));
        }
        Ok(())
    }

    /// Time passes.
    fn pass(&mut self, next: Duration) {
        let scene = &mut self.scene;
        scene.now = scene.now.max(next);
        scene.report.steps += 1;
        scene.report.trace = mix::pair(scene.report.trace, scene.now.as_nanos() as u64);
    }

    fn run_chaos(&mut self) -> Held {
        let mut chaos_left = CHAOS;
        let mut chaos_at = self.scene.soon(20_000);
        let mut end = Duration::MAX;
        let mut look_at = Duration::ZERO;
        loop {
            let wake_at = self.wake_at();
            let mut next = wake_at.min(self.scene.network.next_at().unwrap_or(Duration::MAX));
            if chaos_left > 0 {
                next = next.min(chaos_at);
            }
            if self.scene.is_calm && next > look_at {
                if next > end || self.is_done() {
                    return self.finish();
                }
                look_at = next + Duration::from_millis(20);
                self.show();
            }
            self.pass(next);
            if self.scene.network.next_at().is_some_and(|at| at <= self.scene.now) {
                self.arrive()?;
            } else if chaos_left > 0 && chaos_at <= self.scene.now {
                chaos_left -= 1;
                chaos_at = self.scene.soon(160_000);
                match self.scene.options.scripted {
                    Some((orchestrator, _)) => self.script(orchestrator, CHAOS - chaos_left)?,
                    None => {
                        self.chaos()?;
                        if self.scene.options.strays {
                            self.stray()?;
                        }
                    }
                }
                if chaos_left == 0 {
                    self.calm();
                    end = self.scene.now + QUIET;
                }
            }
            if wake_at <= self.scene.now {
                self.wake()?;
            }
        }
    }

    /// When something of the nodes themselves is due.
    fn wake_at(&self) -> Duration {
        let mut next = self.heal_at.unwrap_or(Duration::MAX);
        for (index, node) in self.nodes.iter().enumerate() {
            next = next.min(node.wake_at().max(self.stopped[index]));
        }
        for sender in &self.senders {
            next = next.min(sender.wake_at().max(self.stopped[sender.node]));
        }
        next.min(self.centre.wake_at().max(self.stopped[self.scene.layout.centre()]))
    }

    fn wake(&mut self) -> Held {
        let now = self.scene.now;
        if self.heal_at.is_some_and(|at| at <= now) {
            self.heal_at = None;
            self.scene.network.heal();
            self.scene.note(Note::Healed);
        }
        for index in 0..self.nodes.len() {
            if now >= self.stopped[index] && self.nodes[index].wake_at() <= now {
                self.nodes[index].wake(&mut self.scene)?;
            }
        }
        if now >= self.stopped[self.scene.layout.centre()] && self.centre.wake_at() <= now {
            self.centre.wake(&self.nodes, &mut self.scene)?;
        }
        for sender in &mut self.senders {
            if now >= self.stopped[sender.node] && sender.wake_at() <= now {
                sender.step(outbox::Signal::Timer, &mut self.scene)?;
            }
        }
        Ok(())
    }

    fn arrive(&mut self) -> Held {
        let Some(arrival) = self.scene.network.take_next() else {
            return Ok(());
        };
        let (from, to) = (arrival.from, arrival.to);
        if self.scene.now < self.stopped[to] {
            let until = self.stopped[to];
            self.scene.network.postpone(arrival, until);
            return Ok(());
        }
        let layout = self.scene.layout;
        if to < layout.nodes() {
            return self.nodes[to].hear(from, arrival.message, &mut self.scene);
        }
        if let Message::Own(frame) = arrival.message {
            return self.centre.hear(from, *frame, &self.nodes, &mut self.scene);
        }
        let Message::Stream(bytes) = arrival.message else {
            return Ok(());
        };
        let Ok(frame) = Frame::decode(&bytes) else {
            return broken("Frames", "a frame cannot be read");
        };
        match layout.senders().iter().position(|sender| *sender == to) {
            Some(sender) => self.senders[sender].hear(&frame, &mut self.scene),
            None => self.readers[to - layout.readers().start].hear(&frame, &mut self.scene),
        }
    }

    fn chaos(&mut self) -> Held {
        let scene = &mut self.scene;
        let layout = scene.layout;
        let node = scene.random.below(layout.nodes());
        match scene.random.below(40) {
            0..=17 => {
                let (sender, count) = (scene.random.below(2), scene.random.below(5) + 1);
                self.senders[sender].write(count, scene)
            }
            18..=29 if !scene.options.two_orders || node == 0 => self.order(),
            18..=29 => Ok(()),
            30..=32 if scene.options.crashes => self.nodes[node].crash(scene),
            33 if scene.options.pauses => {
                let stopped = scene.random.below(layout.all());
                self.stopped[stopped] = scene.soon([50_000, 700_000][node % 2]);
                Ok(())
            }
            34 if scene.options.takeovers => {
                let to = scene.random.below(layout.candidates);
                self.centre.take_over(to, &self.nodes, scene)
            }
            35..=36 => {
                let group = [node, scene.random.below(layout.all())];
                let both = scene.random.below(2) == 0;
                scene.network.cut(&group, both);
                self.heal_at = Some(scene.soon(500_000));
                Ok(())
            }
            _ => {
                let many = layout.candidates;
                let (from, to) = (scene.random.below(many), scene.random.below(many));
                if let Some(record) = self.nodes[from].disk.highest() {
                    scene.send(from, to, Message::Show(Box::new(record)));
                }
                Ok(())
            }
        }
    }

    /// Says again what was said before, and takes an order back.
    fn stray(&mut self) -> Held {
        let scene = &mut self.scene;
        for _ in 0..scene.random.below(12) {
            let at = scene.random.below(scene.said.len());
            if let Some((from, to, message)) = scene.said.get(at).cloned() {
                scene.send(from, to, message);
            }
        }
        let by = scene.random.below(self.nodes.len());
        if scene.random.below(8) == 0 {
            return self.nodes[by].take_back(scene);
        }
        Ok(())
    }

    /// Orders a move, most often of the node that owns.
    fn order(&mut self) -> Held {
        let scene = &mut self.scene;
        let is_under_way = self.nodes.iter().any(Node::has_orders);
        if is_under_way && !scene.options.two_orders {
            return Ok(());
        }
        let Some(highest) = scene.facts.highest().copied() else {
            return Ok(());
        };
        let many = if scene.options.two_orders { 2 } else { 1 };
        let candidates = scene.layout.candidates;
        for _ in 0..many {
            let owner = node_of(highest.node());
            let source = if scene.random.below(12) == 0 {
                scene.random.below(candidates)
            } else {
                owner
            };
            let target = (source + 1 + scene.random.below(candidates - 1)) % candidates;
            let orchestrator = scene.random.below(candidates + 1);
            let order = new_order(highest.epoch(), (source, target, orchestrator), scene);
            self.nodes[orchestrator].order(order, scene)?;
        }
        Ok(())
    }

    /// Events all the time, and one move.
    fn script(&mut self, orchestrator: usize, at: usize) -> Held {
        let scene = &mut self.scene;
        if at == 5 {
            scene.is_counting = true;
            let order = new_order(1, (0, 1, orchestrator), scene);
            self.nodes[orchestrator].order(order, scene)?;
        }
        let count = scene.random.below(4) + 1;
        self.senders[at % 2].write(count, scene)
    }

    /// From now on nothing goes wrong any more.
    fn calm(&mut self) {
        self.scene.is_calm = true;
        self.scene.network.calm();
        self.heal_at = None;
        self.stopped.fill(Duration::ZERO);
    }

    /// Nodes that run without faults hear who owns, sooner or later.
    fn show(&mut self) {
        let candidates = self.scene.layout.candidates;
        let owner = (0..candidates).find(|node| self.nodes[*node].announced(self.scene.now).is_some());
        let record = owner.and_then(|owner| self.nodes[owner].disk.highest());
        let is_due = self.scene.options.takeovers && self.scene.random.below(20) == 0;
        if let (Some(owner), Some(record), true) = (owner, record, is_due) {
            for node in (0..candidates).filter(|node| *node != owner) {
                self.scene.send(owner, node, Message::Show(Box::new(record)));
            }
        }
    }

    fn is_done(&self) -> bool {
        let mut owners = self.nodes.iter().filter_map(|node| node.announced(self.scene.now));
        let (Some((epoch, n)), None) = (owners.next(), owners.next()) else {
            return false;
        };
        self.senders.iter().all(Sender::is_done)
            && self.scene.facts.highest().map(OwnershipRecord::epoch) == Some(epoch)
            && self.readers.iter().all(|reader| reader.is_at(epoch, n))
            && self.nodes.iter().all(Node::is_quiet)
            && self.centre.is_quiet()
    }

    fn finish(&mut self) -> Held {
        if !self.is_done() {
            let waits = [
                self.nodes.iter().map(Node::waits).collect::<Vec<_>>(),
                self.senders.iter().map(Sender::waits).collect(),
                self.readers.iter().map(Reader::waits).collect(),
            ];
            return broken("Ends", format!("{waits:#?}"));
        }
        for node in &self.nodes {
            node.check(&self.scene)?;
        }
        let report = self.scene.report;
        if self.scene.facts.keeps_all() && report.acknowledged != report.written {
            return broken(
                "NotLost",
                format!(
                    "{} events were sent, {} acknowledged",
                    report.written, report.acknowledged
                ),
            );
        }
        let now = self.scene.now;
        match self.nodes.iter_mut().find_map(|node| node.owned(now)) {
            Some(daemon) => {
                let state = daemon.subject.snapshot()?;
                self.scene.same_state(&daemon.history, state.as_deref(), "in the end")
            }
            None => Ok(()),
        }
    }
}

fn new_order(epoch: u64, (source, target, orchestrator): (usize, usize, usize), scene: &mut Scene) -> MoveOrder {
    let lasts = if scene.options.plan.is_some() { 30 } else { 3 };
    scene.next_mid += 1;
    scene.report.orders += 1;
    let mut mid = MigrationId::default();
    mid[..8].copy_from_slice(&scene.next_mid.to_le_bytes());
    MoveOrder {
        mid,
        entity: *ENTITY,
        epoch,
        source: NODE_IDS[source],
        target: NODE_IDS[target],
        orchestrator: NODE_IDS[orchestrator],
        not_after: scene.wall(orchestrator).plus(Duration::from_secs(lasts)),
        freeze_ms: 0,
        size: 0,
        kind: "counter".to_owned(),
        terms: Terms::default(),
        signer: NODE_IDS[orchestrator],
        // Who takes an order in checks its signature before; here nobody does.
        signature: [0; 64],
    }
}
