//! The harness: a real Kubernetes cluster in network namespaces of this machine, a "laptop" beside it, and what the
//! cases under `tests/` need to run programs there.
//!
//! Everything is real because tp's promises are about kernels, kubelets and resolvers; a mock would only repeat what
//! its author believed. Nothing may reach a network outside: the node's namespace has no way out, and the laptop's
//! only neighbour is the node, which counts every packet that is not for the API server ([`Laptop::leaks`]).
//!
//! With `TP_TEST_CONTEXT=name` the same cases run against a cluster of the caller's own kubeconfig; see [`Target`].

pub mod apart;
pub mod case;
pub mod cluster;
pub mod container;
pub mod containerd;
pub mod control_plane;
pub mod daemon;
pub mod error;
pub mod fake_launcher;
pub mod field;
pub mod figures;
pub mod gobuild;
pub mod held;
pub mod host;
pub mod image;
pub mod laptop;
pub mod layout;
pub mod manifests;
pub mod methods;
pub mod netns;
pub mod node_network;
pub mod packages;
pub mod pki;
pub mod pod_network;
pub mod run;
pub mod sandbox;
pub mod servers;
pub mod shim_build;
pub mod socks;
pub mod target;
pub mod web_server;
pub mod wire;
pub mod workload;

pub use apart::Apart;
pub use case::Case;
pub use cluster::Cluster;
pub use container::Container;
pub use error::Error;
pub use fake_launcher::FakeLauncher;
pub use field::Field;
pub use figures::Figures;
pub use laptop::Laptop;
pub use layout::Layout;
pub use pod_network::PodNetwork;
pub use sandbox::Sandbox;
pub use shim_build::shim_under_test;
pub use socks::Socks;
pub use target::Target;
pub use wire::Wire;
pub use workload::Workload;
