//! The reactor: one thread of the process that has its meshes take their turns.
//!
//! Whoever has a place is given a turn when it was woken, and when the time comes that it named. However many there are,
//! they share the thread; a turn is short and never waits. A thread that has something told, and waits for what comes of it
//! or has nothing else to do, may give the turns itself for a moment: to wake another one takes longer than a turn.
//!
//! Invariants
//! * One thread at a time gives turns.
//! * There is at most one such thread in a process. It starts with the first place, and ends when there is none.
//! * A wake is never lost: who is woken during a turn gets another one.
//! * A thread that has something else to do gives short turns only.
//! * No lock is held during a turn. One that panics is taken out, and counted.
//! * A child of a fork has none of it: it begins anew.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::sync::{Condvar, Mutex};

/// What is given turns.
pub trait Turn: Send + Sync {
    /// Does what is due; returns when the next turn is due without a wake, if ever.
    fn turn(&self) -> Option<Instant>;

    /// Whether a turn is short enough for a thread that has something else to do. It is asked under a lock: it takes none.
    fn is_short(&self) -> bool {
        true
    }
}

struct Seat {
    turn: Weak<dyn Turn>,
    woken: Arc<AtomicBool>,
    due: Option<Instant>,
    /// The earliest time that was asked for since its last turn began.
    asked: Option<Instant>,
}

#[derive(Default)]
struct State {
    seats: BTreeMap<u64, Seat>,
    due: BTreeSet<(Instant, u64)>,
    woken: VecDeque<u64>,
    made: u64,
    running: bool,
    /// Whether the thread waits: waking one that does not would be a call of the system for nothing.
    waiting: bool,
    /// Until when it does; `None`: for ever.
    sleeps_until: Option<Instant>,
    /// Whether somebody gives turns.
    turning: bool,
    panics: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// Gives turns.
#[derive(Clone, Default)]
pub struct Reactor {
    shared: Arc<Shared>,
}

/// A place in a reactor, until it is dropped.
pub struct Place {
    shared: Arc<Shared>,
    number: u64,
    woken: Arc<AtomicBool>,
}

/// How many rounds of turns a thread gives that has something else to do.
const ROUNDS_MAX: usize = 64;
/// How long.
const GIVES_FOR: Duration = Duration::from_micros(500);

thread_local! {
    /// Whether this thread has something told, and will see to the turns that come of it.
    static TELLING: Cell<bool> = const { Cell::new(false) };
    /// Whether somebody waited for something that a turn brought on this thread.
    static AWAITED: Cell<bool> = const { Cell::new(false) };
}

/// Says, during a turn, that somebody had nothing left and waited for what the turn brought.
pub fn awaited() {
    AWAITED.set(true);
}

/// Ends it, also when what is told panics.
struct Telling(bool);

impl Drop for Telling {
    fn drop(&mut self) {
        TELLING.set(self.0);
    }
}

static OF_PROCESS: ArcSwapOption<(u32, Reactor)> = ArcSwapOption::const_empty();

impl Reactor {
    /// The one of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let process = std::process::id();
        loop {
            let found = OF_PROCESS.load();
            if let Some(found) = found.as_deref().filter(|found| found.0 == process) {
                return found.1.clone();
            }
            // Of two who make one at a time, the second takes that of the first.
            let made = Some(Arc::new((process, Self::default())));
            OF_PROCESS.compare_and_swap(&*found, made);
        }
    }

    /// Takes a place, with a turn at once. `false` beside it: the system has no thread to give, and nothing will happen.
    #[must_use]
    pub fn place(&self, turn: Weak<dyn Turn>) -> (Place, bool) {
        let mut state = self.shared.state.lock();
        state.made += 1;
        let number = state.made;
        let woken = Arc::new(AtomicBool::new(true));
        let seat = Seat {
            turn,
            woken: Arc::clone(&woken),
            due: None,
            asked: None,
        };
        state.seats.insert(number, seat);
        state.woken.push_back(number);
        if !state.running {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("meshos-mesh".to_owned());
            state.running = thread.spawn(move || shared.run()).is_ok();
        }
        let runs = state.running;
        drop(state);
        self.shared.wake.notify_one();
        let shared = Arc::clone(&self.shared);
        (Place { shared, number, woken }, runs)
    }

    /// Does something short that wakes places, and gives the turns that come of it on this thread, if nobody else does. Who
    /// calls holds no lock, and runs no user code. What takes longer than a moment is left to the thread of the reactor.
    pub fn tell<T>(&self, what: impl FnOnce() -> T) -> T {
        if TELLING.get() {
            return what();
        }
        let telling = Telling(TELLING.replace(true));
        let told = what();
        self.shared.give();
        drop(telling);
        told
    }

    /// The same, and whether somebody waited for something that came of it here.
    pub fn tell_awaited<T>(&self, what: impl FnOnce() -> T) -> (T, bool) {
        AWAITED.set(false);
        let told = self.tell(what);
        (told, AWAITED.get())
    }

    /// Turns that panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.shared.state.lock().panics
    }
}

impl Place {
    /// Asks for a turn; cheap when one was asked for already.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            let mut state = self.shared.state.lock();
            state.woken.push_back(self.number);
            let waiting = state.waiting && !state.turning && !TELLING.get();
            drop(state);
            if waiting {
                self.shared.wake.notify_one();
            }
        }
    }

    /// Asks for a turn at a time, or before.
    pub fn wake_by(&self, at: Instant) {
        let mut state = self.shared.state.lock();
        let Some(seat) = state.seats.get_mut(&self.number) else {
            return;
        };
        seat.asked = Some(seat.asked.map_or(at, |asked| asked.min(at)));
        let is_first = seat.due.is_none_or(|due| at < due);
        if is_first {
            state.turned(self.number, Some(at));
        }
        let waiting = is_first && state.waiting && state.due.first().is_some_and(|(first, _)| *first >= at);
        drop(state);
        if waiting {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.leave(self.number);
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl State {
    fn leave(&mut self, number: u64) {
        if let Some(due) = self.seats.remove(&number).and_then(|seat| seat.due) {
            self.due.remove(&(due, number));
        }
    }

    /// Those whose turn it is and whom `is_meant` takes; the others stay woken. Who is gone leaves its place.
    fn called(&mut self, now: Instant, is_meant: impl Fn(&dyn Turn) -> bool) -> Vec<(u64, Arc<dyn Turn>)> {
        while let Some((at, number)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, number));
            let seat = self.seats.get_mut(&number).expect("who is due has a place");
            seat.due = None;
            if !seat.woken.swap(true, Ordering::AcqRel) {
                self.woken.push_back(number);
            }
        }
        let mut called = Vec::with_capacity(self.woken.len());
        for _ in 0..self.woken.len() {
            let Some(number) = self.woken.pop_front() else { break };
            let Some(seat) = self.seats.get_mut(&number) else {
                continue;
            };
            match seat.turn.upgrade() {
                Some(turn) if !is_meant(&*turn) => self.woken.push_back(number),
                Some(turn) => {
                    seat.asked = None;
                    // From here on a wake means another turn.
                    seat.woken.store(false, Ordering::Release);
                    called.push((number, turn));
                }
                None => self.leave(number),
            }
        }
        called
    }

    fn turned(&mut self, number: u64, due: Option<Instant>) {
        let Some(seat) = self.seats.get_mut(&number) else {
            return;
        };
        let due = match (due, seat.asked) {
            (Some(due), Some(asked)) => Some(due.min(asked)),
            (due, asked) => due.or(asked),
        };
        if seat.due == due {
            return;
        }
        if let Some(before) = seat.due {
            self.due.remove(&(before, number));
        }
        seat.due = due;
        if let Some(due) = due {
            self.due.insert((due, number));
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let called = if state.turning {
                Vec::new()
            } else {
                state.called(Instant::now(), |_| true)
            };
            if called.is_empty() {
                if state.seats.is_empty() && !state.turning {
                    state.running = false;
                    return;
                }
                let until = state.due.first().map(|(at, _)| *at).filter(|_| !state.turning);
                state.waiting = true;
                state.sleeps_until = until;
                state = match until {
                    Some(at) => self.wake.wait_until(state, at),
                    None => self.wake.wait(state),
                };
                state.waiting = false;
                continue;
            }
            state = self.turns(state, called);
        }
    }

    /// Gives those turns: nobody else does meanwhile.
    fn turns<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        called: Vec<(u64, Arc<dyn Turn>)>,
    ) -> MutexGuard<'a, State> {
        state.turning = true;
        drop(state);
        let turns: Vec<_> = called
            .into_iter()
            .map(|(number, turn)| (number, catch_unwind(AssertUnwindSafe(|| turn.turn()))))
            .collect();
        let mut state = self.state.lock();
        state.turning = false;
        for (number, turned) in turns {
            match turned {
                Ok(due) => state.turned(number, due),
                Err(_) => {
                    state.panics += 1;
                    state.leave(number);
                }
            }
        }
        state
    }

    /// Gives turns on a thread that is not the reactor's, until there are none to give or the moment is over.
    fn give(&self) {
        let began = Instant::now();
        let mut state = self.state.lock();
        for _ in 0..ROUNDS_MAX {
            let now = Instant::now();
            if state.turning || now.duration_since(began) > GIVES_FOR {
                break;
            }
            let called = state.called(now, |turn| turn.is_short());
            if called.is_empty() {
                break;
            }
            state = self.turns(state, called);
        }
        let due = state.due.first().map(|(at, _)| *at);
        let is_sooner = due.is_some_and(|due| state.sleeps_until.is_none_or(|until| due < until));
        let has_more = !state.woken.is_empty() || is_sooner || state.seats.is_empty();
        let waiting = state.waiting && !state.turning && has_more;
        drop(state);
        if waiting {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    struct Told<F>(F);

    impl<F: Fn() -> Option<Instant> + Send + Sync> Turn for Told<F> {
        fn turn(&self) -> Option<Instant> {
            (self.0)()
        }
    }

    fn arc<F: Fn() -> Option<Instant> + Send + Sync + 'static>(turn: F) -> Arc<dyn Turn> {
        Arc::new(Told(turn))
    }

    #[test]
    fn who_is_woken_and_who_is_due_get_turns() {
        let reactor = Reactor::default();
        let (told, turns) = mpsc::channel();
        let count = AtomicUsize::new(0);
        let told_once = told.clone();
        let due = arc(move || {
            let number = count.fetch_add(1, Ordering::Relaxed);
            told_once.send(number).expect("the test listens");
            (number < 3).then(|| Instant::now() + Duration::from_millis(1))
        });
        let (place, runs) = reactor.place(Arc::downgrade(&due));
        assert!(runs);
        for number in 0..4 {
            assert_eq!(turns.recv_timeout(Duration::from_secs(10)), Ok(number));
        }
        place.wake();
        assert_eq!(turns.recv_timeout(Duration::from_secs(10)), Ok(4));
    }

    #[test]
    fn who_tells_gives_the_turns_itself_and_what_is_due_later_is_not_forgotten() {
        let reactor = Reactor::default();
        let (told, turns) = mpsc::channel();
        let first = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&first);
        let turn = arc(move || {
            told.send(std::thread::current().id()).expect("the test listens");
            // After each turn of this thread one of the reactor's is due.
            let number = count.fetch_add(1, Ordering::Relaxed);
            (number % 2 == 1).then(|| Instant::now() + Duration::from_millis(1))
        });
        let (place, _) = reactor.place(Arc::downgrade(&turn));
        let in_time = Duration::from_secs(10);
        let theirs = turns.recv_timeout(in_time).expect("a turn");
        let (mine, mut given) = (std::thread::current().id(), 0);
        for round in 0..50 {
            let is_mine = reactor.tell(|| {
                place.wake();
                reactor.tell(|| place.wake());
                round
            });
            assert_eq!(is_mine, round);
            // Its thread may just be at the end of a turn, and gives this one then.
            let giver = turns.recv_timeout(in_time).expect("a turn");
            assert!([mine, theirs].contains(&giver), "{round}");
            given += usize::from(giver == mine);
            assert_eq!(turns.recv_timeout(in_time), Ok(theirs), "{round}");
        }
        assert!(given > 0);
        assert_eq!(turns.try_recv(), Err(mpsc::TryRecvError::Empty));
    }

    struct Long(mpsc::Sender<std::thread::ThreadId>);

    impl Turn for Long {
        fn turn(&self) -> Option<Instant> {
            self.0.send(std::thread::current().id()).expect("the test listens");
            None
        }

        fn is_short(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_long_turn_is_left_to_the_thread_and_not_forgotten() {
        let reactor = Reactor::default();
        let (told, turns) = mpsc::channel();
        let long: Arc<dyn Turn> = Arc::new(Long(told));
        let (place, _) = reactor.place(Arc::downgrade(&long));
        for _ in 0..100 {
            let giver = turns.recv_timeout(Duration::from_secs(10)).expect("a turn");
            assert_ne!(giver, std::thread::current().id());
            reactor.tell(|| place.wake());
        }
    }

    #[test]
    fn turns_are_given_by_one_thread_at_a_time_and_none_is_lost() {
        let reactor = Reactor::default();
        let inside = Arc::new(AtomicUsize::new(0));
        let taken = Arc::new(AtomicUsize::new(0));
        let (is_in, counted) = (Arc::clone(&inside), Arc::clone(&taken));
        let asked = Arc::new(AtomicUsize::new(0));
        let open = Arc::clone(&asked);
        let turn = arc(move || {
            assert_eq!(is_in.fetch_add(1, Ordering::AcqRel), 0, "one at a time");
            counted.fetch_add(open.swap(0, Ordering::AcqRel), Ordering::AcqRel);
            is_in.fetch_sub(1, Ordering::AcqRel);
            None
        });
        let (place, _) = reactor.place(Arc::downgrade(&turn));
        std::thread::scope(|scope| {
            for teller in 0..4 {
                let (place, reactor, asked) = (&place, reactor.clone(), &asked);
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        let ask = || {
                            asked.fetch_add(1, Ordering::AcqRel);
                            place.wake();
                        };
                        if teller % 2 == 0 {
                            reactor.tell(ask);
                        } else {
                            ask();
                        }
                    }
                });
            }
        });
        let until = Instant::now() + Duration::from_secs(10);
        while taken.load(Ordering::Acquire) < 8_000 && Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!((taken.load(Ordering::Acquire), reactor.panics()), (8_000, 0));
    }

    #[test]
    fn a_turn_that_panics_is_taken_out_and_the_others_go_on() {
        let reactor = Reactor::default();
        let (told, turns) = mpsc::channel();
        let bad = arc(|| std::panic::resume_unwind(Box::new("on purpose")));
        let good = arc(move || {
            told.send(()).expect("the test listens");
            None
        });
        let (_bad, _) = reactor.place(Arc::downgrade(&bad));
        let (place, _) = reactor.place(Arc::downgrade(&good));
        for _ in 0..3 {
            turns.recv_timeout(Duration::from_secs(10)).expect("a turn");
            place.wake();
        }
        assert_eq!(reactor.panics(), 1);
    }

    #[test]
    fn the_thread_ends_with_the_last_place_and_begins_again() {
        let reactor = Reactor::default();
        for _ in 0..20 {
            let (told, turns) = mpsc::channel();
            let turn = arc(move || {
                told.send(()).expect("the test listens");
                None
            });
            let (place, runs) = reactor.place(Arc::downgrade(&turn));
            assert!(runs);
            turns.recv_timeout(Duration::from_secs(10)).expect("a turn");
            drop(place);
        }
    }

    #[test]
    fn a_turn_that_is_asked_for_comes_in_time_also_when_it_was_asked_for_during_a_turn() {
        let reactor = Reactor::default();
        let place = Arc::new(std::sync::OnceLock::<Place>::new());
        let (told, turns) = mpsc::channel();
        let asks = Arc::clone(&place);
        let turn = arc(move || {
            if let Some(place) = asks.get() {
                place.wake_by(Instant::now() + Duration::from_millis(1));
            }
            told.send(()).expect("the test listens");
            Some(Instant::now() + Duration::from_secs(3600))
        });
        assert!(place.set(reactor.place(Arc::downgrade(&turn)).0).is_ok());
        turns.recv_timeout(Duration::from_secs(10)).expect("a turn");
        place
            .get()
            .expect("it was set")
            .wake_by(Instant::now() + Duration::from_millis(5));
        for _ in 0..10 {
            turns.recv_timeout(Duration::from_secs(10)).expect("a turn");
        }
    }

    #[test]
    fn a_process_has_one() {
        let (one, two) = (Reactor::of_process(), Reactor::of_process());
        assert!(Arc::ptr_eq(&one.shared, &two.shared));
    }
}
