//! Replays the saved inputs of the fuzz targets (`fuzz/corpus/TARGET/*`) on stable, without a fuzzer.

#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "shared with the fuzz targets"
)]
#[path = "../../fuzz/src/checks.rs"]
mod checks;

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 9] = [
    ("proto", checks::proto),
    ("frames", checks::frames),
    ("session", checks::session),
    ("dns", checks::dns),
    ("files", checks::files),
    ("wire", checks::wire),
    ("http", checks::http),
    ("volumes", checks::volumes),
    ("exposing", checks::exposing),
];

#[test]
fn every_saved_input_keeps_every_promise() {
    for (target, check) in TARGETS {
        let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut replayed = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            check(&std::fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed > 0, "no input in {folder}");
    }
}
