//! The pod's volumes at their own paths, for the programs of a run alone: what a script reads in the container it reads on
//! the laptop.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use tp_tests::case::{Folder, LIMIT, PYTHON, Ran, Running, ran};
use tp_tests::{Case, Sandbox, run};

/// A pod with every kind of volume, whose container has a shell.
const POD: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data: {greeting: hello, part.conf: a part}
---
apiVersion: v1
kind: Secret
metadata: {name: tls}
stringData: {key: a secret}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], storageClassName: "", volumeName: NAMESPACE, resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: NAMESPACE}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Mi}
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: /tmp/NAMESPACE/claim, type: DirectoryOrCreate}
---
apiVersion: v1
kind: Pod
metadata: {name: all, labels: {app: all}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: busybox:stable
    command:
    - sh
    - -c
    - >-
      mkdir -p "/data/with space/ü:x/below" /data/parts/a && chmod 777 /host /claim /data/parts/a &&
      echo below > "/data/with space/ü:x/below/file" && echo of a > /data/parts/a/file &&
      echo on the node > /host/file && echo claimed > /claim/file && touch /tmp/ready && exec sleep 100000
    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1}
    env: [{name: PART, value: a}]
    volumeMounts:
    - {name: config, mountPath: /etc/web/config}
    - {name: tls, mountPath: /etc/ssl}
    - {name: hidden, mountPath: /etc/hidden}
    - {name: config, mountPath: /srv/one.conf, subPath: part.conf}
    - {name: empty, mountPath: "/data/with space/ü:x"}
    - {name: parts, mountPath: /data/parts}
    - {name: parts, mountPath: /srv/part, subPathExpr: $(PART)}
    - {name: both, mountPath: /var/run/both, readOnly: true}
    - {name: host, mountPath: /host}
    - {name: claim, mountPath: /claim}
    - {name: scratch, mountPath: /tmp}
  volumes:
  - {name: config, configMap: {name: config}}
  - {name: tls, secret: {secretName: tls}}
  - {name: hidden, secret: {secretName: tls, defaultMode: 256}}
  - {name: empty, emptyDir: {}}
  - {name: parts, emptyDir: {}}
  - {name: scratch, emptyDir: {medium: Memory}}
  - name: both
    projected:
      sources:
      - configMap: {name: config, items: [{key: greeting, path: deep/greeting}]}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
  - {name: host, hostPath: {path: /tmp/NAMESPACE/host, type: DirectoryOrCreate}}
  - {name: claim, persistentVolumeClaim: {claimName: claim}}
"#;

/// What a program of the container reads; busybox and the laptop's shell say it alike.
const READ: &str = r#"
cat /etc/web/config/greeting; echo; ls /etc/web/config /etc/ssl; cat /etc/ssl/key; echo; cat /srv/one.conf; echo
cd "/data/with space/ü:x"; cat below/file; pwd; cat /data/parts/a/file; cat /srv/part/file; ls /srv
find /var/run/both/ -name "[a-z]*" -type l; cat /var/run/both/deep/greeting; echo; cat /var/run/both/labels; echo
cat /host/file; cat /claim/file; cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo
readlink /etc/web/config/greeting; wc -c < /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
sh -c 'sh -c "cat /etc/web/config/greeting"'; echo
"#;

/// The pod, in a namespace of its own.
struct All(Sandbox);

impl All {
    fn new(case: &Case) -> Self {
        let sandbox = Sandbox::create(case.target(), "volumes").unwrap();
        let all = Self(sandbox);
        all.0.apply(&POD.replace("NAMESPACE", all.0.namespace())).unwrap();
        run::output(all.0.kubectl().args(["wait", "--for=condition=Ready", "pod/all", "--timeout=60s"]))
            .unwrap();
        all
    }

    fn options<'a>(&'a self, more: &'a [&'a str]) -> Vec<&'a str> {
        ["-n", self.0.namespace(), "--pod", "all"].into_iter().chain(more.iter().copied()).collect()
    }

    fn tp(&self, case: &Case, more: &[&str], script: &str) -> Ran {
        case.tp(self.options(more), ["sh", "-c", script])
    }

    /// What a script says in the container.
    fn inside(&self, script: &str) -> String {
        let arguments = ["exec", "all", "-c", "app", "--", "sh", "-c", script];
        run::output(self.0.kubectl().args(arguments)).unwrap().trim_end().to_owned()
    }
}

impl Drop for All {
    fn drop(&mut self) {
        // It is in no namespace.
        let name = self.0.namespace();
        let _ = run::output(self.0.kubectl().args(["delete", "pv", name, "--wait=false"]));
        let _ = fs::remove_dir_all(format!("/tmp/{name}"));
    }
}

/// Steps: a script reads each volume in the container, and under tp; a static program reads one, too; nothing can be written,
/// and a folder of the laptop's is what it was beside them. Then two volumes are written to, and the container has it; a
/// ConfigMap changes while a program looks.
#[test]
fn a_program_reads_and_writes_what_the_container_does() {
    let case = Case::cold();
    let all = All::new(&case);
    all.tp(&case, &[], READ).prints(&all.inside(READ));
    let fixed = "busybox cat /etc/web/config/greeting; cd /run && ls | wc -l; cat /etc/hostname > /dev/null && echo x;
        touch /etc/web/config/new /claim/new; id -u; touch $HOME/.written && rm $HOME/.written && echo written;
        echo > /tmp/.tp-test-$$ && rm /tmp/.tp-test-$$ && echo scratch; ls $TP_ROOT/tmp; echo $TELEPRESENCE_MOUNTS";
    let here = all.tp(&case, &[], fixed);
    here.says(&["hello", "47001", "written", "scratch", "ready", "/etc/web/config:/etc/ssl:"]);
    here.complains(&["/etc/web/config/new", "/claim/new", "Read-only file system"]);
    let write =
        "echo from the laptop > /claim/new && mv /claim/new /claim/moved && ln -s moved /claim/link &&
        echo x > /srv/part/new && ! touch /host/new && cat /claim/link";
    let wrote = all.tp(&case, &["--mount-rw=/claim", "--mount-rw=/srv/part"], write);
    wrote.prints("from the laptop").complains(&["/host/new"]);
    assert_eq!(all.inside("cat /claim/link /data/parts/a/new; ls /host"), "from the laptop\nx\nfile");
    changes(&case, &all);
}

/// A ConfigMap changes while a program looks. The kubelet looks at a pod anew that has changed itself.
fn changes(case: &Case, all: &All) {
    let script = "cat /etc/web/config/greeting; echo; until grep -q changed /etc/web/config/greeting; do sleep 0.2; done;
        cat /etc/web/config/greeting";
    let running = Running::start(case.command(all.options(&[]), ["sh", "-c", script]).stdin(Stdio::null()));
    let patch = r#"{"data": {"greeting": "changed"}}"#;
    run::output(all.0.kubectl().args(["patch", "configmap", "config", "--patch", patch])).unwrap();
    run::output(all.0.kubectl().args(["annotate", "pod", "all", "look=again"])).unwrap();
    let ran = running.ends_within(Duration::from_secs(120));
    assert!(ran.succeeds().ends_with("changed"), "{ran}");
}

/// Steps: kubectl (static Go, client-go's configuration of a pod), and Python with the account's files, ask the API server as
/// the pod's account.
#[test]
fn clients_of_the_cluster_are_the_pods_account() {
    let case = Case::cold();
    let all = All::new(&case);
    let account = format!("system:serviceaccount:{}:default", all.0.namespace());
    let script = format!(
        "unset KUBECONFIG; HOME=/nonexistent kubectl auth whoami -o jsonpath='{{.status.userInfo.username}}'; echo
        {PYTHON} -c '
import os, requests
at = \"/var/run/secrets/kubernetes.io/serviceaccount/\"
review = {{\"apiVersion\": \"authentication.k8s.io/v1\", \"kind\": \"SelfSubjectReview\"}}
answer = requests.post(\"https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews\", json=review,
    headers={{\"Authorization\": \"Bearer \" + open(at + \"token\").read()}}, verify=at + \"ca.crt\")
print(answer.json()[\"status\"][\"userInfo\"][\"username\"])'"
    );
    all.tp(&case, &[], &script).prints(&format!("{account}\n{account}"));
}

/// Steps: a secret that only root may read: the program is told as of any file, and the user why, once. Wrong words are told
/// with the right ones. Without volumes there are none.
#[test]
fn what_cannot_be_had_is_told() {
    let case = Case::cold();
    let all = All::new(&case);
    let unknown = all.tp(&case, &["--mount", "/etc/wbe"], "true");
    unknown
        .exits(125)
        .complains(&["no volume mounted at `/etc/wbe`", "/etc/web/config (configMap \"config\")"]);
    let read_only = all.tp(&case, &["--mount-rw=/var/run/both"], "true");
    read_only.exits(125).complains(&["has `/var/run/both` read-only"]);
    all.tp(&case, &["--mount", "false", "--mount", "/claim"], "true")
        .exits(125)
        .complains(&["--mount false"]);
    let one = all.tp(
        &case,
        &["--mount", "/claim"],
        "cat /claim/file; ls -d /etc/web /host /etc/hidden; echo $TELEPRESENCE_MOUNTS",
    );
    one.prints("claimed\n/claim").complains(&["/etc/web", "/host", "/etc/hidden"]);
    let hidden = all.tp(&case, &[], "cat /etc/hidden/key; cat /etc/hidden/key; cat /etc/ssl/key");
    hidden.prints("a secret").complains(&[
        "cat: /etc/hidden/key: Permission denied",
        "secret \"tls\"",
        "as user 65532",
    ]);
    assert_eq!(hidden.stderr.matches("tp: /etc/hidden").count(), 1, "{hidden}");
    let none = all.tp(&case, &["--mount", "false"], "ls -d /claim; echo \"[$TP_ROOT]\"");
    none.prints("[]").complains(&["/claim"]);
}

/// Steps: where neither user namespaces nor mount namespaces can be had, fusermount3 mounts them where `TP_ROOT` says, and
/// nothing is mounted afterwards. Without /dev/fuse, too, the program runs without them, and not if they were asked for.
#[test]
fn without_namespaces_they_are_below_a_folder() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("a user without privileges") else { return };
    let all = All::new(&case);
    let limited = |prepare: &str, more: &[&str], script: &str| {
        let limit = format!(
            "for kind in user mnt; do echo 0 > /proc/sys/user/max_${{kind}}_namespaces; done; {prepare}
            \"$@\"; code=$?; grep fuse.tp /proc/self/mounts; exit $code"
        );
        let command = case.command(all.options(more), ["sh", "-c", script]);
        let mut unshare = laptop.command("unshare").unwrap();
        unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", &limit, "sh"]);
        ran(unshare.arg(command.get_program()).args(command.get_args()))
    };
    let script =
        "cat $TP_ROOT/etc/web/config/greeting; echo; cat $TELEPRESENCE_ROOT/srv/one.conf; ls /etc/web";
    let below = limited("", &[], script);
    assert!(below.stdout.starts_with("hello\na part") && !below.stdout.contains("fuse.tp"), "{below}");
    below.complains(&["/etc/web", "below TP_ROOT", "not at their own paths"]);
    let hidden = "mount --bind /dev/null /dev/fuse;";
    limited(hidden, &[], "echo \"[$TP_ROOT]\"")
        .prints("[]")
        .complains(&["volumes cannot be shown", "fusermount3"]);
    limited(hidden, &["--mount", "true"], "echo started").exits(125).complains(&["volumes cannot be shown"]);
}

/// Steps: a volume whose folder can be made by the user himself, and a program that looks while tp is killed: it is told at
/// once. When it has ended no mount is left; the next run leaves no folder of the first.
#[test]
fn a_launcher_that_is_killed_leaves_no_mount_and_no_folder() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let path = folder.file("made/below");
    let sandbox = Sandbox::create(case.target(), "killed").unwrap();
    let pod = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "all"}}, "spec": {{"terminationGracePeriodSeconds": 0,
        "containers": [{{"name": "app", "image": "busybox:stable", "command": ["sleep", "100000"],
        "volumeMounts": [{{"name": "v", "mountPath": "{path}"}}]}}], "volumes": [{{"name": "v", "emptyDir": {{}}}}]}}}}"#
    );
    sandbox.apply(&pod).unwrap();
    run::output(sandbox.kubectl().args(["wait", "--for=condition=Ready", "pod/all", "--timeout=60s"]))
        .unwrap();
    let options = ["-n", sandbox.namespace(), "--pod", "all"];
    let script = format!(
        "ls {path} && echo there; read line; ls {path}; ls /var/run/secrets/kubernetes.io/serviceaccount"
    );
    let mut command = case.command(options, ["sh", "-c", &script]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let input = running.child.stdin.take().unwrap();
    let deadline = Instant::now() + LIMIT;
    while !folder.path().join("made/below").exists() {
        assert!(Instant::now() < deadline, "the folder was not made");
        sleep(Duration::from_millis(20));
    }
    let run_folder = running.folder();
    sleep(Duration::from_millis(300));
    kill(running.pid(), Signal::SIGKILL).unwrap();
    drop(input);
    let ended = running.ends_within(LIMIT);
    assert!(ended.stderr.contains(&path), "{ended}");
    let name = run_folder.display().to_string();
    let mounted = || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|process| fs::read_to_string(process.path().join("mountinfo")).ok())
            .any(|mounts| mounts.contains(&name))
    };
    while mounted() || folder.path().join("made").exists() {
        assert!(Instant::now() < deadline, "mounted: {}, {ended}", mounted());
        sleep(Duration::from_millis(50));
    }
    ran(&mut case.command(options, ["true"])).succeeds();
    assert!(!run_folder.exists());
    assert!(!folder.path().join("made").exists());
}

/// Steps: a link that is lost, with no other pod to go to: a file that was open and one that was not give EIO, soon.
#[test]
fn a_lost_pod_is_an_error_and_no_wait_for_ever() {
    let case = Case::cold();
    let all = All::new(&case);
    // The container may go on for a moment after the pod is no more.
    let script = "echo ready; read line; while cat /claim/file; do sleep 0.2; done; echo lost";
    let mut command = case.command(all.options(&[]), ["sh", "-c", script]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let input = running.child.stdin.take().unwrap();
    let mut first = [0; 5];
    std::io::Read::read_exact(running.child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let delete = ["delete", "pod", "all", "--grace-period=0", "--force", "--wait=true"];
    run::output(all.0.kubectl().args(delete)).unwrap();
    drop(input);
    let ended = running.ends_within(LIMIT);
    ended.says(&["lost"]).complains(&["/claim/file: Input/output error"]);
}

/// Steps: a run in a run has the volumes of its own pod at the same paths.
#[test]
fn a_run_in_a_run_has_its_own_volumes() {
    let case = Case::cold();
    let all = All::new(&case);
    let tp: Command = case.target().tp().unwrap();
    let program = tp.get_program().to_string_lossy().into_owned();
    let script = format!(
        "cat /srv/part/file; {program} run -n {} --pod all -- sh -c 'cat /srv/part/file; busybox cat /srv/one.conf'; echo; cat /claim/file",
        all.0.namespace()
    );
    all.tp(&case, &[], &script).prints("of a\nof a\na part\nclaimed");
}
