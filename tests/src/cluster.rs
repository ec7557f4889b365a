//! Bringing the cluster up and down.
//!
//! `up` does nothing to a cluster that is healthy but refresh images and manifests; anything else it finds it takes
//! down first, whatever state a crash left it in. One lock serialises all that change the cluster; the kernel drops
//! it with the process that held it.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::daemon::{self, Daemon};
use crate::gobuild::{self, Binaries, Progress};
use crate::layout::{LAPTOP_NETNS, NODE_NAME, NODE_NETNS};
use crate::{
    Error, Laptop, Layout, containerd, control_plane, host, image, manifests, netns, node_network, run,
};

/// How long a component may take until it answers; a loaded machine of two cores needs a tenth.
const PATIENCE: Duration = Duration::from_secs(90);

/// The test cluster of this machine.
#[derive(Debug, Clone)]
pub struct Cluster {
    layout: Layout,
}

/// What `up` is doing, for a display.
#[derive(Debug)]
pub enum Step<'a> {
    /// Go programs are built.
    Build(Progress<'a>),
    /// Something was reached, so long after the start of `up`.
    Reached(&'a str, Duration),
}

/// The state of one component, or of one thing that must exist.
#[derive(Debug)]
pub struct State {
    /// Its name.
    pub name: &'static str,
    /// Does it run, or exist?
    pub alive: bool,
}

impl Cluster {
    /// The cluster of this machine, whether it runs or not.
    pub fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// Its folders.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A `kubectl` with the administrator's rights, run in the node's namespace.
    pub fn kubectl(&self) -> Command {
        let mut command = netns::command(NODE_NETNS, self.layout.bin().join("kubectl"));
        command.env("KUBECONFIG", self.layout.admin_kubeconfig());
        command
    }

    /// Brings the cluster, the sample application and the laptop up. Idempotent.
    pub fn up(&self, on: &mut dyn FnMut(Step<'_>)) -> Result<(), Error> {
        host::require_root()?;
        host::require_packages()?;
        let _lock = self.lock()?;
        let binaries = gobuild::build(&self.layout, &mut |progress| on(Step::Build(progress)))?;
        let started = Instant::now();
        let mut reached = |what: &str| on(Step::Reached(what, started.elapsed()));
        if self.is_of(&binaries) && self.is_serving() {
            reached("it was up already");
            return self.furnish(&binaries, &mut reached);
        }
        self.clean()?;
        self.start(&binaries, &mut reached)?;
        self.furnish(&binaries, &mut reached)?;
        run::write(&self.layout.run("complete"), stamp(&binaries))
    }

    /// Ends everything and removes all that it left, but for the cache and the installed tp.
    pub fn down(&self) -> Result<(), Error> {
        host::require_root()?;
        let _lock = self.lock()?;
        self.clean()
    }

    /// What runs and what does not.
    pub fn status(&self) -> Vec<State> {
        let mut states: Vec<State> = control_plane::COMPONENTS
            .into_iter()
            .map(|name| State { name, alive: daemon::is_alive(&self.layout, name) })
            .collect();
        let serving = states.iter().all(|state| state.alive) && self.answers();
        states.push(State { name: "API answers", alive: serving });
        states.push(State { name: "laptop", alive: netns::exists(LAPTOP_NETNS) });
        states
    }

    /// Is everything there that `up` made?
    pub fn is_up(&self) -> bool {
        self.layout.run("complete").exists() && self.status().iter().all(|state| state.alive)
    }

    /// Imports an archive as `docker save` writes it.
    pub fn load_image(&self, archive: &std::path::Path) -> Result<String, Error> {
        host::require_root()?;
        containerd::load(&self.layout, archive)
    }

    fn lock(&self) -> Result<File, Error> {
        run::folder(self.layout.state())?;
        let path = self.layout.lock();
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        file.lock().map_err(Error::file("lock", &path))?;
        Ok(file)
    }

    /// Was the running cluster made by these binaries?
    fn is_of(&self, binaries: &Binaries) -> bool {
        fs::read_to_string(self.layout.run("complete")).is_ok_and(|known| known == stamp(binaries))
    }

    fn is_serving(&self) -> bool {
        control_plane::COMPONENTS.iter().all(|name| daemon::is_alive(&self.layout, name)) && self.answers()
    }

    fn answers(&self) -> bool {
        run::output(self.kubectl().args(["--request-timeout=5s", "get", "--raw", "/readyz"])).is_ok()
    }

    fn clean(&self) -> Result<(), Error> {
        daemon::kill_all(&self.layout)?;
        daemon::unmount_below(&self.layout.run(""))?;
        remove_shim_sockets(&self.layout);
        daemon::remove_cgroups();
        netns::delete(LAPTOP_NETNS)?;
        netns::delete(NODE_NETNS)?;
        run::remove_folder(&self.layout.run(""))
    }

    fn start(&self, binaries: &Binaries, reached: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let layout = &self.layout;
        for folder in [layout.run("log"), layout.run("pki"), layout.bin()] {
            run::folder(&folder)?;
        }
        // The laptop's user passes through these to its own files, and must not list them.
        private(&layout.run("pki"), 0o700)?;
        private(&layout.run(""), 0o711)?;
        let kubectl = layout.bin().join("kubectl");
        let _ = fs::remove_file(&kubectl);
        symlink(&binaries.kubernetes, &kubectl).map_err(Error::file("link", &kubectl))?;
        node_network::create_node()?;
        daemon::create_cgroups()?;
        control_plane::configure(layout)?;
        containerd::configure(layout)?;

        let runtime = host::find("containerd").unwrap_or_else(|| "containerd".into());
        let mut etcd = control_plane::start_etcd(layout, &binaries.kubernetes)?;
        let mut containerd = control_plane::start_containerd(layout, &runtime)?;
        let mut api = control_plane::start_api_server(layout, &binaries.kubernetes)?;
        self.wait_for("kube-apiserver", &mut [&mut etcd, &mut api], || self.answers())?;
        reached("API server answers");
        let mut rest = control_plane::start_rest(layout, &binaries.kubernetes)?;
        self.wait_for("containerd", &mut [&mut containerd], || containerd::is_ready(layout))?;
        containerd::load_own_images(layout, binaries)?;
        reached("images are there");
        let mut all: Vec<&mut Daemon> =
            rest.iter_mut().chain([&mut etcd, &mut containerd, &mut api]).collect();
        let account = ["-n", "default", "get", "serviceaccount", "default"];
        self.wait_for("kube-controller-manager", &mut all, || {
            run::output(self.kubectl().args(account)).is_ok()
        })?;
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        let node = ["get", "node", NODE_NAME, "-o", ready];
        self.wait_for("kubelet", &mut all, || {
            run::output(self.kubectl().args(node)).is_ok_and(|answer| answer == "True")
        })?;
        reached("node is ready");
        Ok(())
    }

    /// What a healthy cluster gets at every `up`: images, manifests, the laptop.
    fn furnish(&self, binaries: &Binaries, reached: &mut dyn FnMut(&str)) -> Result<(), Error> {
        containerd::load_own_images(&self.layout, binaries)?;
        // The file's name holds a hash of the sources.
        let sample = binaries.sample.file_name().unwrap_or_default().to_string_lossy();
        let kubectl = || self.kubectl();
        manifests::apply(&kubectl, &sample, true)?;
        if !netns::exists(LAPTOP_NETNS) {
            node_network::create_laptop()?;
        }
        Laptop::furnish(&self.layout)?;
        manifests::wait(&kubectl, true)?;
        reached("the sample application serves");
        Ok(())
    }

    /// Asks until the answer is yes, as long as the daemons live.
    fn wait_for(
        &self,
        what: &str,
        daemons: &mut [&mut Daemon],
        mut ready: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        let started = Instant::now();
        while !ready() {
            for daemon in &mut *daemons {
                daemon.check()?;
            }
            if started.elapsed() > PATIENCE {
                let log = self.layout.log(what);
                let tail = run::tail(&log, 15);
                return Err(Error::NotReady {
                    what: what.to_owned(),
                    seconds: PATIENCE.as_secs(),
                    log,
                    tail,
                });
            }
            // Readiness can only be asked for: the components announce it to nobody.
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// What a running cluster was made of: its binaries, and the code that configures it.
fn stamp(binaries: &Binaries) -> String {
    const CODE: [&str; 4] = [
        include_str!("containerd.rs"),
        include_str!("control_plane.rs"),
        include_str!("layout.rs"),
        include_str!("node_network.rs"),
    ];
    let mut hash = Sha256::new();
    for code in CODE {
        hash.update(code);
    }
    format!(
        "{}\n{}\n{}\n",
        binaries.kubernetes.display(),
        binaries.coredns.display(),
        image::hex(&hash.finalize())
    )
}

fn private(folder: &std::path::Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
        .map_err(Error::file("set the mode of", folder))
}

/// containerd's shims keep their sockets outside its state folder, under names that only the bundles know.
fn remove_shim_sockets(layout: &Layout) {
    let bundles = layout.run("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    for bundle in fs::read_dir(bundles).into_iter().flatten().flatten() {
        let address = fs::read_to_string(bundle.path().join("address")).unwrap_or_default();
        if let Some(path) = address.trim().strip_prefix("unix://") {
            let _ = fs::remove_file(path);
        }
    }
}
