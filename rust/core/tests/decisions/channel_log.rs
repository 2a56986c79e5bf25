//! What a publisher keeps of a channel.

use std::sync::Arc;

use meshos_core::channel_frame::Gap;
use meshos_core::channel_log::{ChannelLog, EVENT_BYTES, NotPublished};
use proptest::collection::vec;
use proptest::prelude::*;

fn payload(bytes: usize) -> Arc<[u8]> {
    vec![0x61; bytes].into()
}

fn numbers(log: &ChannelLog, first: u64, last: u64) -> (Option<Gap>, Vec<u64>) {
    let (gap, events) = log.range(first, last);
    (gap, events.map(|event| event.sequence).collect())
}

#[test]
fn numbers_begin_at_one_and_what_does_not_fit_goes_oldest_first() {
    let mut log = ChannelLog::after(0, 3 * (10 + EVENT_BYTES), 100);
    assert_eq!((log.first(), log.last()), (1, 0));
    for sequence in 1..=5 {
        assert_eq!(log.publish(None, payload(10)), Ok(sequence));
    }
    assert_eq!((log.first(), log.last(), log.pruned()), (3, 5, 2));
    assert_eq!(numbers(&log, 1, 5), (Some(Gap { first: 1, last: 2 }), vec![3, 4, 5]));
    assert_eq!(numbers(&log, 2, 4), (Some(Gap { first: 2, last: 2 }), vec![3, 4]));
    assert_eq!(numbers(&log, 4, 99), (None, vec![4, 5]));
    assert_eq!(numbers(&log, 1, 1), (Some(Gap { first: 1, last: 1 }), vec![]));
    assert_eq!(numbers(&log, 6, 99), (None, vec![]));
    assert_eq!(
        numbers(&log, 0, u64::MAX),
        (Some(Gap { first: 1, last: 2 }), vec![3, 4, 5])
    );
    assert_eq!(log.get(2), None);
    assert_eq!(log.get(3).map(|event| event.sequence), Some(3));
    assert_eq!(log.get(6), None);
}

#[test]
fn what_is_too_large_takes_no_number_and_the_newest_is_kept_whatever_its_size() {
    let mut log = ChannelLog::after(0, 0, 100);
    let refused = Err(NotPublished::TooLarge { bytes: 101, max: 100 });
    assert_eq!(log.publish(None, payload(101)), refused);
    assert_eq!(log.publish(None, payload(100)), Ok(1));
    assert_eq!(log.publish(None, payload(100)), Ok(2));
    assert_eq!(numbers(&log, 1, 2), (Some(Gap { first: 1, last: 1 }), vec![2]));
}

#[test]
fn the_last_number_there_is_is_given_once() {
    let mut log = ChannelLog::after(u64::MAX - 1, 1_000, 100);
    assert_eq!(log.publish(None, payload(1)), Ok(u64::MAX));
    assert_eq!(log.publish(None, payload(1)), Err(NotPublished::Exhausted));
    assert_eq!(numbers(&log, u64::MAX, u64::MAX), (None, vec![u64::MAX]));
}

#[test]
fn a_smaller_bound_takes_effect_at_once() {
    let mut log = ChannelLog::after(7, 1 << 20, 100);
    for _ in 0..10 {
        log.publish(None, payload(10)).expect("it fits");
    }
    log.set_bounds(2 * (10 + EVENT_BYTES), 5);
    assert_eq!((log.first(), log.last(), log.pruned()), (16, 17, 8));
    assert!(log.publish(None, payload(6)).is_err());
}

proptest! {
    /// Gap and events together are exactly the numbers that were asked for and given.
    #[test]
    fn a_range_has_no_hole(
        sizes in vec(0usize..200, 0..40), bound in 0u64..4_000, first in 0u64..50, last in 0u64..50, begin in 0u64..9,
    ) {
        let mut log = ChannelLog::after(begin, bound, 200);
        for size in &sizes {
            log.publish(None, payload(*size)).expect("it fits");
            prop_assert!(log.bytes() <= bound || log.first() == log.last());
        }
        prop_assert_eq!(log.last(), begin + sizes.len() as u64);
        let (gap, events) = numbers(&log, first, last);
        let told = gap.map(|gap| (gap.first..=gap.last).collect::<Vec<_>>()).unwrap_or_default();
        let all: Vec<u64> = told.into_iter().chain(events).collect();
        let wanted: Vec<u64> = (first.max(1)..=last.min(log.last())).collect();
        prop_assert_eq!(all, wanted);
    }
}
