//! A program stays responsive whatever one of its connections or lookups waits for.
//!
//! One case at a time, and as ratios: what is measured here is time, on a machine that does other things beside.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::sync::{Mutex, PoisonError};

use tp_tests::Case;

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
