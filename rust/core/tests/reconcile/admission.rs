//! Which actions go now, which wait, and what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::behaviour::{Behaviour, Heard};
use meshos_core::command::{AdminEvent, ChainId, IceAction};
use meshos_core::finite::Share;
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::signal::{DaemonIntent, DaemonSignal, LocalReplicaIntent, Outcome, Signal};
use meshos_core::status::{Disposition, Lifecycle, Part, Progress};

use crate::cluster::{
    Cluster, HERE, START, added, admin, crash, desired, dropped, ended, ice, intent, leader, lifecycle, local, ms,
    node, removed, retry, rtt, s,
};
use crate::{Loop, short};

use DaemonIntent::{Run, Stop};
use LocalReplicaIntent::{Drop, Hold};

/// So many chains, each held by node 2 and to be held here.
fn to_pull(count: u64) -> Vec<Signal> {
    (100..100 + count)
        .flat_map(|chain| [added(chain, 2), local(chain, Hold)])
        .collect()
}

/// So many chains with one copy too many, led here.
fn to_evict(count: u64) -> Vec<Signal> {
    (100..100 + count)
        .flat_map(|chain| {
            [
                added(chain, 2),
                added(chain, 3),
                leader(chain, Some(1), 1),
                desired(chain, 1),
            ]
        })
        .collect()
}

fn raised() -> Outcome {
    Outcome::Raised {
        reason: Arc::from("ValueError: no"),
        traceback: Some(Arc::from("in line 1")),
    }
}

#[test]
fn pulls_go_one_by_one_each_in_its_turn() {
    let mut cluster = Cluster::new(1, MeshOsConfig::default());
    cluster.logging = false;
    to_pull(200).into_iter().for_each(|signal| cluster.say(signal));
    cluster.settle();
    let stats = *cluster.behaviour.stats();
    // The first at once, and 199 more each 250 ms later.
    let took = cluster.now.since(START);
    assert!(took >= ms(199 * 250) && took <= ms(199 * 250 + 100), "{took:?}");
    assert_eq!((stats.dispatched, stats.failed, stats.dispatch_retries), (200, 0, 0));
    // Who waits, waits once.
    assert_eq!(stats.deferred, 199);
    let pulled: Vec<String> = cluster
        .carried_out
        .iter()
        .map(|it| crate::action(it, cluster.now))
        .collect();
    let in_order: Vec<String> = (100..300).map(|chain| format!("pull {chain} from 2")).collect();
    assert_eq!(pulled, in_order);
}

#[test]
fn a_pull_waits_for_what_is_left_of_the_span() {
    let mut it = Loop::new();
    it.tell(to_pull(1));
    it.now = it.now.plus(ms(100));
    let step = it.tell([added(200, 2), local(200, Hold)]);
    assert_eq!(step.dispatches.len(), 0);
    assert_eq!(step.next, Some(it.now.plus(ms(150))));
    assert_eq!(it.says_after(ms(149)), [""; 0]);
    assert_eq!(it.says_after(ms(1)), ["pull 200 from 2"]);
}

#[test]
fn a_failed_pull_gives_back_what_it_took() {
    // However it fails, another chain is pulled at once, and the same may be tried without waiting for its window.
    for outcome in [dropped(), retry(s(60)), raised()] {
        let mut it = Loop::new();
        let step = it.tell(to_pull(2));
        assert_eq!(step.dispatches.len(), 1);
        assert_eq!(
            it.says([ended(step.dispatches[0].id, outcome.clone())]),
            ["pull 101 from 2"],
            "{outcome:?}"
        );
        assert_eq!(it.chain(100).stable_after, None);
        assert!(it.chain(101).stable_after.is_some());
    }
}

#[test]
fn a_failed_pull_gives_back_only_its_own() {
    let mut it = Loop::new();
    let first = it.tell(to_pull(3));
    it.after(ms(250));
    // The second has the throttle now; that the first fails changes nothing about it.
    assert_eq!(it.says([ended(first.dispatches[0].id, retry(s(60)))]), [""; 0]);
    assert_eq!(it.says_after(ms(249)), [""; 0]);
    assert_eq!(it.says_after(ms(1)), ["pull 102 from 2"]);
}

#[test]
fn two_admitted_at_one_moment_are_given_back_one_by_one() {
    let mut it = Loop::new();
    let step = it.tell(to_evict(20));
    assert_eq!(step.dispatches.len(), 10);
    // One of ten of the same moment fails: one place is free, not ten.
    let said = it.says([ended(step.dispatches[3].id, dropped())]);
    assert_eq!(said, ["evict 110 from 2"]);
}

#[test]
fn a_chain_is_left_alone_after_a_pull_or_a_drop() {
    let mut it = Loop::new();
    it.tell(to_pull(1));
    it.tell([added(100, 1)]);
    it.end_all(&Outcome::Done);
    it.now = it.now.plus(s(10));
    assert_eq!(it.says([local(100, Drop)]), [""; 0]);
    // Another chain is not.
    assert_eq!(it.says([added(101, 1), local(101, Drop)]), ["drop 101"]);
    assert_eq!(it.says_after(ms(49_999)), [""; 0]);
    assert_eq!(it.says_after(ms(1)), ["drop 100"]);
    it.tell([removed(100, 1), removed(101, 1)]);
    it.end_all(&Outcome::Done);
    assert_eq!(it.says([local(100, Hold)]), [""; 0]);
    assert_eq!(it.says_after(s(60)), ["pull 100 from 2"]);
}

#[test]
fn a_failed_drop_may_be_tried_again_at_once() {
    let mut it = Loop::new();
    let step = it.tell([added(100, 1), local(100, Drop)]);
    it.tell([ended(step.dispatches[0].id, retry(ms(1)))]);
    assert_eq!(it.says_after(ms(1)), ["drop 100"]);
}

#[test]
fn evictions_are_so_many_in_any_second() {
    let mut it = Loop::new();
    let mut seen = it.says(to_evict(35)).len();
    assert_eq!(seen, 10);
    it.end_all(&Outcome::Done);
    for (millis, more) in [(999, 0), (1, 10), (500, 0), (499, 0), (1, 10), (1000, 5)] {
        let said = it.says_after(ms(millis)).len();
        it.end_all(&Outcome::Done);
        assert_eq!(said, more, "after {millis} ms more");
        seen += said;
    }
    assert_eq!(seen, 35);
    // The window slides: it does not begin anew with each second.
    let mut it = Loop::new();
    assert_eq!(it.says(to_evict(4)).len(), 4);
    it.end_all(&Outcome::Done);
    it.now = it.now.plus(ms(600));
    let more = (200..220).flat_map(|chain| {
        [
            added(chain, 2),
            added(chain, 3),
            leader(chain, Some(1), 1),
            desired(chain, 1),
        ]
    });
    assert_eq!(it.says(more.collect::<Vec<_>>()).len(), 6);
    it.end_all(&Outcome::Done);
    assert_eq!(it.says_after(ms(400)).len(), 4);
    it.end_all(&Outcome::Done);
    assert_eq!(it.says_after(ms(600)).len(), 6);
}

#[test]
fn what_is_urgent_goes_first_through_a_throttle() {
    let mut it = Loop::new();
    it.tell(to_evict(30));
    it.end_all(&Outcome::Done);
    let forced = IceAction::ForceEvictReplica {
        chain: ChainId::new(900),
        victim: node(5),
    };
    it.tell([added(900, 5), leader(900, Some(1), 1), ice(forced)]);
    let said = it.says_after(s(1));
    assert_eq!(said[0], "evict 900 from 5");
    assert_eq!(said.len(), 10);
}

#[test]
fn retries_are_so_many_and_then_it_failed() {
    let mut config = MeshOsConfig::default();
    config.backpressure.max_defer_count = 3;
    let mut it = Loop::with(config);
    let mut step = it.tell([intent(1, Run)]);
    let mut dispatched = 0;
    let mut last = Vec::new();
    for _ in 0..3 {
        assert_eq!(step.dispatches.len(), 1);
        dispatched += 1;
        let retried = it.tell([ended(step.dispatches[0].id, retry(ms(10)))]);
        assert_eq!(retried.failures, []);
        assert_eq!(retried.disposed[0].retry_after, Some(ms(10)));
        step = it.after(ms(10));
    }
    dispatched += step.dispatches.len();
    let failed = it.tell([ended(step.dispatches[0].id, retry(ms(10)))]);
    last.extend(failed.failures);
    assert_eq!(dispatched, 4, "the first, and three retries");
    assert_eq!(&*last[0].reason, "given up after 3 retries: not yet");
    let stats = it.behaviour.stats();
    assert_eq!((stats.dispatch_retries, stats.failed), (3, 1));
    assert_eq!(it.flying(), [("start_daemon", "failed")]);
    // It is not lost: it is emitted again, with a budget of its own.
    let again = it.after(ms(500));
    assert_eq!(again.dispatches.len(), 1);
    assert_eq!(it.tell([ended(again.dispatches[0].id, retry(ms(10)))]).failures, []);
}

#[test]
fn failures_in_a_row_wait_longer_and_longer() {
    let mut it = Loop::new();
    let mut step = it.tell([intent(1, Run)]);
    for wait in [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000] {
        it.tell([ended(step.dispatches[0].id, raised())]);
        assert_eq!(it.says_after(ms(wait - 1)), [""; 0]);
        step = it.after(ms(1));
        assert_eq!(step.dispatches.len(), 1, "after {wait} ms");
    }
}

#[test]
fn a_failure_says_what_and_why_and_where() {
    let mut it = Loop::new();
    let step = it.tell([intent(1, Run)]);
    let step = it.tell([ended(step.dispatches[0].id, raised())]);
    let failure = &step.failures[0];
    let source = &failure.source;
    assert_eq!((source.part, &*source.name), (Part::Action, "start_daemon"));
    assert_eq!((source.target, source.action_id), (Some(1), Some(1)));
    assert_eq!(
        (&*failure.reason, failure.traceback.as_deref()),
        ("ValueError: no", Some("in line 1"))
    );
    assert_eq!(
        (step.disposed[0].disposition, step.disposed[0].action_id),
        (Disposition::Failed, 1)
    );
}

#[test]
fn every_disposition_is_told_once() {
    let mut it = Loop::new();
    let step = it.tell([intent(1, Run), intent(2, Run)]);
    let done = it.tell([ended(step.dispatches[0].id, Outcome::Done)]);
    assert_eq!(done.disposed[0].disposition, Disposition::Dispatched);
    assert_eq!(
        it.tell([ended(step.dispatches[0].id, dropped())]).disposed,
        [],
        "it had ended"
    );
    assert_eq!(
        it.tell([ended(77, Outcome::Done)]).disposed,
        [],
        "there is no such action"
    );
    assert_eq!(it.behaviour.stats().dispatched, 1);
}

#[test]
fn a_dispatch_that_hangs_keeps_its_place_and_its_key() {
    let mut it = Loop::new();
    let step = it.tell((1..=16).map(|id| intent(id, Run)));
    assert_eq!(step.dispatches.len(), 16);
    assert_eq!(it.says([intent(17, Run)]), [""; 0]);
    let step = it.after(s(60));
    assert_eq!(
        (step.failures.len(), step.disposed.len(), step.dispatches.len()),
        (16, 16, 0)
    );
    assert_eq!(&*step.failures[0].reason, "no answer in time");
    assert_eq!((it.behaviour.running(), it.behaviour.stats().failed), (16, 16));
    // It is told once, and nothing is tried beside it, nor is there an alarm in the past.
    let step = it.after(s(3600));
    assert_eq!((step.failures.len(), step.dispatches.len()), (0, 0));
    assert!(step.next.is_some_and(|next| next > it.now));
    // A late answer is ignored, but for the place it gives back.
    let step = it.tell([ended(1, Outcome::Done)]);
    assert_eq!(
        step.dispatches
            .iter()
            .map(|dispatch| short(dispatch, it.now))
            .collect::<Vec<_>>(),
        ["start 17"]
    );
    assert_eq!((step.disposed, it.behaviour.stats().dispatched), (vec![], 0));
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Stopped);
    it.tell([ended(2, dropped())]);
    assert_eq!(it.behaviour.stats().failed, 16);
    assert_eq!(it.says_after(ms(500)), ["start 1"]);
}

#[test]
fn a_throttle_that_is_open_while_all_places_are_taken_wakes_nobody() {
    let mut it = Loop::new();
    // One pull and ten evictions run, the rest waits in line; daemons take the places that are left.
    it.tell(to_pull(3));
    it.tell((500..512).flat_map(|chain| {
        [
            added(chain, 2),
            added(chain, 3),
            leader(chain, Some(1), 1),
            desired(chain, 1),
        ]
    }));
    it.tell((1..=16).map(|id| intent(id, Run)));
    assert_eq!(it.behaviour.running(), 16);
    let step = it.after(s(5));
    assert!(step.next.is_some_and(|next| next > it.now), "{:?}", step.next);
    assert_eq!(step.dispatches.len(), 0);
    // The daemons that wait are more urgent; then who is first in line goes at once.
    let ids: Vec<u64> = it
        .behaviour
        .view()
        .emissions
        .iter()
        .map(|emission| emission.id)
        .take(16)
        .collect();
    let said = it.says(ids.into_iter().map(|id| ended(id, dropped())));
    assert!(said.contains(&"pull 101 from 2".to_owned()), "{said:?}");
}

#[test]
fn a_stop_that_takes_its_grace_is_not_given_up_before() {
    let mut config = MeshOsConfig::default();
    config.maintenance.stop_grace = s(300);
    let mut it = Loop::with(config);
    it.tell([lifecycle(1, DaemonSignal::Started), intent(1, Stop)]);
    assert_eq!(it.after(s(359)).failures, []);
    assert_eq!(it.after(s(1)).failures.len(), 1);
}

#[test]
fn a_start_is_gated_at_the_last_moment() {
    // More is looked at than fits into one step: the crash is folded, and its daemon not looked at yet.
    let mut config = MeshOsConfig::default();
    config.backoff.jitter = Share::default();
    let mut behaviour = Behaviour::new(HERE, config, 1, START);
    let busy = behaviour.step(START, (1..=16).map(|id| intent(id, Run)));
    assert_eq!(busy.dispatches.len(), 16);
    behaviour.step(
        START,
        [lifecycle(1_000_000, DaemonSignal::Started), crash(1_000_000, "one")],
    );
    let mut now = START.plus(ms(500));
    behaviour.step(now, [intent(1_000_000, Run)]);
    assert!(behaviour.view().in_flight.len() == 17);
    now = now.plus(ms(1));
    let mut signals: Vec<Signal> = (1000..6000).map(|id| intent(id, Stop)).collect();
    signals.push(lifecycle(1_000_000, DaemonSignal::Started));
    signals.push(crash(1_000_000, "two"));
    signals.push(ended(1, dropped()));
    let step = behaviour.step(now, signals);
    let gated: Vec<_> = step
        .disposed
        .iter()
        .filter(|it| it.disposition == Disposition::Gated)
        .collect();
    assert_eq!((gated.len(), behaviour.stats().gated), (1, 1));
    assert_eq!((&*gated[0].reason, gated[0].retry_after), ("backoff", Some(ms(1000))));
    let why = step.failures.iter().map(|failure| &*failure.reason).collect::<Vec<_>>();
    assert!(why.contains(&"backoff: not before 1000 ms"), "{why:?}");
}

#[test]
fn opposites_cancel_each_other() {
    let mut it = Loop::new();
    // All places are taken, so what is emitted waits.
    it.tell((1..=16).map(|id| intent(id, Run)));
    it.tell([lifecycle(50, DaemonSignal::Started), intent(50, Stop)]);
    assert_eq!(it.flying().len(), 17);
    let step = it.tell([intent(50, Run)]);
    assert_eq!(step.disposed[0].disposition, Disposition::Superseded);
    assert_eq!((it.flying().len(), it.behaviour.depth()), (16, 0));
}

#[test]
fn what_was_deferred_and_is_not_wanted_any_more_is_not_carried_out() {
    let mut it = Loop::new();
    it.tell(to_pull(1));
    it.tell([added(100, 1)]);
    it.end_all(&Outcome::Done);
    it.tell([local(100, Drop)]);
    assert_eq!(it.flying(), [("drop_replica", "deferred")]);
    it.tell([local(100, Hold)]);
    assert_eq!(it.says_after(s(120)), [""; 0]);
}

#[test]
fn a_million_wishes_are_one_entry() {
    let mut behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, START);
    behaviour.step(START, (1..=16).map(|id| intent(id, Run)));
    for _ in 0..1000 {
        behaviour.step(START, (0..1000).map(|turn| intent(99, [Run, Stop][turn % 2])));
        behaviour.step(START, [intent(99, Run)]);
    }
    assert_eq!((behaviour.depth(), behaviour.view().in_flight.len()), (1, 17));
}

fn small(capacity: u32) -> MeshOsConfig {
    let mut config = MeshOsConfig::default();
    config.action_queue_capacity = capacity;
    config
}

#[test]
fn a_full_queue_refuses_the_least_urgent_and_makes_up_for_it() {
    let mut it = Loop::with(small(2));
    it.tell((1..=16).map(|id| intent(id, Run)));
    let before = it.behaviour.stats().dropped;
    // Two notices wait; a replica takes the place of one, a daemon that of the other, and maintenance that of a replica.
    it.tell(
        [2, 3]
            .into_iter()
            .flat_map(|peer| [rtt(peer, 300), rtt(peer, 300), rtt(peer, 300)]),
    );
    let kinds = |it: &Loop| {
        let waiting = it.behaviour.view().in_flight.values();
        let waiting = waiting.filter(|flight| flight.progress == Progress::Queued);
        waiting.map(|flight| flight.action.kind()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&it), ["mark_avoid", "mark_avoid"]);
    let step = it.tell([leader(100, Some(1), 1), desired(100, 1)]);
    assert_eq!(step.first_refused, Some("mark_avoid"));
    assert_eq!(kinds(&it), ["request_placement", "mark_avoid"]);
    let step = it.tell([intent(50, Run)]);
    assert_eq!(step.first_refused, Some("mark_avoid"));
    assert_eq!(kinds(&it), ["start_daemon", "request_placement"]);
    // No less urgent one: this one is refused.
    let step = it.tell([leader(101, Some(1), 1), desired(101, 1)]);
    assert_eq!(step.first_refused, Some("request_placement"));
    let step = it.tell([added(102, 4), leader(102, Some(1), 1)]);
    assert_eq!(step.first_refused, None);
    let forced = IceAction::ForceEvictReplica {
        chain: ChainId::new(102),
        victim: node(4),
    };
    it.tell([ice(forced)]);
    assert_eq!(kinds(&it), ["start_daemon", "request_eviction"]);
    assert_eq!(it.behaviour.stats().dropped - before, 4);
    // Places get free, and nothing that was refused is lost.
    let mut seen = Vec::new();
    for id in 1..=16 {
        seen.extend(it.says([lifecycle(id, DaemonSignal::Started), ended(id, Outcome::Done)]));
    }
    assert_eq!(&seen[..2], ["evict 102 from 4", "start 50"]);
    assert!(seen.contains(&"place 100 not on [2 3]".to_owned()), "{seen:?}");
    assert!(seen.contains(&"place 101 not on [2 3]".to_owned()), "{seen:?}");
}

#[test]
fn what_waits_for_a_retry_gives_way_to_what_is_urgent() {
    let mut it = Loop::with(small(1));
    let step = it.tell([leader(100, Some(1), 1), desired(100, 1)]);
    it.tell([ended(step.dispatches[0].id, retry(s(600)))]);
    assert_eq!(it.flying(), [("request_placement", "deferred")]);
    let enter = AdminEvent::EnterMaintenance {
        node: HERE,
        drain_for: None,
    };
    assert_eq!(it.says([admin(enter)])[0], "commit maintenance");
}

#[test]
fn a_refused_backoff_is_told_when_there_is_space() {
    let mut it = Loop::with(small(1));
    it.tell((1..=17).map(|id| intent(id, Run)));
    let step = it.tell([lifecycle(50, DaemonSignal::Started), intent(50, Run), crash(50, "boom")]);
    assert_eq!(step.first_refused, Some("apply_backoff"));
    assert_eq!(it.daemon(50).told_backoff, None);
    let said = it.says([1, 2].map(|id| ended(id, dropped())));
    assert_eq!(said[0], "start 17");
    assert!(said[1].starts_with("hold back 50"), "{said:?}");
    assert!(it.daemon(50).told_backoff.is_some());
}

#[test]
fn pressure_rises_at_one_mark_and_falls_at_another() {
    let mut config = small(100);
    config.backpressure.cluster_backpressure_threshold = 50;
    config.backpressure.cluster_backpressure_release = 10;
    let mut it = Loop::with(config);
    // Sixteen run, and the rest waits.
    assert_eq!(it.tell((1..=65).map(|id| intent(id, Run))).pressure, None);
    assert_eq!(it.behaviour.depth(), 49);
    let step = it.tell([intent(66, Run)]);
    let level = Share::new((50.0 - 10.0) / 90.0).expect("finite");
    assert_eq!(step.pressure, Some(Some(level)));
    assert_eq!(step.controls, [Heard::BackpressureOn { level }]);
    // It is told again only when the level moves by a tenth.
    assert_eq!(it.tell([intent(67, Run)]).pressure, None);
    let step = it.tell((70..80).map(|id| intent(id, Run)));
    let level = Share::new((61.0 - 10.0) / 90.0).expect("finite");
    assert_eq!(step.pressure, Some(Some(level)));
    // In between it holds, whichever way the depth goes.
    let step = it.tell((30..=67).map(|id| intent(id, Stop)));
    assert!(matches!(step.pressure, Some(Some(_))), "{:?}", step.pressure);
    assert_eq!(it.behaviour.depth(), 23);
    // Nothing new comes in: that is when it must fall.
    let step = it.tell((18..30).chain(70..79).map(|id| intent(id, Stop)));
    assert_eq!(
        (step.pressure, step.controls),
        (Some(None), vec![Heard::BackpressureOff])
    );
    let stats = it.behaviour.stats();
    assert_eq!(
        (stats.cluster_backpressure_asserts, stats.cluster_backpressure_releases),
        (1, 1)
    );
}

#[test]
fn pressure_falls_when_what_waits_is_carried_out() {
    let mut config = small(100);
    config.backpressure.cluster_backpressure_threshold = 20;
    config.backpressure.cluster_backpressure_release = 0;
    let mut cluster = Cluster::new(1, config);
    (1..=60).for_each(|id| cluster.say(intent(id, Run)));
    let mut edges = Vec::new();
    for _ in 0..20 {
        edges.extend(cluster.step(ms(1)).pressure.map(|level| level.is_some()));
    }
    assert_eq!((edges.first(), edges.last()), (Some(&true), Some(&false)));
    assert_eq!(cluster.running.len(), 60);
}

#[test]
fn a_threshold_above_the_capacity_counts_as_the_capacity() {
    let mut it = Loop::with(small(4));
    let step = it.tell((1..=20).map(|id| intent(id, Run)));
    assert_eq!(step.pressure, Some(Some(Share::WHOLE)));
}

#[test]
fn actions_are_numbered_from_one_without_gaps() {
    let mut it = Loop::new();
    let step = it.tell((1..=5).map(|id| intent(id, Run)));
    let ids: Vec<u64> = step.dispatches.iter().map(|dispatch| dispatch.id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    let emitted: Vec<u64> = it
        .behaviour
        .view()
        .emissions
        .iter()
        .map(|emission| emission.id)
        .collect();
    assert_eq!(emitted, ids);
    assert!(
        it.behaviour
            .view()
            .emissions
            .iter()
            .all(|emission| emission.emitted_at == it.now)
    );
}

#[test]
fn emissions_are_kept_as_many_as_may_wait_and_only_those_that_were_accepted() {
    let mut it = Loop::with(small(4));
    it.tell((1..=30).map(|id| intent(id, Run)));
    let kept: Vec<u64> = it
        .behaviour
        .view()
        .emissions
        .iter()
        .map(|emission| emission.id)
        .collect();
    // Sixteen run, and four wait.
    assert_eq!((kept.as_slice(), it.flying().len()), ([17, 18, 19, 20].as_slice(), 20));
    it.tell([ended(1, dropped())]);
    assert_eq!(it.behaviour.view().emissions.len(), 4);
}

#[test]
fn what_a_shutdown_would_leave_undone_is_counted_by_kind() {
    let mut it = Loop::new();
    let step = it.tell((1..=18).map(|id| intent(id, Run)).chain(to_pull(1)));
    it.tell([ended(step.dispatches[0].id, Outcome::Done)]);
    let undone = it.behaviour.undone();
    assert_eq!(undone.get("start_daemon"), Some(&17));
    assert_eq!(undone.get("pull_replica"), Some(&1));
}

#[test]
fn no_cooldown_lets_every_pull_go_at_once() {
    let mut config = MeshOsConfig::default();
    config.backpressure.pull_cooldown = Duration::ZERO;
    let mut it = Loop::with(config);
    assert_eq!(it.says(to_pull(10)).len(), 10);
}
