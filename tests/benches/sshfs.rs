//! The files of a pod's volume as a command has them under `tp run`, beside the same files by sshfs, by turns in one run.
//!
//! sshfs has it easier than people's would: its server is in the pod's network already, and speaks SFTP without ssh,
//! by `kubectl port-forward` (sshfs's `directport`). Each round has a mount of its own, so nothing is kept from before.

use std::process::ExitCode;

use tp_tests::case::{self, PYTHON, python};
use tp_tests::field::Forward;
use tp_tests::figures::{goal, said};
use tp_tests::run::Background;
use tp_tests::{Error, Figures, PodNetwork, Sandbox, Target, run};

const ROUNDS: usize = 5;
const TP: &str = "tp";
const SSHFS: &str = "sshfs";
const READ: &str = "100 MiB";
const FIND: &str = "5,000 files";

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: files, labels: {app: files}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: busybox:stable
    command:
    - sh
    - -c
    - >-
      cd /data && head -c 104857600 /dev/urandom > big &&
      for folder in $(seq 50); do mkdir -p tree/$folder; (cd tree/$folder && seq 100 | xargs touch); done &&
      touch /tmp/ready && exec sleep 100000
    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
"#;

/// An SFTP server for each connection to a port of its choice, which it says; `inetd` for one program.
const SERVER: &str = "
import socket, subprocess
listener = socket.create_server(('0.0.0.0', 0))
print(listener.getsockname()[1], flush=True)
while True:
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    subprocess.Popen(['/usr/lib/openssh/sftp-server'], stdin=client, stdout=client)
    client.close()
";

/// `$1` is the port, `$2` the folder there, `$3` the one here; the others are the program, which gets the latter.
const MOUNTED: &str = "
mkdir -p \"$3\"
sshfs -o directport=$1 127.0.0.1:\"$2\" \"$3\" || exit 1
here=$3; shift 3
\"$@\" \"$here\"; code=$?
fusermount3 -u \"$here\"; exit $code";

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sshfs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool, Error> {
    let target = Target::attach()?;
    let Target::Laptop(cluster, laptop) = &target else {
        target.laptop("sshfs")?;
        return Ok(false);
    };
    let sandbox = Sandbox::create(&target, "bench-sshfs")?;
    sandbox.apply(POD)?;
    run::output(sandbox.kubectl().args(["wait", "--for=condition=Ready", "pod/files", "--timeout=120s"]))?;
    let pod = PodNetwork::find(cluster, laptop, sandbox.namespace(), "app=files")?;
    let options = ["-n", sandbox.namespace(), "--pod", "files"];
    run::output(&mut target.tp_run(options, ["true"])?)?;

    let mut server = Background::start(pod.as_root(PYTHON).args(["-c", SERVER]))?;
    let port = server.line()?;
    let forward = Forward::start(laptop, &sandbox, "pod/files", &port)?;
    let there = pod.root().join("data").display().to_string();
    let folder = case::Folder::new(laptop);
    let here = folder.file("files");

    let mut figures = Figures::new("files of a pod's volume", "ms");
    for _ in 0..ROUNDS {
        let by_tp = said(&mut target.tp_run(options, python("file_times", &["/data"]))?)?;
        let mut shell = laptop.command("sh")?;
        shell.args(["-c", MOUNTED, "sh", forward.port(), &there, &here]).args(python("file_times", &[]));
        let by_sshfs = said(&mut shell)?;
        for (way, said) in [(TP, by_tp), (SSHFS, by_sshfs)] {
            for (what, name) in [(READ, "read"), (FIND, "find")] {
                figures.add(&format!("{way}, {what}"), said.get(name).copied().unwrap_or(f64::NAN));
            }
        }
    }
    figures.tell()?;
    let ahead = [READ, FIND].map(|what| {
        let [tp, sshfs] = [TP, SSHFS].map(|way| figures.median(&format!("{way}, {what}")));
        goal(&format!("{what} of a volume, over sshfs"), tp / sshfs, "", 1.0)
    });
    Ok(ahead == [true, true])
}
