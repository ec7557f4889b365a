//! Which names and addresses are the pod's, and which the laptop's: `--local` and `--only`.
//!
//! Everything that is not the machine's own (loopback and the like, which the shim leaves alone) is the pod's unless the
//! user says otherwise: `--local` takes something out, `--only` leaves nothing but what it names. What both name is
//! local.
//!
//! Programs look a name up and connect to an address, so a rule that names a name is also about the addresses that
//! were found for it: the last name that such a rule chose is remembered for each address.
//!
//! Invariant: without a rule everything is the pod's. What is the laptop's leaves by the laptop's own network, because
//! the user asked for it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use moka::sync::Cache;

/// Addresses whose names are remembered.
const NAMED: u64 = 65_536;
/// Longest name in text (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;

/// What a rule is about: `NAME[:PORT]`, `*.DOMAIN[:PORT]`, `ADDRESS[:PORT]`, `CIDR[:PORT]`; an IPv6 address that has a
/// port stands in brackets (RFC 3986).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Network(IpNet),
    /// In lower case, without a dot at the end.
    Name(String),
    /// All names below this domain.
    Below(String),
}

/// Why a rule is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// After the colon.
    #[error("`{0}` is not a port (1 to 65535)")]
    Port(String),
    /// Before it.
    #[error("`{0}` is neither a name, nor *.DOMAIN, nor an address or CIDR")]
    Host(String),
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if let Some(network) = network(text) {
            return Ok(Self { host: Host::Network(network), port: None });
        }
        let (host, port) = match text.rsplit_once(':').filter(|_| !text.ends_with(']')) {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_name =
            |name: &str| !name.is_empty() && name.len() <= NAME_MAX && !name.contains(NEVER_IN_A_NAME);
        let name = bare.trim_end_matches('.').to_ascii_lowercase();
        let host = match (network(bare), name.strip_prefix("*.")) {
            (Some(network), _) => Host::Network(network),
            (None, Some(domain)) if is_name(domain) => Host::Below(domain.to_owned()),
            (None, None) if is_name(&name) => Host::Name(name),
            _ => return Err(RuleError::Host(host.to_owned())),
        };
        let port = port.map(|port| {
            port.parse().ok().filter(|&number| number != 0).ok_or(RuleError::Port(port.to_owned()))
        });
        Ok(Self { host, port: port.transpose()? })
    }
}

/// What would be a slip of the finger, or another kind of address.
const NEVER_IN_A_NAME: [char; 9] = [':', '/', '[', ']', '*', ' ', ',', '@', '\0'];

fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        .map(|network: IpNet| network.trunc())
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Network(IpNet::V6(network)) if self.port.is_some() => write!(f, "[{network}]")?,
            Host::Network(network) => write!(f, "{network}")?,
            Host::Name(name) => write!(f, "{name}")?,
            Host::Below(domain) => write!(f, "*.{domain}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Rule {
    fn covers_name(&self, name: &str) -> bool {
        match &self.host {
            Host::Network(_) => false,
            Host::Name(own) => own == name,
            Host::Below(domain) => name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.')),
        }
    }

    fn covers_ip(&self, ip: IpAddr) -> bool {
        matches!(&self.host, Host::Network(network) if network.contains(&ip))
    }

    /// `name` is what `address` was last found for.
    fn covers(&self, address: SocketAddr, name: Option<&str>) -> bool {
        self.port.is_none_or(|port| port == address.port())
            && (self.covers_ip(address.ip()) || name.is_some_and(|name| self.covers_name(name)))
    }
}

/// Who resolves a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolver {
    /// The pod.
    Pod,
    /// The laptop.
    Laptop,
    /// The pod, if one of the addresses that it finds is the pod's; else the laptop.
    PodIfInScope,
}

/// The rules of one run.
#[derive(Debug)]
pub struct Scope {
    local: Vec<Rule>,
    only: Vec<Rule>,
    names: Cache<IpAddr, String>,
}

impl Default for Scope {
    /// Everything is the pod's.
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new())
    }
}

impl Scope {
    /// `local` is the laptop's; of the rest, `only` is the pod's, or all of it if that is empty.
    #[must_use]
    pub fn new(local: Vec<Rule>, only: Vec<Rule>) -> Self {
        Self { local, only, names: Cache::new(NAMED) }
    }

    /// Whether anything can be the laptop's.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        !self.local.is_empty() || !self.only.is_empty()
    }

    /// Whether the pod carries what goes to this address.
    #[must_use]
    pub fn is_pods(&self, address: SocketAddr) -> bool {
        let name = self.names.get(&address.ip());
        let covered = |rules: &[Rule]| rules.iter().any(|rule| rule.covers(address, name.as_deref()));
        !covered(&self.local) && (self.only.is_empty() || covered(&self.only))
    }

    /// Who resolves a name.
    #[must_use]
    pub fn resolver(&self, name: &str) -> Resolver {
        self.resolver_of(&[name]).0
    }

    /// Who resolves a name that may have been written in any of these ways, and in which of them a rule names it.
    #[must_use]
    pub fn resolver_of<'a, N: AsRef<str>>(&self, spellings: &'a [N]) -> (Resolver, Option<&'a str>) {
        let named = |rules: &[Rule]| {
            let covered = |name: &&str| rules.iter().any(|rule| rule.covers_name(&plain(name)));
            spellings.iter().map(AsRef::as_ref).find(covered)
        };
        if let Some(name) = named(&self.local) {
            (Resolver::Laptop, Some(name))
        } else if let Some(name) = named(&self.only) {
            (Resolver::Pod, Some(name))
        } else if self.only.is_empty() {
            (Resolver::Pod, None)
        } else if self.only.iter().any(|rule| matches!(rule.host, Host::Network(_))) {
            (Resolver::PodIfInScope, None)
        } else {
            (Resolver::Laptop, None)
        }
    }

    /// Who knows the name of an address, whatever the port.
    #[must_use]
    pub fn is_pods_ip(&self, ip: IpAddr) -> bool {
        let covered = |rules: &[Rule]| rules.iter().any(|rule| rule.covers_ip(ip));
        !covered(&self.local) && (self.only.is_empty() || covered(&self.only))
    }

    /// Takes note of what was found for a name, if a rule is about that name.
    pub fn found(&self, name: &str, addresses: &[IpAddr]) {
        let name = plain(name);
        if self.local.iter().chain(&self.only).any(|rule| rule.covers_name(&name)) {
            for &ip in addresses {
                self.names.insert(ip, name.clone());
            }
        }
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))).collect()
    }

    fn scope(local: &[&str], only: &[&str]) -> Scope {
        Scope::new(rules(local), rules(only))
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn rules_are_read_and_shown() {
        for (text, shown) in [
            ("db", "db"),
            ("DB.Example.", "db.example"),
            ("db:5432", "db:5432"),
            ("*.corp.example", "*.corp.example"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.0.0.0/8:443", "10.0.0.0/8:443"),
            ("fd00::/64", "fd00::/64"),
            ("fd00::1", "fd00::1/128"),
            ("[fd00::1]", "fd00::1/128"),
            ("[fd00::1]:80", "[fd00::1/128]:80"),
            ("[fd00::/64]:80", "[fd00::/64]:80"),
            ("_srv.db", "_srv.db"),
        ] {
            let [rule] = rules(&[text]).try_into().unwrap();
            assert_eq!(rule.to_string(), shown);
            assert_eq!(shown.parse(), Ok(rule), "{shown}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            ":80",
            "db:0",
            "db:http",
            "db:99999",
            "10.0.0.0/33",
            "a/b",
            "*",
            "*.",
            "a*b",
            "http://db",
            "a b",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    #[test]
    fn without_rules_everything_is_the_pods() {
        let scope = Scope::default();
        assert!(scope.is_pods(at("10.0.0.1:80")));
        assert_eq!(scope.resolver("db"), Resolver::Pod);
    }

    #[test]
    fn what_is_local_is_taken_out() {
        let scope = scope(&["10.0.0.0/8", "192.168.1.1:22", "*.corp"], &[]);
        for (address, pods) in [
            ("10.9.9.9:80", false),
            ("11.0.0.1:80", true),
            ("192.168.1.1:22", false),
            ("192.168.1.1:80", true),
        ] {
            assert_eq!(scope.is_pods(at(address)), pods, "{address}");
        }
        for (name, who) in [
            ("a.corp", Resolver::Laptop),
            ("A.B.Corp.", Resolver::Laptop),
            ("corp", Resolver::Pod),
            ("acorp", Resolver::Pod),
        ] {
            assert_eq!(scope.resolver(name), who, "{name}");
        }
    }

    #[test]
    fn a_names_addresses_go_where_the_name_goes() {
        let scope = scope(&["db:5432"], &[]);
        assert!(scope.is_pods(at("7.7.7.7:5432")));
        scope.found("db", &[at("7.7.7.7:0").ip()]);
        assert!(!scope.is_pods(at("7.7.7.7:5432")));
        assert!(scope.is_pods(at("7.7.7.7:80")));
        scope.found("other", &[at("8.8.8.8:0").ip()]);
        assert!(scope.is_pods(at("8.8.8.8:5432")));
    }

    #[test]
    fn only_leaves_nothing_but_what_it_names() {
        let named = scope(&[], &["backend"]);
        assert_eq!(named.resolver("backend"), Resolver::Pod);
        assert_eq!(named.resolver("elsewhere"), Resolver::Laptop);
        named.found("backend", &[at("10.96.0.7:0").ip()]);
        assert!(named.is_pods(at("10.96.0.7:80")));
        assert!(!named.is_pods(at("10.96.0.8:80")));

        let network = scope(&["10.96.0.9"], &["10.96.0.0/16"]);
        assert_eq!(network.resolver("anything"), Resolver::PodIfInScope);
        assert!(network.is_pods_ip(at("10.96.0.8:0").ip()));
        assert!(!network.is_pods(at("10.96.0.9:80")), "local comes before only");
    }
}
