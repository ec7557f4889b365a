//! What must hold for any packet that a program inside a private network sends: nothing panics, and no answer of ours asks
//! for another. `launcher/tests/corpus.rs` replays the saved corpus with it.

use tp::vif::packet::{refusal, seen, sendable};
use tp_abi::errno::code;

/// What is read of a packet, and everything that can be answered to it.
pub fn packet(data: &[u8]) {
    let Some(asks) = seen(data) else { return };
    for errno in
        [code::ECONNREFUSED, code::EHOSTUNREACH, code::ENETUNREACH, code::EACCES, code::ETIMEDOUT, -1]
    {
        for part in refusal(asks, data, errno).into_iter().flat_map(|packet| sendable(packet, 1)) {
            assert!(part.len() <= usize::from(u16::MAX));
            assert_eq!(seen(&part), None, "{asks:?} {errno}");
        }
    }
}
