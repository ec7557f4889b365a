//! Many connections, and many bytes: all arrive, in order, and none waits for another.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tp_tests::Case;
use tp_tests::case::{python, ran_within};

/// A gibibyte through one connection on two cores that the whole cluster shares.
const LONG: Duration = Duration::from_secs(180);
const MIB: usize = 1 << 20;

/// `apps/load.py` with these arguments, with time for all its bytes.
fn load(case: &Case, arguments: &[&str]) -> tp_tests::case::Ran {
    ran_within(&mut case.web_command(python("load", arguments)), LONG)
}

#[test]
fn a_thousand_connections_one_after_another() {
    let case = Case::new();
    load(&case, &["sequential", "1000"]).prints("1000 echoed");
}

#[test]
fn five_hundred_connections_at_once() {
    let case = Case::new();
    load(&case, &["concurrent", "500"]).prints("500 open at once\n500 echoed");
}

#[test]
fn ten_thousand_connections_are_open_at_once() {
    let case = Case::new();
    load(&case, &["many", "10000"]).prints("10000 open at once\n10000 echoed");
}

#[test]
fn under_load_every_connect_still_ends_as_it_must() {
    let case = Case::new();
    load(&case, &["mixed", "20", "60"]).prints(
        "backend blocking 0\nbackend by select 0\nbackend with timeout 0\nrefuse blocking ECONNREFUSED\n\
         refuse by select ECONNREFUSED\nrefuse with timeout ECONNREFUSED",
    );
}

#[test]
fn a_gibibyte_goes_up_through_one_connection() {
    let case = Case::new();
    let size = 1024 * MIB;
    load(&case, &["up", &size.to_string()])
        .prints(&format!("{size} bytes, and the digest that the server made of them"));
}

#[test]
fn a_gibibyte_comes_down_through_one_connection() {
    let case = Case::new();
    let size = 1024 * MIB;
    load(&case, &["down", &size.to_string()]).prints(&format!("{size} bytes, each as it was sent"));
}

#[test]
fn thirteen_uploads_at_once_come_back_byte_for_byte() {
    let case = Case::new();
    load(&case, &["echo", "13", &(20 * MIB).to_string()]).prints("13 came back whole");
}

#[test]
fn one_end_of_a_connection_can_close_before_the_other() {
    let case = Case::new();
    let text = b"all of it".repeat(100_000);
    let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    load(&case, &["half-close"]).prints(&format!("{} {digest}", text.len()));
}

#[test]
fn a_server_that_talks_first_is_heard_before_the_program_says_a_word() {
    let case = Case::new();
    let ran = load(&case, &["listen"]);
    let said = ran.succeeds();
    assert!(said.starts_with("220 backend-") && said.ends_with("talks first"), "{ran}");
}

#[test]
fn a_slow_reader_stalls_no_other_connection() {
    let case = Case::new();
    load(&case, &["slow-reader", &(64 * MIB).to_string()])
        .prints("others were answered while one did not read\nthe slow one got all of it");
}
