//! Answers that their calls did not wait for.
//!
//! A thread that takes a signal makes its call anew, with the same arguments, and must then be given what was done for it
//! the first time: a datagram was sent, or one was taken out of the socket. A handler may make other calls in between.
//! A thread that does not make its call again loses the answer, as it would lose a datagram to a cancelled read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::caught::Reply;
use crate::sys::seccomp::Notification;

/// How long an answer is kept: a handler takes much less.
const FOR: Duration = Duration::from_secs(10);
/// Answers kept at the most.
const MOST: usize = 256;

/// The answers, by the calls that they are for.
#[derive(Default)]
pub(super) struct Kept(Mutex<HashMap<Same, (Instant, Reply)>>);

/// What a call has in common with the same one made anew.
#[derive(PartialEq, Eq, Hash)]
struct Same {
    thread: i32,
    number: i32,
    instruction: u64,
    arguments: [u64; 6],
}

impl Same {
    fn of(call: &Notification) -> Self {
        let Notification { thread, number, instruction, arguments, .. } = *call;
        Self { thread, number, instruction, arguments }
    }
}

impl Kept {
    /// The answer for `call`, if it was made before.
    pub(super) fn take(&self, call: &Notification) -> Option<Reply> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            return None;
        }
        kept.remove(&Same::of(call)).filter(|(since, _)| since.elapsed() < FOR).map(|(_, reply)| reply)
    }

    /// Keeps what was done for a call that was gone. What the kernel is to do has not been done.
    pub(super) fn keep(&self, call: &Notification, reply: Reply) {
        if !matches!(reply, Reply::Returns(..) | Reply::Fails(_)) {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (since, _)| since.elapsed() < FOR);
        if kept.len() < MOST {
            kept.insert(Same::of(call), (Instant::now(), reply));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_call_of_the_same_thread_gets_it_and_once() {
        let call = Notification {
            id: 1,
            thread: 7,
            arch: 0,
            number: 44,
            instruction: 0x1000,
            arguments: [3, 1, 2, 0, 9, 16],
        };
        let kept = Kept::default();
        kept.keep(&call, Reply::returns(5));
        kept.keep(&Notification { thread: 8, ..call }, Reply::Proceeds);
        assert!(kept.take(&Notification { thread: 8, ..call }).is_none());
        assert!(kept.take(&Notification { arguments: [4, 1, 2, 0, 9, 16], ..call }).is_none());
        let again = Notification { id: 2, ..call };
        assert!(matches!(kept.take(&again), Some(Reply::Returns(5, _))));
        assert!(kept.take(&again).is_none());
    }
}
