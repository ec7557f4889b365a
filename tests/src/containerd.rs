//! containerd of the cluster's own: its configuration, the pods' network plugin, and images.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::gobuild::Binaries;
use crate::image::Image;
use crate::layout::{PODS_V4, PODS_V6};
use crate::{Error, Layout, run};

/// What busybox is called by in the image that agents run in.
const APPLETS: &str = "sh ash awk base64 basename cat chgrp chmod chown cp cut date dd df dirname du echo env expr false \
    find grep gunzip gzip head hexdump hostname id ifconfig ip kill killall less ln ls md5sum mkdir mkfifo mktemp more \
    mount mv nc netstat nproc nslookup od pidof ping ping6 printenv printf ps pwd readlink realpath rm rmdir route sed \
    seq sha1sum sha256sum sleep sort stat strings su sync tail tar tee telnet test time timeout top touch tr traceroute \
    true tty umount uname uniq uptime usleep vi watch wc wget which whoami xargs yes";

/// Writes the configuration of containerd and of the pods' network.
pub fn configure(layout: &Layout) -> Result<(), Error> {
    run::write(&layout.run("containerd.toml"), config(layout))?;
    run::folder(&layout.run("cni"))?;
    run::write(&layout.run("cni/10-pods.conflist"), network(layout))
}

/// `restrict_oom_score_adj`: root in a container lacks CAP_SYS_RESOURCE, and without this no pod starts there.
/// `netns_mounts_under_state_dir`: pods' namespaces are then below our folder and found after a crash.
fn config(layout: &Layout) -> String {
    let (root, state) = (layout.run("containerd/root"), layout.run("containerd/state"));
    let (socket, cni) = (layout.containerd_socket(), layout.run("cni"));
    format!(
        r#"version = 2
root = {root:?}
state = {state:?}
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = {socket:?}
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = "localhost/tp-pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = {cni:?}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// Each pod has a wire of its own to the node and no bridge: every packet, pod to pod too, is routed by the node, so
/// kube-proxy sees both directions of a connection without br_netfilter.
fn network(layout: &Layout) -> String {
    let leases = layout.run("cni-leases");
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [{{"type": "ptp", "ipMasq": false, "mtu": 1500,
  "ipam": {{"type": "host-local", "dataDir": {leases:?},
    "ranges": [[{{"subnet": "{PODS_V4}"}}], [{{"subnet": "{PODS_V6}"}}]],
    "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}]}}}}]}}
"#
    )
}

/// Imports an archive as `docker save` writes it, for pods to use.
pub fn load(layout: &Layout, archive: &Path) -> Result<String, Error> {
    run::output(ctr(layout).args(["images", "import"]).arg(archive))
}

/// `ctr` for the namespace that Kubernetes uses.
fn ctr(layout: &Layout) -> Command {
    let mut command = Command::new("ctr");
    command.arg("-a").arg(layout.containerd_socket()).args(["-n", "k8s.io"]);
    command
}

/// The process that a container started with.
pub fn pid(layout: &Layout, container: &str) -> Result<u32, Error> {
    let answer = run::output(ctr(layout).args(["tasks", "ls"]))?;
    let line = answer.lines().find(|line| line.starts_with(container));
    let pid = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    pid.ok_or(Error::Answer { what: "ctr, asked for a container's process,", answer })
}

/// Does containerd answer?
pub fn is_ready(layout: &Layout) -> bool {
    run::output(ctr(layout).args(["plugins", "ls", "-q"])).is_ok()
}

/// Makes the cluster's images and imports those that are not there yet.
pub fn load_own_images(layout: &Layout, binaries: &Binaries) -> Result<(), Error> {
    let busybox = Path::new("/bin/busybox");
    import(layout, "pause", &binaries.pause, || {
        let mut image = Image::new("localhost/tp-pause:1")?.entrypoint(&["/pause"]);
        image.program("pause", &binaries.pause)?;
        Ok(image)
    })?;
    import(layout, "coredns", &binaries.coredns, || {
        let mut image = Image::new("localhost/coredns:1")?.entrypoint(&["/coredns"]);
        image.program("coredns", &binaries.coredns)?;
        Ok(image)
    })?;
    import(layout, "busybox", busybox, || {
        let mut image = Image::new("docker.io/library/busybox:stable")?.command(&["sh"]);
        image.program("bin/busybox", busybox)?;
        for applet in APPLETS.split_whitespace() {
            image.link(&format!("bin/{applet}"), "busybox")?;
        }
        Ok(image)
    })?;
    import(layout, "sample", &binaries.sample, || {
        let mut image = Image::new("localhost/tp-sample:1")?.entrypoint(&["/sample"]);
        image.program("sample", &binaries.sample)?;
        Ok(image)
    })
}

/// Imports the image that `make` makes of `program`, unless the one there was made of the same program.
pub(crate) fn import(
    layout: &Layout,
    name: &str,
    program: &Path,
    make: impl FnOnce() -> Result<Image, Error>,
) -> Result<(), Error> {
    let folder = layout.run("images");
    run::folder(&folder)?;
    let meta = fs::metadata(program).map_err(Error::file("read", program))?;
    let made_of = format!("{} {} {:?}\n", program.display(), meta.len(), meta.modified().ok());
    let imported = folder.join(format!("{name}.imported"));
    if fs::read_to_string(&imported).is_ok_and(|known| known == made_of) {
        return Ok(());
    }
    let archive = folder.join(format!("{name}.tar"));
    make()?.write(&archive)?;
    load(layout, &archive)?;
    run::write(&imported, made_of)
}
