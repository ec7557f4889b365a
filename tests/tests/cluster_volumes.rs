//! The pod's volumes at their own paths, for the programs of a run alone: what a script reads in the container it reads on
//! the laptop.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tp_tests::case::{PYTHON, Ran, Running, ran};
use tp_tests::{Case, Sandbox, run};

#[path = "cluster_volumes/ends.rs"]
mod ends;
#[path = "cluster_volumes/programs.rs"]
mod programs;

/// A pod with every kind of volume, whose container has a shell.
const POD: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data: {greeting: hello, part.conf: a part}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: changing}
data: {greeting: as it was}
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
    - {name: changing, mountPath: /etc/web/changing}
    - {name: tls, mountPath: /etc/ssl}
    - {name: hidden, mountPath: /etc/hidden}
    - {name: closed, mountPath: /etc/closed}
    - {name: config, mountPath: /srv/one.conf, subPath: part.conf}
    - {name: empty, mountPath: "/data/with space/ü:x"}
    - {name: parts, mountPath: /data/parts}
    - {name: parts, mountPath: /srv/part, subPathExpr: $(PART)}
    - {name: both, mountPath: /var/run/both, readOnly: true}
    - {name: host, mountPath: /host}
    - {name: claim, mountPath: /claim}
    - {name: scratch, mountPath: /tmp}
    - {name: own, mountPath: /own}
  volumes:
  - {name: config, configMap: {name: config}}
  - {name: changing, configMap: {name: changing}}
  - {name: closed, configMap: {name: config, defaultMode: 256}}
  - {name: own, emptyDir: {}}
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
    /// One for all cases that leave it as it is: the last of those that run side by side takes it away.
    fn shared(case: &Case) -> Arc<Self> {
        static SHARED: Mutex<Weak<All>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let all = Arc::new(Self::new(case));
            // Cases that start at once would make an agent each.
            all.tp(case, &[], "true").succeeds();
            *shared = Arc::downgrade(&all);
            all
        })
    }

    fn new(case: &Case) -> Self {
        let all = Self(Sandbox::create(case.target(), "volumes").unwrap());
        all.0.apply(&POD.replace("NAMESPACE", all.0.namespace())).unwrap();
        all.is_ready();
        all
    }

    fn is_ready(&self) {
        let ready = ["wait", "--for=condition=Ready", "pod/all", "--timeout=60s"];
        run::output(self.0.kubectl().args(ready)).unwrap();
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
/// run in the run has them, too; clients of the cluster find theirs. Meanwhile a ConfigMap changes while a program looks.
#[test]
fn a_program_reads_and_writes_what_the_container_does() {
    let case = Case::cold();
    let all = All::shared(&case);
    let looking = looks_at_what_changes(&case, &all);
    all.tp(&case, &[], READ).prints(&all.inside(READ));
    let fixed = "busybox cat /etc/web/config/greeting; cd /run && ls | wc -l; cat /etc/hostname > /dev/null && echo x;
        touch /etc/web/config/new /claim/new; id -u; touch $HOME/.written && rm $HOME/.written && echo written;
        echo > /tmp/.tp-test-$$ && rm /tmp/.tp-test-$$ && echo scratch; ls $TP_ROOT/tmp; echo $TELEPRESENCE_MOUNTS";
    let here = all.tp(&case, &[], fixed);
    here.says(&[
        "hello",
        "47001",
        "written",
        "scratch",
        "ready",
        "/etc/web/config:/etc/web/changing:/etc/ssl:",
    ]);
    here.complains(&["/etc/web/config/new", "/claim/new", "Read-only file system"]);
    let tp: Command = case.target().tp().unwrap();
    let inner = format!("{} run -n {} --pod all --", tp.get_program().to_string_lossy(), all.0.namespace());
    let write = format!(
        "echo from the laptop > /claim/new && mv /claim/new /claim/moved && ln -s moved /claim/link &&
        echo x > /srv/part/new && ! touch /host/new && cat /claim/link
        {inner} sh -c 'cat /srv/part/file /srv/one.conf'"
    );
    let wrote = all.tp(&case, &["--mount-rw=/claim", "--mount-rw=/srv/part"], &write);
    wrote.prints("from the laptop\nof a\na part").complains(&["/host/new"]);
    assert_eq!(all.inside("cat /claim/link /data/parts/a/new; ls /host"), "from the laptop\nx\nfile");
    are_the_pods_account(&case, &all);
    looking.ends_within(Duration::from_secs(120)).prints("changed");
}

/// A ConfigMap changes while a program looks. The kubelet looks at a pod anew that has changed itself.
fn looks_at_what_changes(case: &Case, all: &All) -> Running {
    let script = "cat /etc/web/changing/greeting; until grep -q changed /etc/web/changing/greeting; do sleep 0.2; done;
        cat /etc/web/changing/greeting";
    let mut command = case.command(all.options(&[]), ["sh", "-c", script]);
    let mut running = Running::start(command.stdin(Stdio::null()));
    let mut first = [0; 9];
    std::io::Read::read_exact(running.child.stdout.as_mut().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"as it was");
    let patch = r#"{"data": {"greeting": "changed"}}"#;
    run::output(all.0.kubectl().args(["patch", "configmap", "changing", "--patch", patch])).unwrap();
    run::output(all.0.kubectl().args(["annotate", "pod", "all", "look=again"])).unwrap();
    running
}

/// kubectl (static Go, client-go's configuration of a pod), and Python with the account's files, ask the API server as the
/// pod's account.
fn are_the_pods_account(case: &Case, all: &All) {
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
    all.tp(case, &[], &script).prints(&format!("{account}\n{account}"));
}

/// Steps: a Secret and a ConfigMap that only root may read: the program is told as of any file, and the user why, once. Wrong
/// words are told with the right ones. Without volumes there are none.
#[test]
fn what_cannot_be_had_is_told() {
    let case = Case::cold();
    let all = All::shared(&case);
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
    let hidden =
        all.tp(&case, &[], "cat /etc/hidden/key /etc/closed/greeting; cat /etc/hidden/key; cat /etc/ssl/key");
    hidden.prints("a secret").complains(&[
        "cat: /etc/hidden/key: Permission denied",
        "cat: /etc/closed/greeting: Permission denied",
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
    let all = All::shared(&case);
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
