//! A program stays responsive whatever one of its connections or lookups waits for.
//!
//! One case at a time, and as ratios: what is measured here is time, on a machine that does other things beside.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::sync::{Mutex, PoisonError};

use tp_tests::Case;
use tp_tests::case::Folder;

static ALONE: Mutex<()> = Mutex::new(());

/// How much longer the loop may stall for the connection that hangs. One that blocks in connect() shows as a stall of
/// seconds, which is a hundred times as long as the ninety-nine others take.
const TIMES: f64 = 5.0;
/// A stall of tp's making is there every time; one of a machine that does other things at that moment is not.
const TRIES: usize = 3;

#[test]
fn an_event_loop_stalls_no_longer_for_a_connection_that_hangs() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let case = Case::new();
    let usual = longest_stall(&case, 0, &["100 answered"]);
    let mut stalls = Vec::new();
    for _ in 0..TRIES {
        let stall = longest_stall(&case, 1, &["99 answered", "1 timed out"]);
        stalls.push(stall);
        if stall <= usual * TIMES {
            println!("longest stalls: {stalls:?} ms; {usual} ms when nothing hangs");
            return;
        }
    }
    panic!("the loop stalled {stalls:?} ms, but {usual} ms when nothing hangs");
}

/// Of a loop with a hundred connections; in milliseconds.
fn longest_stall(case: &Case, hanging: u32, says: &[&str]) -> f64 {
    let ran = case.python("loop_lag", &["100", &hanging.to_string()]);
    ran.says(says);
    let stall = ran.stdout.lines().find_map(|line| line.strip_prefix("longest stall: ")).unwrap();
    stall.trim_end_matches(" ms").parse().unwrap()
}

#[test]
fn a_lookup_that_takes_seconds_delays_no_other() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let case = Case::new();
    case.python("slow_lookup", &[]).prints("20 lookups while one hung\nthe slow one ended in EAI_AGAIN");
}

/// Steps: small requests alone need one link; beside a download a second one comes up, and all of them are answered.
#[test]
fn requests_beside_a_download_have_a_link_of_their_own() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let log = folder.file("tp.log");
    let requests = "for i in $(seq 20); do curl -sS -o /dev/null http://backend/ || exit 1; done";
    let beside =
        format!("curl -sS -o /dev/null 'http://backend/bytes?n=300000000' & sleep 0.2; {requests}; wait $!");
    for (script, links) in [(requests, 0), (&beside, 1)] {
        let _of_the_last = std::fs::remove_file(&log);
        case.tp(["--deployment", "web", "-v", "--log-file", &log], ["sh", "-c", script]).prints("");
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.matches("a second link is up").count(), links, "{text}");
    }
}
