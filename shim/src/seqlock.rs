//! Words that are read and written together, in memory that every thread and every fork shares without a lock.
//!
//! A hook may run in a signal handler or in a child forked between any two instructions, so nothing here may wait.
//!
//! # Theory of operation
//! Each entry is a sequence lock: its number is odd while it is written. A reader takes an entry only if the number
//! was even and the same before and after; a writer that finds it odd, or loses the race to make it odd, does not
//! write at all. What is not found is asked for again, so an entry that is lost costs a question and nothing else. That
//! is also what becomes of an entry whose writer was forked away, or left by longjmp(), in the middle: it stays odd and
//! is one place less.
//!
//! Invariants: nobody waits; what is read was written together.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// So many words, and until when they are good.
#[repr(align(64))]
pub(crate) struct Entry<const WORDS: usize> {
    pub(crate) sequence: AtomicU32,
    /// Seconds of the coarse clock; 0 for an entry never written.
    until: AtomicU32,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Entry<WORDS> {
    /// Never written.
    pub(crate) const fn new() -> Self {
        Self {
            sequence: AtomicU32::new(0),
            until: AtomicU32::new(0),
            words: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// Until when what is there is good; a guess while somebody writes.
    pub(crate) fn until(&self) -> u32 {
        self.until.load(Ordering::Relaxed)
    }

    /// The words and until when they are good; [`None`] while somebody writes.
    pub(crate) fn read(&self) -> Option<([u64; WORDS], u32)> {
        let before = self.sequence.load(Ordering::Acquire);
        let until = self.until();
        let words = self.words.each_ref().map(|word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let is_whole = before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before;
        is_whole.then_some((words, until))
    }

    /// Writes, unless somebody else does.
    pub(crate) fn write(&self, words: &[u64; WORDS], until: u32) {
        let before = self.sequence.load(Ordering::Relaxed);
        let odd = before.wrapping_add(1);
        if !before.is_multiple_of(2)
            || self.sequence.compare_exchange(before, odd, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        // A reader that sees one of the stores below sees the odd number, too.
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(words) {
            word.store(*value, Ordering::Relaxed);
        }
        self.until.store(until, Ordering::Relaxed);
        self.sequence.store(before.wrapping_add(2), Ordering::Release);
    }
}
