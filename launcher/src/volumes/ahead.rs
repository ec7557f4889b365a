//! Reading ahead of the kernel, for a file that is read from front to back.
//!
//! The kernel asks for at most 128 KiB beyond what a program reads, which is one window for every round trip to the pod.
//! Here the window grows with each read that goes on where the last one ended, as the kernel's own does, and is forgotten
//! at the first one that does not.
//!
//! Invariants: a file holds at most [`WINDOW_MAX`] and what the kernel is being given; what was read before the file was
//! seen to change is not used after.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use fuser::Errno;
use tokio::sync::watch;

/// The first window, in bytes, and the largest.
const WINDOW_MIN: u64 = 256 * 1024;
const WINDOW_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of one question.
const CHUNK: u64 = 512 * 1024;
/// How far reads that the kernel sends side by side may be out of order.
const SLACK: u64 = 1024 * 1024;

/// What comes of a read that was asked for ahead; none yet at first.
pub(super) type Coming = watch::Receiver<Option<Result<Bytes, Errno>>>;

/// The state of one open file.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    epoch: u64,
    /// Where the last read ended.
    next: u64,
    window: u64,
    chunks: VecDeque<(Range<u64>, Coming)>,
}

/// What to do for a read.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What has been asked for, in order, from the read's start on, without a gap.
    pub(super) have: Vec<(Range<u64>, Coming)>,
    /// What is to be asked for besides, ahead; to be given to [`Ahead::asked`].
    pub(super) ask: Vec<Range<u64>>,
}

impl Ahead {
    /// Takes note of a read of a file with so many bytes that was seen to change so often.
    pub(super) fn plan(&mut self, read: Range<u64>, size: u64, epoch: u64) -> Plan {
        if epoch != self.epoch {
            *self = Self { epoch, next: self.next, window: self.window, chunks: VecDeque::new() };
        }
        let is_next = read.start == self.next;
        let is_near = self.window > 0 && read.start < self.next + SLACK && read.end + SLACK > self.next;
        if is_next && read.start > 0 {
            self.window = (self.window * 2).clamp(WINDOW_MIN, WINDOW_MAX);
        } else if !is_near {
            self.window = 0;
            self.chunks.clear();
        }
        self.next = if is_near { self.next.max(read.end) } else { read.end };
        while self.chunks.front().is_some_and(|(front, _)| front.end + SLACK < read.start) {
            self.chunks.pop_front();
        }
        let mut plan = Plan::default();
        let mut at = read.start;
        for (range, coming) in &self.chunks {
            if range.contains(&at) && at < read.end {
                plan.have.push((range.clone(), coming.clone()));
                at = range.end;
            }
        }
        if self.window > 0 {
            // What the read itself asks for is asked for by itself, so that nothing it needs comes later.
            let mut from = self.chunks.back().map_or(read.end, |(back, _)| back.end.max(read.end));
            let end = read.end.saturating_add(self.window).min(size);
            while from + CHUNK <= end || (from < end && end == size) {
                let to = (from + CHUNK).min(end);
                plan.ask.push(from..to);
                from = to;
            }
        }
        plan
    }

    /// A range of the plan is being asked for.
    pub(super) fn asked(&mut self, range: Range<u64>, coming: Coming) {
        self.chunks.push_back((range, coming));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 100 * 1024 * 1024;
    const READ: u64 = 128 * 1024;

    /// Answers everything at once; gives what was asked for ahead.
    fn read(ahead: &mut Ahead, at: u64, size: u64) -> (usize, u64) {
        let plan = ahead.plan(at..at + READ, size, 0);
        let asked = plan.ask.iter().map(|range| range.end - range.start).sum();
        for range in plan.ask {
            ahead.asked(range, watch::channel(Some(Ok(Bytes::new()))).1);
        }
        (plan.have.len(), asked)
    }

    #[test]
    fn the_window_grows_while_reads_go_on_and_has_an_end() {
        let mut ahead = Ahead::default();
        assert_eq!(read(&mut ahead, 0, SIZE), (0, 0), "one read says nothing");
        let mut total = 0;
        for index in 1..800 {
            let (have, asked) = read(&mut ahead, index * READ, SIZE);
            assert!(index < 6 || have > 0, "read {index} was not asked for ahead");
            total += asked;
            let held: u64 = ahead.chunks.iter().map(|(range, _)| range.end - range.start).sum();
            assert!(held <= WINDOW_MAX + SLACK + 2 * CHUNK, "{held} bytes are held");
        }
        assert!(total > SIZE - WINDOW_MAX && total <= SIZE, "{total} bytes were asked for");
    }

    #[test]
    fn nothing_is_asked_for_ahead_of_random_reads_or_beyond_the_end() {
        let mut ahead = Ahead::default();
        for index in [700, 3, 90, 500, 4, 600, 2] {
            assert_eq!(read(&mut ahead, index * READ, SIZE), (0, 0));
        }
        let mut ahead = Ahead::default();
        read(&mut ahead, 0, 3 * READ);
        assert_eq!(read(&mut ahead, READ, 3 * READ), (0, READ));
        assert_eq!(read(&mut ahead, 2 * READ, 3 * READ), (1, 0));
    }

    #[test]
    fn what_was_read_before_a_change_is_not_used() {
        let mut ahead = Ahead::default();
        for index in 0..10 {
            read(&mut ahead, index * READ, SIZE);
        }
        assert!(ahead.plan(10 * READ..11 * READ, SIZE, 1).have.is_empty());
    }
}
