//! The pod's `/etc/resolv.conf` (resolv.conf(5)) as glibc reads it: what is not said has glibc's default, what is
//! too much has glibc's limit.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use resolv_conf::{Config, ScopedIp};

const PORT: u16 = 53;
/// glibc's `MAXNS`.
const NAMESERVERS_MAX: usize = 3;
/// glibc's `RES_MAXNDOTS`.
const NDOTS_MAX: u32 = 15;
/// glibc's `RES_MAXRETRANS` in seconds.
const TIMEOUT_MAX: u32 = 30;
/// glibc's `RES_MAXRETRY`.
const ATTEMPTS_MAX: u32 = 5;

/// How to ask, and whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// In the file's order.
    pub nameservers: Vec<SocketAddr>,
    /// Domains to append, in order, without a trailing dot.
    pub search: Vec<String>,
    /// A name with at least so many dots is first tried as it is.
    pub ndots: usize,
    /// How long to wait for the first nameserver.
    pub timeout: Duration,
    /// How often to go through the nameservers.
    pub attempts: u32,
    /// Begin each question at another nameserver.
    pub rotate: bool,
    /// Always TCP (`use-vc`).
    pub tcp: bool,
    /// All of the file's options, as `options` of glibc's `_res` has them (resolv.h).
    pub glibc_options: u32,
}

impl Settings {
    /// Reads the file's text. A line that does not parse is left out.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let (config, _faults) = Config::parse_with_errors(text);
        let mut nameservers: Vec<SocketAddr> =
            config.nameservers.iter().map(address).take(NAMESERVERS_MAX).collect();
        if nameservers.is_empty() {
            nameservers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
        }
        let search = config
            .get_last_search_or_domain()
            .map(|domain| domain.trim_end_matches('.').to_owned())
            .filter(|domain| !domain.is_empty())
            .collect();
        Self {
            nameservers,
            search,
            ndots: usize::try_from(config.ndots.min(NDOTS_MAX)).unwrap_or(1),
            timeout: Duration::from_secs(config.timeout.clamp(1, TIMEOUT_MAX).into()),
            attempts: config.attempts.clamp(1, ATTEMPTS_MAX),
            rotate: config.rotate,
            tcp: config.use_vc,
            glibc_options: glibc_options(&config),
        }
    }

    /// How long to wait for the nameserver at `place` (0 is the first): glibc doubles the time for each further one
    /// and divides it by their number.
    #[must_use]
    pub fn patience(&self, place: usize) -> Duration {
        if place == 0 {
            return self.timeout;
        }
        let servers = u32::try_from(self.nameservers.len()).unwrap_or(1).max(1);
        let doubled = self.timeout.saturating_mul(1 << place.min(NAMESERVERS_MAX));
        (doubled / servers).max(Duration::from_secs(1))
    }

    /// The names to try for `name`, in glibc's order, each without a trailing dot.
    #[must_use]
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let mut candidates: Vec<String> =
            self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let place = if dots >= self.ndots { 0 } else { candidates.len() };
        candidates.insert(place, name.to_owned());
        candidates
    }
}

/// `RES_*` bits of glibc's resolv.h, which are part of its binary interface.
fn glibc_options(config: &Config) -> u32 {
    let options = [
        (config.use_vc, 0x0000_0008),
        (config.rotate, 0x0000_4000),
        (config.no_check_names, 0x0000_8000),
        (config.edns0, 0x0010_0000),
        (config.single_request, 0x0020_0000),
        (config.single_request_reopen, 0x0040_0000),
        (config.no_tld_query, 0x0100_0000),
        (config.no_reload, 0x0200_0000),
        (config.trust_ad, 0x0400_0000),
        (config.no_aaaa, 0x0800_0000),
    ];
    options.iter().filter(|(is_set, _)| *is_set).fold(0, |bits, (_, bit)| bits | bit)
}

fn address(nameserver: &ScopedIp) -> SocketAddr {
    match nameserver {
        ScopedIp::V4(ip) => SocketAddr::from((*ip, PORT)),
        ScopedIp::V6(ip, scope) => {
            let scope = scope.as_deref().map_or(0, interface);
            SocketAddr::V6(SocketAddrV6::new(*ip, PORT, 0, scope))
        }
    }
}

/// The index of an interface by its name or number (`fe80::1%eth0`); 0 if there is none.
fn interface(scope: &str) -> u32 {
    if let Ok(index) = scope.parse() {
        return index;
    }
    if scope.contains('/') {
        return 0;
    }
    let text = std::fs::read_to_string(format!("/sys/class/net/{scope}/ifindex")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBELET: &[u8] = b"search default.svc.cluster.local svc.cluster.local cluster.local\n\
        nameserver 10.96.0.10\nnameserver fd00:10:96::a\noptions ndots:5 timeout:2 attempts:3 rotate\n";

    #[test]
    fn the_kubelets_file_is_understood() {
        let settings = Settings::parse(KUBELET);
        let servers = ["10.96.0.10:53".parse().unwrap(), "[fd00:10:96::a]:53".parse().unwrap()];
        assert_eq!(settings.nameservers, servers);
        assert_eq!(settings.search.len(), 3);
        assert_eq!((settings.ndots, settings.attempts, settings.rotate), (5, 3, true));
        assert_eq!(settings.patience(0), Duration::from_secs(2));
        assert_eq!(settings.patience(1), Duration::from_secs(2));
    }

    #[test]
    fn an_empty_file_has_glibcs_defaults_and_a_wild_one_its_limits() {
        let empty = Settings::parse(b"");
        assert_eq!(empty.nameservers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!((empty.ndots, empty.timeout, empty.attempts), (1, Duration::from_secs(5), 2));
        let wild = Settings::parse(
            b"options ndots:99 timeout:99 attempts:99\nnameserver 1.1.1.1\nnameserver 1.1.1.2\n\
              nameserver 1.1.1.3\nnameserver 1.1.1.4\n",
        );
        assert_eq!((wild.ndots, wild.timeout, wild.attempts), (15, Duration::from_secs(30), 5));
        assert_eq!(wild.nameservers.len(), NAMESERVERS_MAX);
    }

    #[test]
    fn options_are_the_bits_that_glibc_gives_them() {
        let bits = |options: &str| Settings::parse(format!("options {options}\n").as_bytes()).glibc_options;
        assert_eq!(bits("ndots:5"), 0);
        // RES_USEVC, RES_ROTATE, RES_USE_EDNS0, RES_SNGLKUP, RES_TRUSTAD
        assert_eq!(bits("use-vc rotate edns0 single-request trust-ad"), 0x0430_4008);
    }

    #[test]
    fn names_are_tried_in_glibcs_order() {
        let settings = Settings::parse(b"search a.test b.test\noptions ndots:2\n");
        assert_eq!(settings.candidates("db"), ["db.a.test", "db.b.test", "db"]);
        assert_eq!(settings.candidates("x.y"), ["x.y.a.test", "x.y.b.test", "x.y"]);
        assert_eq!(settings.candidates("x.y.z"), ["x.y.z", "x.y.z.a.test", "x.y.z.b.test"]);
        assert_eq!(settings.candidates("db."), ["db"]);
    }

    #[test]
    fn a_later_domain_line_replaces_the_search_line() {
        assert_eq!(Settings::parse(b"search a b\ndomain c.test.\n").search, ["c.test"]);
        assert_eq!(Settings::parse(b"domain c\nsearch a .\n").search, ["a"]);
    }
}
