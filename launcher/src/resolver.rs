//! The pod's `resolv.conf` and `hosts` for the program: as files, and as settings for libc's resolver.
//!
//! The kubelet makes both files for the pod. Programs with a resolver of their own (c-ares, Java, dig) read them by their
//! usual names; the shim opens these instead. The `hosts` file has the laptop's own name besides, which stays the
//! laptop's.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use socks_proxy::files::Files;
use socks_proxy::settings::Settings;

/// Domains that glibc's `_res` can hold (`MAXDNSRCH` of resolv.h), and bytes, each with a NUL (`defdname`).
const SEARCH_MAX: (usize, usize) = (6, 256);

/// Writes both files into the run's folder, under the names that the shim looks for. Each is there whole or not at all.
///
/// # Errors
/// Those of writing.
pub fn write(folder: &Path, files: &Files) -> io::Result<()> {
    let laptops = std::fs::read("/etc/hosts").unwrap_or_default();
    let name = nix::unistd::gethostname()?;
    let put = |name: &str, contents: &[u8]| {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(contents)?;
        // As on the laptop, nobody writes there: in a private network the file itself is in /etc.
        file.as_file().set_permissions(Permissions::from_mode(0o444))?;
        file.persist(folder.join(name)).map(drop).map_err(io::Error::from)
    };
    put(tp_abi::env::RESOLV_CONF, &files.resolv_conf)?;
    put(tp_abi::env::HOSTS, &with_own_name(&files.hosts, &laptops, name.as_encoded_bytes()))
}

/// The pod's hosts, and the laptop's lines for its own name if the pod's have none for it.
fn with_own_name(pods: &[u8], laptops: &[u8], name: &[u8]) -> Vec<u8> {
    let of = |text: &[u8]| -> Vec<u8> {
        let names = |line: &&[u8]| {
            let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
            line.split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
                .skip(1)
                .any(|word| word.eq_ignore_ascii_case(name))
        };
        text.split(|byte| *byte == b'\n').filter(names).flat_map(|line| [line, b"\n"].concat()).collect()
    };
    let mut hosts = pods.to_vec();
    let own = of(laptops);
    if of(pods).is_empty() && !own.is_empty() {
        if !hosts.ends_with(b"\n") {
            hosts.push(b'\n');
        }
        hosts.extend(own);
    }
    hosts
}

/// What a resolv.conf says to libc's resolver functions.
pub struct Resolver {
    settings: Settings,
    /// Each with a NUL after it.
    search: Vec<u8>,
}

impl Resolver {
    /// Reads the pod's resolv.conf. `options` is the program's `RES_OPTIONS`, which comes on top (resolv.conf(5)).
    #[must_use]
    pub fn new(files: &Files, options: Option<&[u8]>) -> Self {
        let mut text = files.resolv_conf.clone();
        if let Some(options) = options {
            text.extend([b"\noptions ", options, b"\n"].concat());
        }
        let settings = Settings::parse(&text);
        let mut search = Vec::new();
        for domain in settings.search.iter().take(SEARCH_MAX.0) {
            if search.len() + domain.len() < SEARCH_MAX.1 {
                search.extend(domain.bytes().chain([0]));
            }
        }
        Self { settings, search }
    }

    /// The settings.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The domains to search, as libc's resolver can hold them: each with a NUL after it.
    #[must_use]
    pub fn search(&self) -> &[u8] {
        &self.search
    }

    /// Whether the pod asks there by itself.
    #[must_use]
    pub fn is_pods(&self, nameserver: SocketAddr) -> bool {
        self.settings.nameservers.contains(&nameserver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_laptops_name_is_added_once() {
        let pods: &[u8] = b"127.0.0.1 localhost\n10.244.0.7 web-0";
        let laptops = b"127.0.0.1 localhost\n127.0.1.1\tlaptop.home laptop # laptop2\n";
        let hosts = with_own_name(pods, laptops, b"Laptop");
        assert_eq!(hosts, [pods, b"\n127.0.1.1\tlaptop.home laptop # laptop2\n"].concat());
        assert_eq!(with_own_name(&hosts, laptops, b"laptop"), hosts);
        for unknown in [&b"laptop2"[..], b"127.0.0.1", b"other"] {
            assert_eq!(with_own_name(pods, laptops, unknown), pods);
        }
    }

    #[test]
    fn a_search_list_is_cut_where_libcs_ends() {
        let long = "a".repeat(120);
        let resolv_conf = format!("search {long}.one {long}.two {long}.three x y z\nnameserver 10.96.0.10\n");
        let files = Files { resolv_conf: resolv_conf.into_bytes(), hosts: Vec::new() };
        let resolver = Resolver::new(&files, Some(b"ndots:3 use-vc"));
        assert_eq!(resolver.search().split(|byte| *byte == 0).count(), 6);
        assert!(resolver.search().len() <= 256 && resolver.search().ends_with(b"x\0y\0z\0"));
        assert_eq!((resolver.settings().ndots, resolver.settings().tcp), (3, true));
        assert!(resolver.is_pods("10.96.0.10:53".parse().unwrap()));
    }
}
