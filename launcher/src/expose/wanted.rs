//! What the user wants exposed, as it is written on the command line.
//!
//! A port of the pod may be given by its name, which each pod's own specification resolves: so the number is known only
//! when there is a pod.

use std::fmt;
use std::str::FromStr;

use socks_proxy::expose::wire::{Filter, Protocol, Way};

use crate::kube::stand_in;

/// A port in the pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// By its number.
    Number(u16),
    /// By the name that the pod's specification gives it.
    Name(String),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// `[LOCAL:]REMOTE[/udp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The program's port on this machine, if it is another than the pod's.
    pub here: Option<u16>,
    /// The port in the pod.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl Wanted {
    /// The port as one of a Service that is made for it; a name is of no use where nothing has names yet.
    #[must_use]
    pub fn of_service(&self) -> Option<stand_in::Port> {
        match self.port {
            Port::Number(number) => Some(stand_in::Port { number, udp: self.protocol == Protocol::Udp }),
            Port::Name(_) => None,
        }
    }

    /// The program's port, if it is known before the pod is.
    #[must_use]
    pub fn number_here(&self) -> Option<u16> {
        match self.port {
            Port::Number(number) => Some(self.here.unwrap_or(number)),
            Port::Name(_) => self.here,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(here) = self.here {
            write!(f, "{here}:")?;
        }
        write!(f, "{}", self.port)?;
        if self.protocol == Protocol::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

/// Why something is no `[LOCAL:]REMOTE[/udp]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WantedError {
    /// A number of this machine's side.
    #[error("`{0}` is not a port of this machine: a number from 1 to 65535")]
    Here(String),
    /// A number of the pod's side.
    #[error("`{0}` is not a port of the pod: a number from 1 to 65535, or a port's name")]
    Port(String),
    /// After the slash.
    #[error("`{0}` is neither tcp nor udp")]
    Protocol(String),
}

impl FromStr for Wanted {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<Self, WantedError> {
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, protocol)) if protocol.eq_ignore_ascii_case("udp") => (ports, Protocol::Udp),
            Some((ports, protocol)) if protocol.eq_ignore_ascii_case("tcp") => (ports, Protocol::Tcp),
            Some((_, other)) => return Err(WantedError::Protocol(other.to_owned())),
        };
        let (here, port) = match ports.split_once(':') {
            None => (None, ports),
            Some((here, port)) => {
                (Some(number(here).ok_or_else(|| WantedError::Here(here.to_owned()))?), port)
            }
        };
        let named = || is_name(port).then(|| Port::Name(port.to_owned()));
        let port = number(port)
            .map(Port::Number)
            .or_else(named)
            .ok_or_else(|| WantedError::Port(port.to_owned()))?;
        Ok(Self { here, port, protocol })
    }
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|number| *number != 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Kubernetes' rule for ports' names (IANA_SVC_NAME, RFC 6335, 5.1): a letter somewhere, no hyphen at the ends.
fn is_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=15).contains(&text.len())
        && text.bytes().all(fine)
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `NAME=VALUE` of an HTTP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header(pub String, pub String);

/// Why something is no `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No `=`.
    #[error("`{0}` is not NAME=VALUE")]
    NoValue(String),
    /// RFC 9110, 5.1.
    #[error("`{0}` is no name of an HTTP header")]
    Name(String),
    /// RFC 9110, 5.5.
    #[error("the value of `{0}` has a character that no HTTP header can have, or a space at an end")]
    Value(String),
}

impl FromStr for Header {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let (name, value) = text.split_once('=').ok_or_else(|| HeaderError::NoValue(text.to_owned()))?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(HeaderError::Name(name.to_owned()));
        }
        let fits = |byte: u8| byte == b'\t' || byte >= b' ' && byte != 0x7f;
        if !value.bytes().all(fits) || value.trim_matches([' ', '\t']) != value {
            return Err(HeaderError::Value(name.to_owned()));
        }
        Ok(Self(name.to_owned(), value.to_owned()))
    }
}

/// What a path begins with: it has a slash in front.
///
/// # Errors
/// If it has none.
pub fn path_prefix(text: &str) -> Result<String, String> {
    match text.starts_with('/')
        && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
    {
        true => Ok(text.to_owned()),
        false => Err("a path begins with `/` and has no spaces".to_owned()),
    }
}

/// All that the command line says about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ports; at least one.
    pub wanted: Vec<Wanted>,
    /// Whether the app goes on answering.
    pub mirror: bool,
    /// Only these requests; [`None`] for all that comes.
    pub filter: Option<Filter>,
}

impl Options {
    /// [`None`] if nothing is to be exposed.
    #[must_use]
    pub fn new(
        wanted: Vec<Wanted>,
        mirror: bool,
        headers: Vec<Header>,
        path_prefix: Option<String>,
    ) -> Option<Self> {
        let headers: Vec<_> = headers.into_iter().map(|Header(name, value)| (name, value)).collect();
        let filtered = !headers.is_empty() || path_prefix.is_some();
        let filter = filtered.then_some(Filter { headers, path_prefix });
        (!wanted.is_empty()).then_some(Self { wanted, mirror, filter })
    }

    /// How the agent comes by the ports beside an app.
    #[must_use]
    pub fn way(&self) -> Way {
        if self.mirror { Way::Mirror } else { Way::Steal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_written() {
        for text in ["8080", "80:8080", "http", "80:http", "5353/udp", "53:dns/udp"] {
            assert_eq!(text.parse::<Wanted>().unwrap().to_string(), text);
        }
        assert_eq!("8080/TCP".parse::<Wanted>().unwrap().to_string(), "8080");
        for (text, error) in [
            ("0", WantedError::Port("0".into())),
            ("", WantedError::Port(String::new())),
            ("65536", WantedError::Port("65536".into())),
            ("+80", WantedError::Port("+80".into())),
            ("Http", WantedError::Port("Http".into())),
            ("-a", WantedError::Port("-a".into())),
            ("x:80", WantedError::Here("x".into())),
            ("127.0.0.1:80", WantedError::Here("127.0.0.1".into())),
            ("1:2:3", WantedError::Port("2:3".into())),
            ("80/sctp", WantedError::Protocol("sctp".into())),
        ] {
            assert_eq!(text.parse::<Wanted>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn headers_are_what_http_allows() {
        let header = |name: &str, value: &str| Header(name.into(), value.into());
        assert_eq!("X-User=alice".parse(), Ok(header("X-User", "alice")));
        assert_eq!("x=a=b".parse(), Ok(header("x", "a=b")));
        assert_eq!("x=".parse(), Ok(header("x", "")));
        for text in ["x", "=x", "x y=1", "x:=1", "x= 1", "x=1\r\n"] {
            assert!(text.parse::<Header>().is_err(), "{text:?}");
        }
        assert!(path_prefix("/api").is_ok() && path_prefix("api").is_err() && path_prefix("/a b").is_err());
    }
}
