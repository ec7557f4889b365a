//! The file system of volumes against the folder that it shows: the kernel, the launcher's side, the agent's side, and
//! between them a link that can be cut; each operation is done to the folder itself too, and must come out the same.
//!
//! A mount needs a namespace in which one may mount, so each test runs in a process of its own there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use nix::mount::{MsFlags, mount};
use socks_proxy::volumes;
use tokio::io::{DuplexStream, duplex};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;
use tp::volumes::{Mount, Served};

#[path = "volumes/changes.rs"]
mod changes;
#[path = "volumes/links.rs"]
mod links;
#[path = "volumes/random.rs"]
mod random;
#[path = "volumes/reads.rs"]
mod reads;

/// Set in the process that has mounts of its own.
const INSIDE: &str = "TP_TEST_OWN_MOUNTS";

/// Runs the test of that name in mounts of its own, and tells whether this is that run.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let me = std::env::current_exe().unwrap();
    unshare.args(["--mount", "--propagation", "private", "--"]).arg(me);
    unshare.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let output = unshare.env(INSIDE, "1").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
    false
}

/// A folder, and the file system that shows it.
struct Shown {
    /// The folder, as the pod has it.
    real: PathBuf,
    /// The same by the file system.
    seen: PathBuf,
    link: Link,
    _served: Served,
    _runtime: Runtime,
    _folder: tempfile::TempDir,
}

/// The way to the agent.
#[derive(Clone, Default)]
struct Link(Arc<Mutex<Way>>);

#[derive(Default)]
struct Way {
    is_down: bool,
    agent: Option<AbortHandle>,
}

impl Link {
    fn open(&self) -> std::io::Result<DuplexStream> {
        let mut way = self.0.lock().unwrap();
        if way.is_down {
            return Err(std::io::ErrorKind::NotConnected.into());
        }
        let (laptop, pod) = duplex(1024 * 1024);
        way.agent = Some(tokio::spawn(volumes::serve(pod)).abort_handle());
        Ok(laptop)
    }

    /// The stream of the moment ends; without `again` there is no other.
    fn cut(&self, again: bool) {
        let mut way = self.0.lock().unwrap();
        way.is_down = !again;
        if let Some(agent) = way.agent.take() {
            agent.abort();
        }
    }

    fn mend(&self) {
        self.0.lock().unwrap().is_down = false;
    }
}

impl Shown {
    /// Shows a new folder as `/vol`.
    fn new(writable: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        fs::create_dir(&real).unwrap();
        let mounts = [Mount { path: "/vol".into(), source: real.clone(), writable, is_folder: true }];
        let mut shown = Self::with(folder, &mounts);
        shown.seen.push("vol");
        shown.real = real;
        shown
    }

    fn with(folder: tempfile::TempDir, mounts: &[Mount]) -> Self {
        // As the agent does: what is made has been through the program's own mask.
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        let seen = folder.path().join("seen");
        fs::create_dir(&seen).unwrap();
        let device = fuse(&seen);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let link = Link::default();
        let served = {
            let (_entered, link) = (runtime.enter(), link.clone());
            let open = move || {
                let link = link.clone();
                Box::pin(async move { link.open().map(|stream| Box::new(stream) as tp::pod::Stream) }) as _
            };
            tp::volumes::serve(device, open, mounts, |_| {}).unwrap()
        };
        Self {
            real: folder.path().to_owned(),
            seen,
            link,
            _served: served,
            _runtime: runtime,
            _folder: folder,
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let root = self.seen.ancestors().find(|path| path.ends_with("seen")).unwrap();
        // A test that failed may have files open.
        let _ = nix::mount::umount2(root, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A FUSE device that is mounted.
fn fuse(at: &Path) -> OwnedFd {
    let device = OwnedFd::from(fs::File::options().read(true).write(true).open("/dev/fuse").unwrap());
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    let options = format!("fd={},rootmode=40000,user_id={user},group_id={group}", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tp"), at, Some("fuse"), flags, Some(options.as_str())).unwrap();
    device
}
