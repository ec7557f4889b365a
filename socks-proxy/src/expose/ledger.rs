//! What this agent's launchers have exposed, for whoever reads the container's log.
//!
//! One line of JSON for each change, and each line is the whole state: the last one counts. The agents of a pod know of
//! their own launchers only, so the lines of all of them together are all there is. Whoever may read logs is not thereby to
//! have what opens the app, so values of headers that prove who somebody is are left out.

use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::wire::{Expose, Filter, Protocol, Way};

/// Parts of the names of such headers: Authorization, Proxy-Authorization, Cookie, X-Api-Key, X-CSRF-Token and their kin.
const SECRETS: [&str; 7] = ["auth", "cookie", "key", "token", "secret", "passw", "session"];
/// Stands for their values.
const MASK: &str = "***";

#[derive(Debug, Serialize)]
struct Entry {
    port: u16,
    protocol: &'static str,
    way: &'static str,
    filter: Option<Filter>,
    who: String,
    /// Seconds of Unix time.
    since: u64,
    #[serde(skip)]
    number: u64,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    next: u64,
}

/// The state, and the one place that tells it.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<State>);

impl Ledger {
    /// Enters an exposing; it is struck out when the result is dropped.
    pub(super) fn enter(&self, expose: &Expose) -> Entered<'_> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let number = self.change(|state| {
            let number = state.next;
            state.next = state.next.wrapping_add(1);
            state.entries.push(Entry {
                port: expose.port,
                protocol: match expose.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                },
                way: match expose.way {
                    Way::Steal => "steal",
                    Way::Mirror => "mirror",
                    Way::Listen => "listen",
                },
                filter: expose.filter.as_ref().map(told),
                who: expose.who.clone(),
                since,
                number,
            });
            number
        });
        Entered { ledger: self, number }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut state);
        let line = line(&state.entries);
        // With nobody at the other end nobody reads the log either.
        drop(writeln!(io::stdout().lock(), "{line}"));
        changed
    }
}

/// A filter as others may know it.
fn told(filter: &Filter) -> Filter {
    let headers = filter.headers.iter().map(|(name, value)| {
        let lower = name.to_ascii_lowercase();
        let is_secret = SECRETS.iter().any(|word| lower.contains(word));
        (name.clone(), if is_secret { MASK.to_owned() } else { value.clone() })
    });
    Filter { headers: headers.collect(), path_prefix: filter.path_prefix.clone() }
}

fn line(entries: &[Entry]) -> String {
    serde_json::json!({ "exposed": entries }).to_string()
}

/// An exposing that is in the ledger.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    ledger: &'a Ledger,
    number: u64,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.ledger.change(|state| state.entries.retain(|entry| entry.number != self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_whole_state() {
        let filter = Filter { headers: vec![("x-user".into(), "a\"b".into())], path_prefix: None };
        let entry = Entry {
            port: 80,
            protocol: "tcp",
            way: "steal",
            filter: Some(filter),
            who: "alice@laptop".into(),
            since: 5,
            number: 7,
        };
        let expected = r#"{"exposed":[{"filter":{"headers":[["x-user","a\"b"]],"path_prefix":null},"port":80,"protocol":"tcp","since":5,"way":"steal","who":"alice@laptop"}]}"#;
        assert_eq!(line(&[entry]), expected);
        assert_eq!(line(&[]), r#"{"exposed":[]}"#);
    }

    #[test]
    fn what_proves_who_somebody_is_is_not_told() {
        let headers =
            [("Authorization", "Bearer x"), ("Cookie", "a=b"), ("X-API-Key", "k"), ("x-user", "alice")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let told = told(&Filter { headers, path_prefix: Some("/a".into()) });
        let values: Vec<_> = told.headers.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!((values, told.path_prefix), (vec![MASK, MASK, MASK, "alice"], Some("/a".into())));
    }
}
