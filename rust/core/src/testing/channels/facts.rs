//! What is true in a run, and the rules that it must not break.
//!
//! | rule | what it says |
//! |---|---|
//! | Once | what is published is published once, however often it is asked for |
//! | Permitted | nobody publishes on a gated channel from elsewhere without a token that permits it then |
//! | Secret | nobody has the key of what is published on a gated channel without a token that permits reading it then |
//! | Told | what a publisher is told of what it published is true |
//! | Order | a subscriber gets every number after its acceptance, each once and in order, or is told a gap |
//! | Gap | what is told as a gap is not kept any more |
//! | Removed | who is forgotten has left, lost its node, or has no permission |
//! | Group | an event of a group is with one member at a time, and given to nobody when it was taken |
//! | Owed | every event of a group was processed by a member, or is counted as lost |
//! | Progress | when nothing goes wrong any more, everybody is where the publisher is, and everything is answered |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{GATED, Held, Key, broken};
use crate::channel_frame::{Gap, Nonce};
use crate::remote_publish::Outcome;
use crate::time::UnixMs;

/// How long after its end a permission may still be used: until the publisher looks again.
pub(super) const SWEEP: Duration = Duration::from_millis(500);

/// One life of a channel: publisher, channel, life.
type Life = (usize, usize, u64);

#[derive(Debug)]
struct Grant {
    of: (usize, usize),
    read: bool,
    write: bool,
    from: UnixMs,
    until: UnixMs,
    /// Until when reading may go on.
    seen: UnixMs,
}

#[derive(Debug, Default)]
struct Group {
    /// Who has an event that it has not taken: daemon and term.
    held: BTreeMap<u64, (usize, u64)>,
    /// What a daemon was given in a term, as a turn.
    given: BTreeMap<(usize, u64, u64), u64>,
    taken: BTreeSet<u64>,
    owed: BTreeSet<u64>,
    settled: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Contents by number.
    published: BTreeMap<Life, Vec<u64>>,
    /// The first number that is kept.
    kept: BTreeMap<Life, u64>,
    places: BTreeMap<u64, (Life, u64)>,
    grants: Vec<Grant>,
    revoked: BTreeMap<(usize, usize), UnixMs>,
    /// Who was handed which generations.
    handed: BTreeMap<Key, BTreeSet<u64>>,
    /// What was told to who asked to subscribe.
    accepted: BTreeMap<Nonce, BTreeSet<(u64, u64)>>,
    positions: BTreeMap<Key, (u64, u64)>,
    left: BTreeSet<Key>,
    groups: BTreeMap<Life, Group>,
    /// Contents that are said not to be published.
    refused: BTreeSet<u64>,
}

impl Facts {
    // -- publishing

    /// An event is in the log.
    pub(super) fn published(&mut self, life: Life, sequence: u64, content: u64, kept: u64) -> Held {
        if let Some(before) = self.places.insert(content, (life, sequence)) {
            return broken(
                "Once",
                format!("{content} is published as {before:?} and as {sequence} of {life:?}"),
            );
        }
        let contents = self.published.entry(life).or_default();
        contents.push(content);
        if contents.len() as u64 != sequence {
            return broken("Order", format!("{sequence} is number {} of {life:?}", contents.len()));
        }
        self.kept.insert(life, kept);
        Ok(())
    }

    /// A daemon publishes from elsewhere.
    pub(super) fn publishes(&self, key: Key, now: UnixMs) -> Held {
        let may = |grant: &Grant| grant.of == (key.0, key.2) && grant.write && grant.from <= now && now < grant.until;
        if key.1 != GATED || self.grants.iter().any(may) {
            return Ok(());
        }
        broken("Permitted", format!("{key:?} publishes"))
    }

    /// A request to publish is over.
    pub(super) fn settled(&mut self, content: u64, of: (usize, usize), outcome: Outcome) -> Held {
        let place = self.places.get(&content);
        let is_true = match outcome {
            Outcome::Published(told) => place
                .is_some_and(|((publisher, channel, _), sequence)| (*publisher, *channel) == of && *sequence == told),
            Outcome::Refused(_) | Outcome::NotSent => {
                self.refused.insert(content);
                place.is_none()
            }
            Outcome::Unknown => true,
        };
        if is_true {
            return Ok(());
        }
        broken("Told", format!("{content} is {place:?}, and told is {outcome:?}"))
    }

    // -- permissions

    /// A publisher permits a daemon something.
    pub(super) fn granted(&mut self, of: (usize, usize), read: bool, write: bool, from: UnixMs, until: UnixMs) {
        if self.revoked.get(&of).is_some_and(|at| *at >= from) {
            return;
        }
        self.grants.push(Grant {
            of,
            read,
            write,
            from,
            until,
            seen: until.plus(SWEEP),
        });
    }

    /// It takes back everything that it permitted.
    pub(super) fn took_back(&mut self, of: (usize, usize), now: UnixMs) {
        self.revoked.insert(of, now);
        for grant in self
            .grants
            .iter_mut()
            .filter(|grant| grant.of == of && grant.from <= now)
        {
            grant.until = grant.until.min(now);
            grant.seen = grant.seen.min(now);
        }
    }

    fn may_read(&self, of: (usize, usize), now: UnixMs) -> bool {
        let may = |grant: &Grant| grant.of == of && grant.read && grant.from <= now && now < grant.seen;
        self.grants.iter().any(may)
    }

    /// A daemon is handed the key of a generation.
    pub(super) fn handed(&mut self, key: Key, generation: u64, now: UnixMs) -> Held {
        if !self.may_read((key.0, key.2), now) {
            return broken("Secret", format!("{key:?} is handed the key of {generation}"));
        }
        self.handed.entry(key).or_default().insert(generation);
        Ok(())
    }

    /// Something is sealed under the key of a generation.
    pub(super) fn sealed(&self, publisher: usize, channel: usize, generation: u64, now: UnixMs) -> Held {
        let of_channel = self
            .handed
            .iter()
            .filter(|(key, _)| (key.0, key.1) == (publisher, channel));
        for (key, _) in of_channel.filter(|(_, known)| known.contains(&generation)) {
            if !self.may_read((publisher, key.2), now) {
                return broken(
                    "Secret",
                    format!("{key:?} has the key of {generation}, and may not read"),
                );
            }
        }
        Ok(())
    }

    // -- subscribing

    /// A publisher accepts a request.
    pub(super) fn accepted(&mut self, nonce: Nonce, log: u64, next: u64) {
        self.accepted.entry(nonce).or_default().insert((log, next));
    }

    /// A daemon does not want to read any more, or was told that it does not.
    pub(super) fn left(&mut self, key: Key) {
        self.left.insert(key);
    }

    /// A publisher forgets a daemon that left.
    pub(super) fn removed(&self, key: Key) -> Held {
        if self.left.contains(&key) {
            return Ok(());
        }
        broken("Removed", format!("{key:?} never left"))
    }

    /// A subscription runs: from this number on, or where it was.
    pub(super) fn reading(&mut self, key: Key, nonce: &Nonce, log: u64, next: u64) -> Held {
        if !self.accepted.get(nonce).is_some_and(|told| told.contains(&(log, next))) {
            return broken(
                "Order",
                format!("{key:?} is accepted at {log}, {next}, and was not told so"),
            );
        }
        self.positions.entry(key).or_insert((log, next - 1));
        Ok(())
    }

    /// What was read before is another life.
    pub(super) fn restarted(&mut self, key: Key, log: u64, next: u64) -> Held {
        match self.positions.insert(key, (log, next - 1)) {
            Some((before, _)) if before < log => Ok(()),
            before => broken("Order", format!("{key:?} begins anew in {log} after {before:?}")),
        }
    }

    /// A subscription begins without a past.
    pub(super) fn anew(&mut self, key: Key) {
        self.positions.remove(&key);
    }

    pub(super) fn gap(&mut self, key: Key, is_grouped: bool, gap: Gap) -> Held {
        let Some((log, last)) = self.positions.get_mut(&key) else {
            return broken("Order", format!("{key:?} is told {gap:?}, and reads nothing"));
        };
        if gap.first != *last + 1 {
            return broken("Order", format!("{key:?} is told {gap:?} after {last}"));
        }
        *last = gap.last;
        let kept = self.kept.get(&(key.0, key.1, *log)).copied().unwrap_or(0);
        if is_grouped || gap.last >= kept {
            return broken("Gap", format!("{key:?} is told {gap:?}, and {kept} is kept"));
        }
        Ok(())
    }

    /// A daemon gets an event: under its number of the channel, or as its turn.
    pub(super) fn delivered(&mut self, key: Key, is_grouped: bool, number: u64, what: (u64, u64)) -> Held {
        let (sequence, content) = what;
        let Some((log, last)) = self.positions.get_mut(&key) else {
            return broken("Order", format!("{key:?} gets {number}, and reads nothing"));
        };
        if number != *last + 1 {
            return broken("Order", format!("{key:?} gets {number} after {last} of {log}"));
        }
        *last = number;
        let term = *log;
        let place = self.places.get(&content);
        let Some((life, _)) = place.filter(|(life, at)| *at == sequence && (life.0, life.1) == (key.0, key.1)) else {
            return broken(
                "Order",
                format!("{key:?} gets {content} as {sequence}, which is {place:?}"),
            );
        };
        if !is_grouped {
            if life.2 != term || number != sequence {
                return broken(
                    "Order",
                    format!("{key:?} gets {sequence} of {life:?} as {number} of {term}"),
                );
            }
            return Ok(());
        }
        let life = *life;
        let group = self.groups.entry(life).or_default();
        if group.given.get(&(key.2, term, number)) != Some(&sequence) {
            return broken("Group", format!("{key:?} gets {sequence} as turn {number} of {term}"));
        }
        group.settled.insert(sequence);
        Ok(())
    }

    // -- groups

    /// A group is owed an event.
    pub(super) fn owed(&mut self, life: Life, sequence: u64) {
        self.groups.entry(life).or_default().owed.insert(sequence);
    }

    /// A member is sent an event.
    pub(super) fn given(&mut self, life: Life, daemon: usize, (term, turn): (u64, u64), sequence: u64) -> Held {
        let group = self.groups.entry(life).or_default();
        let holder = group.held.get(&sequence).copied();
        if holder.is_some_and(|holder| holder != (daemon, term)) || group.taken.contains(&sequence) {
            return broken(
                "Group",
                format!("{sequence} of {life:?} goes to {daemon}, and {holder:?} has it or it was taken"),
            );
        }
        group.held.insert(sequence, (daemon, term));
        group.given.insert((daemon, term, turn), sequence);
        Ok(())
    }

    /// A member took what it had.
    pub(super) fn taken(&mut self, life: Life, daemon: usize, sequences: &[u64]) -> Held {
        let group = self.groups.entry(life).or_default();
        for sequence in sequences {
            let holder = group.held.remove(sequence);
            let is_settled = group.settled.contains(sequence);
            if holder.is_none_or(|(holder, _)| holder != daemon) || !is_settled {
                return broken("Group", format!("{daemon} took {sequence}, which is with {holder:?}"));
            }
            group.taken.insert(*sequence);
        }
        Ok(())
    }

    /// A member is none any more.
    pub(super) fn member_left(&mut self, life: Life, daemon: usize) {
        let group = self.groups.entry(life).or_default();
        group.held.retain(|_, (holder, _)| *holder != daemon);
    }

    /// No member gets these.
    pub(super) fn lost(&mut self, life: Life, gap: Gap) {
        let group = self.groups.entry(life).or_default();
        group.settled.extend(gap.first..=gap.last);
    }

    /// A publisher lost everything that it knew of a life.
    pub(super) fn life_over(&mut self, life: Life) {
        // What is on its way still arrives.
        self.groups.entry(life).or_default().owed.clear();
        self.kept.insert(life, u64::MAX);
    }

    pub(super) fn at_the_end(&self) -> Held {
        for (life, group) in &self.groups {
            if let Some(sequence) = group.owed.difference(&group.settled).next() {
                return broken("Owed", format!("{sequence} of {life:?} is with nobody"));
            }
        }
        if let Some(content) = self.refused.iter().find(|content| self.places.contains_key(content)) {
            return broken("Told", format!("{content} is said not to be published, and is"));
        }
        Ok(())
    }
}
