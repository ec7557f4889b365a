//! Real programs on a volume as on a disk of the laptop's, in sizes that people have; and for users with few permissions.

use std::path::Path;

use tp_tests::case::{LIMIT, python, ran, ran_within};
use tp_tests::{Case, Sandbox, run};

use super::All;

/// Steps: databases, archives, repositories and copies are made on a volume and looked through; the container has the same.
/// All volumes are writable then that the pod has writable.
#[test]
fn programs_work_on_a_volume_as_on_a_disk() {
    let case = Case::cold();
    let all = All::shared(&case);
    let script = format!(
        "set -e; export HOME=/nonexistent LC_ALL=C; mkdir /own/x; cd /own/x
        {}
        mkdir files; (cd files; seq 40 | xargs touch; echo of one > 1; ln 1 hard; ln -s 1 soft; mkdir below; echo x > below/y)
        tar -cf files.tar files; tar -df files.tar; mkdir again; tar -xf files.tar -C again; diff -r files again/files
        rsync -a --checksum files/ copied; rsync -a --checksum --itemize-changes files/ copied; diff -r files copied
        git init -q repository; cd repository; git config user.name x; git config user.email x@x
        cp -r ../files .; git add .; git commit -q -m first; git mv files moved; git commit -q -m second; git gc -q
        git status --porcelain; git fsck --strict; git log --format=%s; cd ..
        rm -r again copied; ls; cat copied 2>&1 || true
        touch /etc/web/config/x /var/run/both/x 2>&1 || true; touch /host/all && echo all",
        shell(&python("files", &["/own/x"]))
    );
    let mut command = case.command(all.options(&["--mount-rw"]), ["sh", "-c", &script]);
    // Some thousand small steps, each of which asks the pod.
    let ran = ran_within(&mut command, 3 * LIMIT);
    let told = ran.succeeds();
    let expected = "a database a map attributes names
second
first
base.sqlite
files
files.tar
map
names
repository
cat: copied: No such file or directory
touch: cannot touch '/etc/web/config/x': Read-only file system
touch: cannot touch '/var/run/both/x': Read-only file system
all";
    assert_eq!(told, expected, "{ran}");
    let inside = all
        .inside("cd /own/x; cat map; echo; ls files | wc -l; cat files/hard; readlink files/soft; ls names");
    assert_eq!(inside, "written through a map\n43\nof one\n1\ndeep");
}

/// Steps: the container makes a folder of 10,000 files, a tree of 5,000 and a file of 100 MiB; the program finds the same names
/// and bytes.
#[test]
fn large_folders_and_files_are_whole() {
    let case = Case::cold();
    let all = All::shared(&case);
    let fill = "cd /own && mkdir many tree && (cd many && seq 10000 | sed s/^/file-/ | xargs touch) &&
        for folder in $(seq 50); do mkdir tree/$folder; (cd tree/$folder && seq 100 | xargs touch); done &&
        head -c 104857600 /dev/urandom > big";
    all.inside(fill);
    let look =
        "export LC_ALL=C; cd /own; ls many | wc -l; ls many | sort | sha256sum; find tree -type f | wc -l
        find tree many | sort | sha256sum; sha256sum < big; tail -c 1000 big | sha256sum";
    all.tp(&case, &[], look).prints(&all.inside(look));
}

/// What Pod Security "restricted" admits, with what such a pod can have.
const RESTRICTED: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: tls}
stringData: {key: a secret}
---
apiVersion: v1
kind: Pod
metadata: {name: all}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 2000, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: app
    image: busybox:stable
    command: [sleep, '100000']
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts:
    - {name: config, mountPath: /etc/web/config}
    - {name: config, mountPath: /srv/one.conf, subPath: greeting}
    - {name: tls, mountPath: /etc/tls}
    - {name: scratch, mountPath: /scratch}
  volumes:
  - {name: config, configMap: {name: config}}
  - {name: tls, secret: {secretName: tls, defaultMode: 288}}
  - {name: scratch, emptyDir: {}}
";

/// Steps: a user who has Kubernetes' own role and no more, in a namespace where Pod Security "restricted" is enforced, has the
/// volumes by a pod of tp's own.
#[test]
fn the_edit_role_has_them_where_pod_security_is_restricted() {
    let case = Case::cold();
    if case.laptop("a user with few permissions").is_none() {
        return;
    }
    let sandbox = Sandbox::create(case.target(), "volumes-edit").unwrap();
    let label = ["label", "namespace", sandbox.namespace(), "pod-security.kubernetes.io/enforce=restricted"];
    run::output(sandbox.kubectl().args(label)).unwrap();
    sandbox.apply(RESTRICTED).unwrap();
    run::output(sandbox.kubectl().args(["wait", "--for=condition=Ready", "pod/all", "--timeout=60s"]))
        .unwrap();
    let user: &Path = &sandbox.user_with("editor", "edit").unwrap();
    let script = "cat /etc/web/config/greeting; echo; cat /srv/one.conf; echo; cat /etc/tls/key; echo
        cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo
        echo written > /scratch/new; cat /scratch/new; ls /scratch; touch /etc/tls/x 2>&1 || true";
    let options = ["-n", sandbox.namespace(), "--pod", "all", "--mount-rw=/scratch"];
    let mut command = case.command(options, ["sh", "-c", script]);
    let ran = ran(command.env("KUBECONFIG", user));
    ran.prints(&format!(
        "hello\nhello\na secret\n{}\nwritten\nnew\ntouch: cannot touch '/etc/tls/x': Read-only file system",
        sandbox.namespace()
    ));
    assert_eq!(ran.stderr, "", "nothing is said that was not asked for");
}

/// A command's words as a shell reads them.
fn shell(words: &[String]) -> String {
    let quoted = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}
