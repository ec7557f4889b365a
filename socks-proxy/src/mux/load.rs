//! How busy a session is with streams that have much to say.
//!
//! Whoever asks something small beside such a stream waits behind its bytes, wherever they are held on the way; who knows that can
//! ask elsewhere. Many small streams are no load: their bytes are nowhere held.
//!
//! Theory of operation: a bucket that leaks. Only bytes of large records fall in; it is full within milliseconds of a stream at
//! any speed that matters, and a second after the last one it is not any more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bytes of the smallest record that counts.
const LARGE: usize = 8 * 1024;
/// Bytes that leak away in a millisecond.
const LEAK: u64 = 512;
/// Bytes in the bucket of a busy session, and the most that it holds.
const BUSY: u64 = 512 * 1024;
const MOST: u64 = 2 * BUSY;

/// The bucket. Writers may lose one another's bytes, which changes nothing.
#[derive(Debug)]
pub(super) struct Load {
    began: Instant,
    /// Milliseconds since then at which there was so much in it.
    at: AtomicU64,
    level: AtomicU64,
}

impl Load {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), at: AtomicU64::new(0), level: AtomicU64::new(0) }
    }

    /// Counts a record.
    pub(super) fn add(&self, length: usize) {
        if length >= LARGE {
            self.add_at(self.now(), length as u64);
        }
    }

    /// Whether more than a little goes through the session.
    pub(super) fn is_busy(&self) -> bool {
        self.level_at(self.now()) >= BUSY
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn add_at(&self, now: u64, length: u64) {
        let level = self.level_at(now).saturating_add(length).min(MOST);
        self.at.store(now, Ordering::Relaxed);
        self.level.store(level, Ordering::Relaxed);
    }

    fn level_at(&self, now: u64) -> u64 {
        let leaked = now.saturating_sub(self.at.load(Ordering::Relaxed)).saturating_mul(LEAK);
        self.level.load(Ordering::Relaxed).saturating_sub(leaked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_records_at_speed_are_a_load_until_shortly_after_the_last() {
        let load = Load::new();
        let busy = |now| load.level_at(now) >= BUSY;
        // 3 MB a second, in records of 32 KiB.
        for now in (0..1000).step_by(10) {
            load.add_at(now, 32 * 1024);
        }
        assert!(busy(1000) && !busy(1000 + MOST / LEAK));
        // As much in the time of a small one.
        for now in (10_000..20_000).step_by(100) {
            load.add_at(now, 32 * 1024);
            assert!(!busy(now));
        }
    }

    #[test]
    fn small_records_are_none() {
        let load = Load::new();
        for _ in 0..10_000 {
            load.add(LARGE - 1);
        }
        assert!(!load.is_busy());
        for _ in 0..100 {
            load.add(LARGE);
        }
        assert!(load.is_busy());
    }
}
