//! A host program in a pod's network: what a program would see if it stood where `tp run` claims to put it.
//!
//! The program is this machine's, with the laptop's user, environment and files; only the network namespace, the
//! resolv.conf and the hosts file are the pod's. So a difference to `tp run` can only be tp's doing, and no image
//! with curl and the like has to be made.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::laptop::Place;
use crate::{Cluster, Error, Laptop, containerd, netns, run};

/// The network of a running pod of the own cluster.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    laptop: Laptop,
    process: PathBuf,
    place: Place,
}

impl PodNetwork {
    /// That of the first running pod that `selector` (such as `app=web`) names in the namespace.
    pub fn find(cluster: &Cluster, laptop: &Laptop, namespace: &str, selector: &str) -> Result<Self, Error> {
        let path = "jsonpath={.items[0].status.containerStatuses[0].containerID}";
        let running = ["get", "pods", "-l", selector, "--field-selector=status.phase=Running", "-o", path];
        let answer = run::output(cluster.kubectl().args(["-n", namespace]).args(running))?;
        let id = answer.strip_prefix("containerd://").ok_or_else(|| Error::Answer {
            what: "kubectl, asked for the pod's container,",
            answer: answer.clone(),
        })?;
        let pid = containerd::pid(cluster.layout(), id)?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        // Copies: a file of another mount namespace cannot be bound into this one.
        let folder = cluster.layout().run("pod-network").join(id);
        run::folder(&folder)?;
        let copy = |name: &str| {
            let from = process.join("root/etc").join(name);
            let contents = fs::read(&from).map_err(Error::file("read", from))?;
            let to = folder.join(name);
            run::write(&to, contents)?;
            Ok(to)
        };
        let place = Place {
            network: process.join("ns/net"),
            resolv_conf: copy("resolv.conf")?,
            hosts: copy("hosts")?,
        };
        Ok(Self { laptop: laptop.clone(), process, place })
    }

    /// A command that will run with the pod's network.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        self.laptop.command_in(&self.place, program)
    }

    /// A command of this machine's root with the pod's network.
    pub fn as_root(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.place.network.display())).arg("--").arg(program);
        command
    }

    /// Ends what the kernel keeps of closed connections there, as [`netns::forget_closed`] has it.
    pub fn forget_closed(&self) -> Result<(), Error> {
        netns::forget_closed(&self.place.network)
    }

    /// The files of the pod's container, as root finds them.
    pub fn root(&self) -> PathBuf {
        self.process.join("root")
    }

    /// Waits until a service can be reached from there: a ready pod is an endpoint of its service only when kube-proxy
    /// has heard of it.
    pub fn reaches(&self, host: &str, port: u16) -> Result<(), Error> {
        let reached = format!("until nc -z -w 1 {host} {port}; do sleep 0.1; done");
        run::output(self.command("timeout")?.args(["60", "sh", "-c", &reached])).map(drop)
    }
}
