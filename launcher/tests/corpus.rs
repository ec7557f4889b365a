//! Replays the saved inputs of the fuzz target `packet` (`fuzz/corpus/packet/*`) on stable, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed test")]
#![allow(unreachable_pub, reason = "shared with the fuzz target")]

#[path = "../../fuzz/src/packets.rs"]
mod packets;

#[test]
fn the_saved_packets_are_answered_in_order() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/packet");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let data = std::fs::read(entry.unwrap().path()).unwrap();
        // Cut off anywhere as well.
        (0..=data.len()).for_each(|length| packets::packet(data.get(..length).unwrap_or_default()));
        count += 1;
    }
    assert!(count > 0, "there is no corpus");
}
