//! Where everything of the cluster lies on this machine, and the addresses it uses inside its namespaces.
//!
//! Invariant: all that `up` leaves behind is below [`Layout::state`], below [`Layout::cache`], or carries the prefix
//! `tp-`. `down` removes what ran; the built programs, the installed tp and the laptop's home folder stay.

use std::env;
use std::path::{Path, PathBuf};

/// The network namespace of the node: control plane, kubelet, and the near end of every pod.
pub const NODE_NETNS: &str = "tp-node";
/// The network namespace of the laptop.
pub const LAPTOP_NETNS: &str = "tp-laptop";
/// The node's name in Kubernetes.
pub const NODE_NAME: &str = "node";
/// The node's addresses.
pub const NODE_V4: &str = "10.77.0.2";
/// The node's IPv6 address.
pub const NODE_V6: &str = "fd00:10:77::2";
/// Where the API server listens.
pub const API_PORT: u16 = 6443;
/// Pod addresses.
pub const PODS_V4: &str = "10.244.0.0/24";
/// Pod addresses, IPv6.
pub const PODS_V6: &str = "fd00:10:244::/64";
/// Service addresses.
pub const SERVICES_V4: &str = "10.96.0.0/16";
/// Service addresses, IPv6.
pub const SERVICES_V6: &str = "fd00:10:96::/112";
/// The first service address: the API server as pods see it.
pub const API_SERVICE_V4: &str = "10.96.0.1";
/// CoreDNS.
pub const DNS_V4: &str = "10.96.0.10";
/// The node's end of the wire to the laptop: its default gateway, and the nameserver in its resolv.conf.
pub const GATEWAY_V4: &str = "10.88.0.1";
/// The node's end of the wire to the laptop, IPv6.
pub const GATEWAY_V6: &str = "fd00:10:88::1";
/// The laptop's end.
pub const LAPTOP_V4: &str = "10.88.0.2";
/// The laptop's end, IPv6.
pub const LAPTOP_V6: &str = "fd00:10:88::2";
/// The cgroup, in every hierarchy, below which all pods live: how they are found when containerd is dead.
pub const CGROUP: &str = "tp-cluster";

/// The folders of one cluster.
#[derive(Debug, Clone)]
pub struct Layout {
    state: PathBuf,
    cache: PathBuf,
}

impl Layout {
    /// `TP_CLUSTER_DIR`, or /var/lib/tp-cluster; binaries are kept in /var/cache/tp-cluster (`TP_CLUSTER_CACHE`).
    pub fn from_env() -> Self {
        let folder =
            |name, default: &str| env::var_os(name).map_or_else(|| PathBuf::from(default), PathBuf::from);
        Self {
            state: folder("TP_CLUSTER_DIR", "/var/lib/tp-cluster"),
            cache: folder("TP_CLUSTER_CACHE", "/var/cache/tp-cluster"),
        }
    }

    /// The folder of everything that belongs to the running cluster.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The folder of built binaries, which outlive the cluster.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A file or folder of the running cluster (removed by `down`).
    pub fn run(&self, name: impl AsRef<Path>) -> PathBuf {
        self.state.join("run").join(name)
    }

    /// The log of a component.
    pub fn log(&self, component: &str) -> PathBuf {
        self.run("log").join(format!("{component}.log"))
    }

    /// Where programs that are installed for the cluster and the laptop lie (`kubectl`).
    pub fn bin(&self) -> PathBuf {
        self.state.join("bin")
    }

    /// Where `cargo xtask dist` installs tp by default: readable by the laptop's user, and not removed by `down`.
    pub fn dist(&self) -> PathBuf {
        self.state.join("dist")
    }

    /// The laptop's own files: home, resolv.conf and the like.
    pub fn laptop(&self) -> PathBuf {
        self.state.join("laptop")
    }

    /// The kubeconfig of the cluster's administrator, with everything in it.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.run("admin.kubeconfig")
    }

    /// The file whose lock serialises `up` and `down`.
    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// containerd's socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.run("containerd.sock")
    }
}

/// The file that keeps a named network namespace alive, as `ip netns add` makes it.
pub fn netns_file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// A folder of this crate's sources.
pub fn sources(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
