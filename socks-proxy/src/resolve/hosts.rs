//! `/etc/hosts` (hosts(5)): the kubelet writes a pod's own name and its `hostAliases` there, and no nameserver
//! knows those.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Lines beyond this many are not read; the kubelet's file has a few dozen.
const LINES_MAX: usize = 10_000;

/// The file's contents.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    lines: Vec<(IpAddr, Vec<String>)>,
}

impl Hosts {
    /// Reads the file's text. A line that does not parse is left out, as libc does.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let line = |line: &[u8]| {
            let text = std::str::from_utf8(line).ok()?;
            let mut words = text.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            let names: Vec<String> = words.map(str::to_owned).collect();
            (!names.is_empty()).then_some((address, names))
        };
        Self { lines: text.split(|byte| *byte == b'\n').take(LINES_MAX).filter_map(line).collect() }
    }

    /// The addresses of a name, in the file's order. `localhost` is known even without a line (RFC 6761, 6.3).
    #[must_use]
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let listed: Vec<IpAddr> = self
            .lines
            .iter()
            .filter(|(_, names)| names.iter().any(|known| known.eq_ignore_ascii_case(name)))
            .map(|(address, _)| *address)
            .collect();
        if listed.is_empty() && is_localhost(name) {
            return vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        }
        listed
    }

    /// The first name of the first line with this address.
    #[must_use]
    pub fn name(&self, address: IpAddr) -> Option<&str> {
        let listed = self.lines.iter().find(|(known, _)| *known == address);
        let name = listed.and_then(|(_, names)| names.first()).map(String::as_str);
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        name.or_else(|| loopback.contains(&address).then_some("localhost"))
    }
}

fn is_localhost(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower == "localhost" || lower.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBELET: &[u8] = b"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n10.244.0.7\tweb-0.web.default.svc web-0\n\
        \n# Entries added by HostAliases.\n192.0.2.9\tForeign.example\tbar # not this\nnot an address\n\xff\xfe\n";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_kubelets_file_is_understood() {
        let hosts = Hosts::parse(KUBELET);
        assert_eq!(hosts.addresses("localhost"), [ip("127.0.0.1"), ip("::1")]);
        assert_eq!(hosts.addresses("WEB-0"), [ip("10.244.0.7")]);
        assert_eq!(hosts.addresses("foreign.example."), [ip("192.0.2.9")]);
        assert!(hosts.addresses("not").is_empty());
        assert_eq!(hosts.name(ip("10.244.0.7")), Some("web-0.web.default.svc"));
        assert_eq!(hosts.name(ip("10.244.0.8")), None);
    }

    #[test]
    fn localhost_needs_no_line() {
        let hosts = Hosts::default();
        assert_eq!(hosts.addresses("app.LocalHost."), [ip("127.0.0.1"), ip("::1")]);
        assert!(hosts.addresses("localhost.example").is_empty());
        assert_eq!(hosts.name(ip("::1")), Some("localhost"));
    }
}
