//! Where benches run: two pods in a namespace of their own, with one's network to start from and a service in the other's,
//! and the ways from a program to that service that are compared.
//!
//! The programs are this machine's, built for the run, and the service is one of them in the pod's network: so the
//! same bytes go the same way by whatever is between, and no image is in the way of a new measure.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::Background;
use crate::{
    Cluster, Error, Laptop, Layout, PodNetwork, Sandbox, Target, Wire, Workload, case, containerd, run, wire,
};

/// The pods' workloads: where tp's agent is, and where the service is.
const NEAR: &str = "near";
const FAR: &str = "far";

/// Two pods; they go with the value.
#[derive(Debug)]
pub struct Field {
    target: Target,
    laptop: Laptop,
    layout: Layout,
    sandbox: Sandbox,
    programs: case::Folder,
    near: PodNetwork,
    far: PodNetwork,
    address: String,
}

/// A service in the far pod, for as long as the value is kept.
#[derive(Debug)]
pub struct Service {
    port: String,
    process: Background,
}

/// `kubectl port-forward` to a service, for as long as the value is kept.
#[derive(Debug)]
pub struct Forward {
    port: String,
    process: Background,
}

impl Field {
    /// Makes the pods, and the agent that lingers in the near one.
    ///
    /// # Errors
    /// If there is no laptop, or the pods do not come up.
    pub fn create(what: &'static str) -> Result<Self, Error> {
        Self::from(Target::attach()?, what)
    }

    /// The same, for a laptop at the far end of a wire.
    ///
    /// # Errors
    /// As above, or if there is no such wire.
    pub fn far_away(what: &'static str) -> Result<(Self, Wire), Error> {
        let target = Target::attach()?;
        let wire = Wire::create(&case::Folder::new(target.laptop(what)?))?;
        let target = match target {
            Target::Laptop(cluster, laptop) => Target::Laptop(cluster, laptop.with_network(wire::FAR_NETNS)),
            context @ Target::Context(..) => context,
        };
        Ok((Self::from(target, what)?, wire))
    }

    fn from(target: Target, what: &'static str) -> Result<Self, Error> {
        let laptop = target.laptop(what)?.clone();
        let Target::Laptop(cluster, _) = &target else {
            return Err(Error::NotUp { why: "no pod's network".to_owned() });
        };
        let sandbox = Sandbox::create(&target, "bench")?;
        for name in [NEAR, FAR] {
            Workload::new(name).apply(&sandbox)?;
        }
        let network = |name: &str| network(cluster, &laptop, &sandbox, name);
        let (near, far) = (network(NEAR)?, network(FAR)?);
        let ip = ["get", "pods", "-l", "app=far", "-o", "jsonpath={.items[0].status.podIP}"];
        let address = run::output(sandbox.kubectl().args(ip))?;
        let programs = case::Folder::new(&laptop);
        let layout = cluster.layout().clone();
        let field = Self { laptop, layout, sandbox, programs, near, far, address, target };
        run::output(&mut field.tp(&[], "true")?)?;
        Ok(field)
    }

    /// Takes another near pod: its agent has carried nothing yet.
    ///
    /// # Errors
    /// If that pod does not come up.
    pub fn renew(&mut self) -> Result<(), Error> {
        let Target::Laptop(cluster, laptop) = &self.target else { return Ok(()) };
        let kubectl = |words: [&str; 5]| run::output(self.sandbox.kubectl().args(words));
        kubectl(["delete", "pods", "-l", "app=near", "--wait"])?;
        kubectl(["wait", "pods", "-l", "app=near", "--for=condition=Ready"])?;
        self.near = network(cluster, laptop, &self.sandbox, NEAR)?;
        run::output(&mut self.tp(&[], "true")?).map(drop)
    }

    /// The namespace.
    #[must_use]
    pub const fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// The laptop.
    #[must_use]
    pub const fn laptop(&self) -> &Laptop {
        &self.laptop
    }

    /// The address of the far pod.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `apps/NAME.c`, built where the laptop's user can run it.
    ///
    /// # Errors
    /// If it does not compile.
    pub fn program(&self, name: &str) -> Result<PathBuf, Error> {
        self.programs.program(name)
    }

    /// A file that the laptop's user can read, gone with the value; its path.
    #[must_use]
    pub fn file(&self, name: &str, contents: &str) -> String {
        self.programs.write(name, contents, 0o644)
    }

    /// The process of the agent in the near pod.
    ///
    /// # Errors
    /// If there is none.
    pub fn agent(&self) -> Result<u32, Error> {
        // It serves before the kubelet says that it is there.
        let running = "--for=jsonpath={.status.ephemeralContainerStatuses[0].state.running}";
        run::output(self.sandbox.kubectl().args(["wait", "pods", "-l", "app=near", running]))?;
        let path = "jsonpath={.items[0].status.ephemeralContainerStatuses[0].containerID}";
        let answer = run::output(self.sandbox.kubectl().args(["get", "pods", "-l", "app=near", "-o", path]))?;
        let id = answer.strip_prefix("containerd://").ok_or_else(|| Error::Answer {
            what: "kubectl, asked for the agent's container,",
            answer: answer.clone(),
        })?;
        containerd::pid(&self.layout, id)
    }

    /// `PROGRAM serve` at all addresses of the far pod.
    ///
    /// # Errors
    /// If it does not start.
    pub fn serve(&self, program: &Path) -> Result<Service, Error> {
        let mut process = Background::start(self.far.command(program)?.args(["serve", "0.0.0.0"]))?;
        Ok(Service { port: process.line()?, process })
    }

    /// `tp run OPTIONS -- PROGRAM` by the near pod, not yet started; of the pod's connections before nothing is left.
    ///
    /// # Errors
    /// If tp is not installed.
    pub fn tp(&self, options: &[&str], program: impl AsRef<Path>) -> Result<Command, Error> {
        self.near.forget_closed()?;
        let place = ["-n", self.sandbox.namespace(), "--deployment", NEAR];
        self.target.tp_run(place.iter().chain(options), [program.as_ref()])
    }

    /// A program with the near pod's network: what tp is to be like. Of the pod's connections before nothing is left.
    ///
    /// # Errors
    /// If there is no such pod any more.
    pub fn direct(&self, program: impl AsRef<Path>) -> Result<Command, Error> {
        self.near.forget_closed()?;
        self.near.command(program.as_ref())
    }

    /// A program on the laptop, without tp.
    ///
    /// # Errors
    /// If there is no laptop any more.
    pub fn bare(&self, program: impl AsRef<Path>) -> Result<Command, Error> {
        self.laptop.command(program.as_ref())
    }

    /// Forwards a port of the laptop's loopback to the service.
    ///
    /// # Errors
    /// If kubectl does not start.
    pub fn forward(&self, service: &Service) -> Result<Forward, Error> {
        Forward::start(&self.laptop, &self.sandbox, "deployment/far", &service.port)
    }
}

fn network(cluster: &Cluster, laptop: &Laptop, sandbox: &Sandbox, name: &str) -> Result<PodNetwork, Error> {
    PodNetwork::find(cluster, laptop, sandbox.namespace(), &format!("app={name}"))
}

impl Forward {
    /// Forwards a port of the laptop's loopback to that port of a pod.
    ///
    /// # Errors
    /// If kubectl does not start.
    pub fn start(laptop: &Laptop, sandbox: &Sandbox, pod: &str, port: &str) -> Result<Self, Error> {
        let mut kubectl = laptop.command("kubectl")?;
        kubectl.args(["-n", sandbox.namespace(), "port-forward", pod, &format!(":{port}")]);
        let mut process = Background::start(kubectl.stderr(std::process::Stdio::null()))?;
        // "Forwarding from 127.0.0.1:40123 -> 8080"
        let line = process.line()?;
        process.ignore();
        let port = line.split_whitespace().nth(2).and_then(|address| address.rsplit(':').next());
        Ok(Self { port: port.unwrap_or_default().to_owned(), process })
    }

    /// Its port on the laptop's loopback.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.port
    }

    /// kubectl's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Service {
    /// Its port in the far pod.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}
