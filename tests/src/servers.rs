//! Real servers in a pod, of Debian's packages: Redis, PostgreSQL, OpenSSH, and git behind busybox's HTTP server.
//!
//! One image has all four, each program with the shared libraries that this machine's loader finds for it. What one
//! client and one server of the same project say to each other no sample application says.

#![allow(clippy::indexing_slicing, reason = "what JSON has not is null")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::image::Image;
use crate::{Error, PodNetwork, Sandbox, Target, containerd, packages, run};

/// Gets a new number when the image's contents change: a cluster keeps the one that it has.
const IMAGE: &str = "localhost/tp-servers:1";
/// The servers that the cases' clients do not bring along, with the libraries that a machine may lack.
const PACKAGES: &[&str] = &[
    "postgresql-15",
    "openssh-server",
    "libicu72",
    "libldap-2.5-0",
    "libnsl2",
    "libpq5",
    "libsasl2-2",
    "libtirpc3",
    "libwrap0",
    "libxml2",
];
/// The database's user and password.
pub const DATABASE: (&str, &str) = ("tester", "a password");

const REDIS: &str = "exec redis-server --port 6379 --bind '*' -::* --protected-mode no --save ''";
const POSTGRES: &str = r#"echo "$PASSWORD" >/tmp/password
initdb -D /tmp/data -U "$USER" -A scram-sha-256 --pwfile=/tmp/password --no-locale -E UTF8 --no-sync
echo 'host all all all scram-sha-256' >>/tmp/data/pg_hba.conf
exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off"#;
const GIT: &str = r#"git init -q -b main /tmp/work && cd /tmp/work && echo 'hello from git' >README && git add README
git -c user.name=x -c user.email=x@x commit -q -m first
git clone -q --bare . /srv/git/repository.git
git -C /srv/git/repository.git config http.receivepack true
busybox httpd -p 8080 -h /srv
mkdir -p /run/sshd && ssh-keygen -q -t ed25519 -N '' -f /etc/ssh_host_key
echo "$AUTHORIZED" >/etc/authorized
exec /usr/sbin/sshd -D -e -f /dev/null -o UsePAM=no -o HostKey=/etc/ssh_host_key -o StrictModes=no \
    -o AuthorizedKeysFile=/etc/authorized -o PasswordAuthentication=no"#;
const CGI: &str = "#!/bin/sh\nexport GIT_PROJECT_ROOT=/srv/git GIT_HTTP_EXPORT_ALL=1 REMOTE_USER=tester\n\
    git config --global --replace-all safe.directory '*'\nexec git http-backend\n";

/// Starts all of them in the sandbox, as the service `servers`, and waits until they serve; `authorized` is the public
/// key that may log in by SSH, as root.
///
/// # Errors
/// If a server does not become ready, or against a cluster that takes no images of ours.
pub fn start(target: &Target, sandbox: &Sandbox, authorized: &str) -> Result<(), Error> {
    let Target::Laptop(cluster, laptop) = target else {
        return target.laptop("an image of real servers").map(drop);
    };
    let tree = packages::debian(PACKAGES)?;
    containerd::import(
        cluster.layout(),
        &IMAGE.replace(['/', ':'], "-"),
        &tree.join("usr/sbin/sshd"),
        || image(&tree),
    )?;
    sandbox.apply(&manifest(authorized).to_string())?;
    let rollout = ["rollout", "status", "--timeout=60s", "deployment/servers"];
    run::output(sandbox.kubectl().args(rollout))?;
    PodNetwork::find(cluster, laptop, "default", "app=web")?
        .reaches(&format!("servers.{}", sandbox.namespace()), 6379)
}

fn image(tree: &Path) -> Result<Image, Error> {
    let mut image = Image::new(IMAGE)?;
    let postgres = tree.join("usr/lib/postgresql/15");
    let programs = [
        ("bin/busybox", PathBuf::from("/bin/busybox")),
        ("usr/bin/redis-server", PathBuf::from("/usr/bin/redis-check-rdb")),
        ("usr/bin/git", PathBuf::from("/usr/bin/git")),
        ("usr/lib/git-core/git-http-backend", PathBuf::from("/usr/lib/git-core/git-http-backend")),
        ("usr/bin/ssh-keygen", PathBuf::from("/usr/bin/ssh-keygen")),
        ("usr/sbin/sshd", tree.join("usr/sbin/sshd")),
        ("usr/lib/postgresql/15/bin/postgres", postgres.join("bin/postgres")),
        ("usr/lib/postgresql/15/bin/initdb", postgres.join("bin/initdb")),
        ("usr/lib/postgresql/15/lib/plpgsql.so", postgres.join("lib/plpgsql.so")),
        ("usr/lib/postgresql/15/lib/dict_snowball.so", postgres.join("lib/dict_snowball.so")),
    ];
    for (path, source) in &programs {
        image.program(path, source)?;
    }
    for (path, source) in libraries(tree, programs.iter().map(|(_, source)| source.as_path()))? {
        image.program(path.trim_start_matches('/'), &source)?;
    }
    image.folder("usr/share/postgresql/15", &tree.join("usr/share/postgresql/15"))?;
    image.file("srv/cgi-bin/git", 0o755, CGI.as_bytes())?;
    for applet in ["sh", "cat", "mkdir"] {
        image.link(&format!("bin/{applet}"), "busybox")?;
    }
    for (link, target) in [
        ("usr/bin/git-upload-pack", "git"),
        ("usr/bin/git-receive-pack", "git"),
        ("usr/bin/initdb", "../lib/postgresql/15/bin/initdb"),
        ("usr/bin/postgres", "../lib/postgresql/15/bin/postgres"),
    ] {
        image.link(link, target)?;
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nsshd:x:74:74:sshd:/run/sshd:/bin/false\n\
                 postgres:x:26:26:postgres:/tmp:/bin/sh\n";
    image.file("etc/passwd", 0o644, users.as_bytes())?;
    Ok(image)
}

/// The shared libraries of programs: where their loader looks for each, and where it is on this machine.
fn libraries<'a>(
    tree: &Path,
    programs: impl Iterator<Item = &'a Path>,
) -> Result<BTreeMap<String, PathBuf>, Error> {
    let folder = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let mut libraries = BTreeMap::new();
    for program in programs {
        let mut ldd = Command::new("ldd");
        let listed = run::attempt(ldd.arg(program).env("LD_LIBRARY_PATH", tree.join(&folder)))?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for line in listed.lines() {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [_, "=>", "not", "found"] => {
                    return Err(Error::Answer { what: "ldd, asked for libraries,", answer: listed });
                }
                [name, "=>", path, ..] => libraries.insert(format!("/{folder}/{name}"), PathBuf::from(path)),
                [loader, _] if loader.starts_with('/') => {
                    libraries.insert(loader.to_owned(), PathBuf::from(loader))
                }
                _ => None,
            };
        }
    }
    Ok(libraries)
}

fn manifest(authorized: &str) -> Value {
    let (user, password) = DATABASE;
    let container = |name: &str, port: u16, script: &str, environment: Value| {
        json!({
            "name": name, "image": IMAGE, "command": ["sh", "-c", script], "env": environment,
            "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
        })
    };
    let mut postgres = container(
        "postgres",
        5432,
        POSTGRES,
        json!([{"name": "USER", "value": user}, {"name": "PASSWORD", "value": password}]),
    );
    // PostgreSQL does not start as root.
    postgres["securityContext"] = json!({"runAsUser": 26, "runAsGroup": 26});
    let labels = json!({"app": "servers"});
    let ports = [("redis", 6379, 6379), ("postgres", 5432, 5432), ("ssh", 22, 22), ("http", 80, 8080)]
        .map(|(name, port, target)| json!({"name": name, "port": port, "targetPort": target}));
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "servers"},
            "spec": {"selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                    container("redis", 6379, REDIS, json!([])),
                    postgres,
                    container("git", 22, GIT, json!([
                        {"name": "AUTHORIZED", "value": authorized}, {"name": "HOME", "value": "/root"},
                    ])),
                ]},
            }},
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "servers"},
            "spec": {"selector": labels, "ports": ports},
        },
    ]})
}
