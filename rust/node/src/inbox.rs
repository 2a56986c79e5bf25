//! What waits for a turn, or for a reader: first in, first out, bounded in number and bytes.
//!
//! It has no lock of its own: who shares it puts it behind theirs.
//!
//! Invariants
//! * What others send is taken only while there is place in number and in bytes. One item always has a place: where nothing
//!   waits, it is taken however large it is.
//! * What is refused is counted.
//! * What comes of the node's own work always has a place: it is as much as was asked for.

use std::collections::VecDeque;

/// Items that wait, oldest first.
pub struct Inbox<T> {
    /// With the bytes that each counts for.
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    items_max: usize,
    bytes_max: usize,
    refused: u64,
}

impl<T> Inbox<T> {
    /// An empty one, with its bounds.
    pub const fn new(items_max: usize, bytes_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            items_max,
            bytes_max,
            refused: 0,
        }
    }

    /// Puts in what others send; `false`: there is no place, and that is counted.
    pub fn offer(&mut self, item: T, bytes: usize) -> bool {
        let has_place = self.waiting.len() < self.items_max && self.bytes.saturating_add(bytes) <= self.bytes_max;
        if !has_place && !self.waiting.is_empty() {
            self.refused += 1;
            return false;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.waiting.push_back((item, bytes));
        true
    }

    /// Puts in what comes of the node's own work.
    pub fn put(&mut self, item: T) {
        self.waiting.push_back((item, 0));
    }

    /// Takes the oldest item.
    pub fn pop(&mut self) -> Option<T> {
        let (item, bytes) = self.waiting.pop_front()?;
        self.bytes -= bytes;
        Some(item)
    }

    /// Takes everything.
    pub fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.take_some(usize::MAX)
    }

    /// Takes the oldest items, so many at most.
    pub fn take_some(&mut self, items_max: usize) -> impl Iterator<Item = T> + use<T> {
        let taken = if self.waiting.len() <= items_max {
            self.bytes = 0;
            std::mem::take(&mut self.waiting)
        } else {
            let taken: VecDeque<_> = self.waiting.drain(..items_max).collect();
            self.bytes -= taken.iter().map(|(_, bytes)| bytes).sum::<usize>();
            taken
        };
        taken.into_iter().map(|(item, _)| item)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Items for which there was no place.
    pub const fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(inbox: &mut Inbox<u8>) -> Vec<u8> {
        inbox.take().collect()
    }

    #[test]
    fn what_has_no_place_in_number_is_refused_and_counted() {
        let mut inbox = Inbox::new(2, 100);
        assert!(inbox.offer(1, 10) && inbox.offer(2, 10));
        assert!(!inbox.offer(3, 10) && !inbox.offer(4, 10));
        assert_eq!((all(&mut inbox), inbox.refused()), (vec![1, 2], 2));
    }

    #[test]
    fn what_has_no_place_in_bytes_is_refused_and_counted() {
        let mut inbox = Inbox::new(10, 100);
        assert!(inbox.offer(1, 60));
        assert!(!inbox.offer(2, 41));
        assert!(inbox.offer(3, 40));
        assert!(!inbox.offer(4, usize::MAX));
        assert_eq!((all(&mut inbox), inbox.refused()), (vec![1, 3], 2));
    }

    #[test]
    fn one_item_always_has_a_place() {
        let mut inbox = Inbox::new(0, 100);
        assert!(inbox.offer(1, usize::MAX));
        assert!(!inbox.offer(2, 0));
        assert_eq!(inbox.pop(), Some(1));
        assert!(inbox.offer(3, 101));
        assert_eq!((all(&mut inbox), inbox.refused()), (vec![3], 1));
    }

    #[test]
    fn own_work_always_has_a_place_and_takes_that_of_others() {
        let mut inbox = Inbox::new(2, 100);
        assert!(inbox.offer(1, 100));
        inbox.put(2);
        inbox.put(3);
        assert!(!inbox.offer(4, 0));
        assert_eq!((all(&mut inbox), inbox.refused()), (vec![1, 2, 3], 1));
    }

    #[test]
    fn what_is_taken_gives_its_place_back() {
        let mut inbox = Inbox::new(3, 100);
        assert!(inbox.offer(1, 40) && inbox.offer(2, 40) && inbox.offer(3, 20));
        assert_eq!(inbox.take_some(2).collect::<Vec<_>>(), [1, 2]);
        assert!(!inbox.offer(4, 81));
        assert!(inbox.offer(5, 80));
        assert_eq!(inbox.pop(), Some(3));
        assert!(!inbox.is_empty());
        assert!(inbox.offer(6, 20));
        assert_eq!(inbox.take_some(2).collect::<Vec<_>>(), [5, 6]);
        assert!(inbox.is_empty() && inbox.pop().is_none());
        assert!(inbox.offer(7, 60) && inbox.offer(8, 40));
    }
}
