//! What a writer and a ring promise.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use meshos_core::status::Part;
use meshos_node::appender::{Appender, Gap, Lost, LostSink, Numbered, Ring, WAITING_MAX, Writer};
use meshos_node::callback::{CallFailed, Callback};
use meshos_node::clock::Deadline;
use meshos_node::lane::Lanes;

const BUDGET: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number(u64);

impl Numbered for Number {
    fn seq(&self) -> u64 {
        self.0
    }
}

/// Keeps what it is given; refuses multiples of `refuses`; waits at the barriers for number 1.
#[derive(Default)]
struct Kept {
    numbers: Mutex<Vec<u64>>,
    closed: AtomicU32,
    refuses: Option<u64>,
    barriers: Option<(Arc<Barrier>, Arc<Barrier>)>,
}

impl Appender<Number> for Kept {
    fn append(&self, record: &Number) -> Result<(), CallFailed> {
        if let (1, Some((inside, go_on))) = (record.0, &self.barriers) {
            inside.wait();
            go_on.wait();
        }
        if self.refuses.is_some_and(|refuses| record.0.is_multiple_of(refuses)) {
            return Err(CallFailed::new("no"));
        }
        assert_eq!(self.closed.load(Ordering::SeqCst), 0, "appended after the end");
        self.numbers.lock().expect("no panic").push(record.0);
        Ok(())
    }

    fn close(&self) -> Result<(), CallFailed> {
        self.closed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn name(&self) -> &'static str {
        "Kept"
    }
}

type Losses = Arc<Mutex<Vec<(u64, Lost)>>>;

fn writer(appender: &Arc<Kept>, lanes: &Lanes) -> (Writer<Number>, Losses) {
    let losses = Losses::default();
    let told = Arc::clone(&losses);
    let lost: LostSink = Arc::new(move |seq, why| told.lock().expect("no panic").push((seq, why)));
    let appender = Arc::clone(appender) as Arc<dyn Appender<Number>>;
    let callback = Callback::new("Kept", Part::Appender);
    (Writer::new(appender, callback, lanes.clone(), BUDGET, lost), losses)
}

fn lanes() -> Lanes {
    Lanes::new("test-lane", 4, |body| body())
}

fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

fn blocked() -> (Arc<Kept>, Arc<Barrier>, Arc<Barrier>) {
    let (inside, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let kept = Kept {
        barriers: Some((Arc::clone(&inside), Arc::clone(&go_on))),
        ..Kept::default()
    };
    (Arc::new(kept), inside, go_on)
}

#[test]
fn records_are_appended_in_order_and_the_appender_is_closed_once() {
    let (kept, lanes) = (Arc::new(Kept::default()), lanes());
    let (writer, losses) = writer(&kept, &lanes);
    for seq in 1..=1000 {
        assert!(writer.push(Number(seq)));
    }
    assert!(writer.flush(soon()));
    assert_eq!(*kept.numbers.lock().expect("no panic"), (1..=1000).collect::<Vec<_>>());
    for seq in 1001..=1010 {
        assert!(writer.push(Number(seq)));
    }
    assert!(writer.close(soon()));
    assert!(writer.close(soon()));
    assert_eq!(kept.numbers.lock().expect("no panic").len(), 1010);
    assert_eq!(kept.closed.load(Ordering::SeqCst), 1);
    assert!(!writer.push(Number(1011)), "a closed writer takes nothing");
    assert_eq!(writer.stats().refused, 1);
    assert!(losses.lock().expect("no panic").is_empty());
}

#[test]
fn a_writer_without_records_closes_too() {
    let (kept, lanes) = (Arc::new(Kept::default()), lanes());
    let (writer, _) = writer(&kept, &lanes);
    assert!(writer.flush(soon()));
    assert!(writer.close(soon()));
    assert_eq!(kept.closed.load(Ordering::SeqCst), 1);
}

#[test]
fn what_an_appender_raises_is_told_by_number() {
    let kept = Arc::new(Kept {
        refuses: Some(3),
        ..Kept::default()
    });
    let lanes = lanes();
    let (writer, losses) = writer(&kept, &lanes);
    for seq in 1..=7 {
        assert!(writer.push(Number(seq)));
    }
    assert!(writer.flush(soon()));
    let failed = || Lost::Failed(CallFailed::new("no"));
    assert_eq!(*losses.lock().expect("no panic"), [(3, failed()), (6, failed())]);
    assert_eq!(*kept.numbers.lock().expect("no panic"), [1, 2, 4, 5, 7]);
}

#[test]
fn an_appender_that_fails_too_often_is_left_alone_and_still_closed() {
    let kept = Arc::new(Kept {
        refuses: Some(1),
        ..Kept::default()
    });
    let lanes = lanes();
    let (writer, losses) = writer(&kept, &lanes);
    for seq in 1..=6 {
        assert!(writer.push(Number(seq)));
    }
    assert!(writer.close(soon()));
    assert_eq!(losses.lock().expect("no panic").last(), Some(&(6, Lost::Disabled)));
    assert_eq!(kept.closed.load(Ordering::SeqCst), 1);
}

#[test]
fn a_full_queue_refuses_and_counts() {
    let ((kept, inside, go_on), lanes) = (blocked(), lanes());
    let (writer, losses) = writer(&kept, &lanes);
    assert!(writer.push(Number(1)));
    inside.wait();
    let waiting = WAITING_MAX as u64;
    for seq in 2..waiting + 2 {
        assert!(writer.push(Number(seq)));
    }
    assert!(!writer.push(Number(waiting + 2)));
    assert_eq!((writer.stats().waiting, writer.stats().refused), (waiting + 1, 1));
    go_on.wait();
    assert!(writer.flush(soon()));
    assert_eq!(kept.numbers.lock().expect("no panic").len() as u64, waiting + 1);
    assert!(losses.lock().expect("no panic").is_empty());
}

#[test]
fn pushing_does_not_wait_for_the_appender() {
    let ((kept, inside, go_on), lanes) = (blocked(), lanes());
    let (writer, _) = writer(&kept, &lanes);
    assert!(writer.push(Number(1)));
    inside.wait();
    // The appender goes on only after this: a push that waited for it would never return.
    assert!(writer.push(Number(2)));
    assert!(!writer.flush(Deadline::after(Duration::ZERO)));
    go_on.wait();
    assert!(writer.flush(soon()));
}

#[test]
fn what_waits_at_the_deadline_is_lost_and_the_appender_closes_when_its_call_ends() {
    let ((kept, inside, go_on), lanes) = (blocked(), lanes());
    let (writer, losses) = writer(&kept, &lanes);
    for seq in 1..=3 {
        assert!(writer.push(Number(seq)));
    }
    inside.wait();
    assert!(!writer.close(Deadline::after(Duration::ZERO)));
    assert_eq!(
        *losses.lock().expect("no panic"),
        [(2, Lost::Closed), (3, Lost::Closed)]
    );
    assert_eq!(kept.closed.load(Ordering::SeqCst), 0);
    go_on.wait();
    assert!(writer.close(soon()));
    assert_eq!(kept.closed.load(Ordering::SeqCst), 1);
    assert_eq!(*kept.numbers.lock().expect("no panic"), [1]);
}

#[test]
fn stopped_lanes_refuse_a_record_without_a_word_and_nobody_waits_for_ever() {
    let (kept, lanes) = (Arc::new(Kept::default()), lanes());
    let (writer, losses) = writer(&kept, &lanes);
    assert!(lanes.stop(PATIENCE));
    // The sink would wait for this lock for ever.
    let held = losses.lock().expect("no panic");
    assert!(!writer.push(Number(1)));
    drop(held);
    assert_eq!(writer.stats().refused, 1);
    assert!(writer.flush(soon()));
    assert!(writer.close(soon()));
    assert!(losses.lock().expect("no panic").is_empty());
}

#[test]
fn lanes_that_stop_lose_what_waits_for_them() {
    let ((kept, inside, go_on), lanes) = (blocked(), Lanes::new("test-lane", 1, |body| body()));
    let ((writer, _), (other, losses)) = (writer(&kept, &lanes), writer(&Arc::new(Kept::default()), &lanes));
    assert!(writer.push(Number(1)));
    inside.wait();
    assert!(other.push(Number(1)));
    // The one lane is busy, so the other's job still waits.
    assert!(!lanes.stop(Duration::ZERO));
    assert_eq!(*losses.lock().expect("no panic"), [(1, Lost::Closed)]);
    assert!(other.flush(soon()));
    go_on.wait();
}

#[test]
fn records_of_several_threads_are_each_appended_once() {
    let (kept, lanes) = (Arc::new(Kept::default()), lanes());
    let (writer, _) = writer(&kept, &lanes);
    thread::scope(|scope| {
        for lane in 0..4_u64 {
            let writer = &writer;
            scope.spawn(move || (0..1000).for_each(|step| assert!(writer.push(Number(1 + lane * 1000 + step)))));
        }
    });
    assert!(writer.flush(soon()));
    let mut numbers = kept.numbers.lock().expect("no panic").clone();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=4000).collect::<Vec<_>>());
}

#[test]
fn a_ring_keeps_the_newest_and_tells_what_fell_out() {
    let mut ring = Ring::new(3);
    assert_eq!((ring.head(), ring.since(0, 10)), (0, (vec![], None)));
    (1..=5).for_each(|seq| assert_eq!(ring.push(Number(seq)), (seq > 3).then(|| Number(seq - 3))));
    let numbers = |seqs: &[u64]| seqs.iter().copied().map(Number).collect::<Vec<_>>();
    let gap = |first, last| Some(Gap { first, last });
    assert_eq!(ring.since(0, 10), (numbers(&[3, 4, 5]), gap(1, 2)));
    assert_eq!(ring.since(1, 2), (numbers(&[3, 4]), gap(2, 2)));
    assert_eq!(ring.since(2, 10), (numbers(&[3, 4, 5]), None));
    assert_eq!(ring.since(4, 10), (numbers(&[5]), None));
    assert_eq!(ring.since(u64::MAX, 10), (vec![], None));
    assert_eq!(ring.head(), 5);
}

#[test]
fn a_record_of_a_ring_is_changed_by_its_number() {
    let mut ring = Ring::new(0);
    ring.push(Number(7));
    assert!(!ring.change(6, |_| panic!("not there")));
    assert!(!ring.change(8, |_| panic!("not there")));
    assert!(ring.change(7, |record| *record = Number(7)));
    ring.push(Number(9));
    assert_eq!(ring.iter().copied().collect::<Vec<_>>(), [Number(9)]);
}

/// Settles what was appended, a few at a time; cannot settle a group with a multiple of `refuses` in it.
#[derive(Default)]
struct Grouped {
    groups: Mutex<Vec<Vec<u64>>>,
    group: Mutex<Vec<u64>>,
    refuses: Option<u64>,
}

impl Appender<Number> for Grouped {
    fn append(&self, record: &Number) -> Result<(), CallFailed> {
        self.group.lock().expect("no panic").push(record.0);
        Ok(())
    }

    fn together(&self) -> usize {
        4
    }

    fn settle(&self) -> Result<(), CallFailed> {
        let group = std::mem::take(&mut *self.group.lock().expect("no panic"));
        let refused = |seq: &u64| self.refuses.is_some_and(|refuses| seq.is_multiple_of(refuses));
        let failed = group.iter().any(refused);
        self.groups.lock().expect("no panic").push(group);
        if failed { Err(CallFailed::new("no")) } else { Ok(()) }
    }

    fn name(&self) -> &'static str {
        "Grouped"
    }
}

fn grouped(refuses: Option<u64>, lanes: &Lanes) -> (Arc<Grouped>, Writer<Number>, Losses) {
    let appender = Arc::new(Grouped {
        refuses,
        ..Grouped::default()
    });
    let losses = Losses::default();
    let told = Arc::clone(&losses);
    let lost: LostSink = Arc::new(move |seq, why| told.lock().expect("no panic").push((seq, why)));
    let callback = Callback::new("Grouped", Part::Appender);
    let given = Arc::clone(&appender) as Arc<dyn Appender<Number>>;
    (
        appender,
        Writer::new(given, callback, lanes.clone(), BUDGET, lost),
        losses,
    )
}

#[test]
fn records_that_are_settled_together_count_as_kept_after_that() {
    let lanes = lanes();
    let (appender, writer, losses) = grouped(None, &lanes);
    (1..=103).for_each(|seq| assert!(writer.push(Number(seq))));
    assert!(writer.flush(soon()));
    let groups = appender.groups.lock().expect("no panic").clone();
    assert!(groups.iter().all(|group| (1..=4).contains(&group.len())), "{groups:?}");
    assert_eq!(groups.concat(), (1..=103).collect::<Vec<_>>());
    assert!(losses.lock().expect("no panic").is_empty());
    assert!(writer.close(soon()));
}

#[test]
fn what_was_not_settled_is_lost_with_all_that_it_was_together_with() {
    let lanes = lanes();
    let (appender, writer, losses) = grouped(Some(10), &lanes);
    (1..=20).for_each(|seq| assert!(writer.push(Number(seq))));
    assert!(writer.flush(soon()));
    let groups = appender.groups.lock().expect("no panic").clone();
    let unsettled = groups
        .into_iter()
        .filter(|group| group.iter().any(|seq| seq.is_multiple_of(10)));
    let failed = || Lost::Failed(CallFailed::new("no"));
    let expected: Vec<_> = unsettled.flatten().map(|seq| (seq, failed())).collect();
    assert!(expected.len() >= 2);
    assert_eq!(*losses.lock().expect("no panic"), expected);
}

#[test]
fn somebody_is_told_once_what_was_pushed_before_is_settled() {
    let (kept, inside, go_on) = blocked();
    let lanes = lanes();
    let (writer, _) = writer(&kept, &lanes);
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = |name: &'static str| {
        let (told, kept) = (Arc::clone(&told), Arc::clone(&kept));
        move || {
            let seen = kept.numbers.lock().expect("no panic").clone();
            told.lock().expect("no panic").push((name, seen));
        }
    };
    writer.after(tell("before anything"));
    assert!(writer.push(Number(1)));
    writer.after(tell("one"));
    inside.wait();
    assert!(writer.push(Number(2)));
    writer.after(tell("two"));
    assert_eq!(*told.lock().expect("no panic"), [("before anything", vec![])]);
    go_on.wait();
    assert!(writer.close(soon()));
    writer.after(tell("at the end"));
    let told = told.lock().expect("no panic").clone();
    assert_eq!(
        told.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["before anything", "one", "two", "at the end"]
    );
    assert!(told[1].1.contains(&1) && told[2].1.contains(&2));
}
