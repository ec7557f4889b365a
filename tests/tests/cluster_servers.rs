//! Clients of real servers: Redis, PostgreSQL, git and OpenSSH, each with its own project's server in a pod.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use tp_tests::case::{Folder, Ran, fed, ran};
use tp_tests::servers::{self, DATABASE};
use tp_tests::{Case, Sandbox};

/// A thousand commands are one conversation in which both sides write ahead of each other.
fn redis(case: &Case, host: &str) {
    let cli = ["redis-cli", "-h", host];
    let mut commands: String = (0..1000).map(|number| format!("SET key{number} {number}\r\n")).collect();
    commands.push_str("DBSIZE\r\nGET key999\r\n");
    fed(&mut case.web_command(cli.iter().chain(&["--pipe"])), commands.as_bytes())
        .says(&["errors: 0, replies: 1002"]);
    case.web(cli.iter().chain(&["--raw", "MGET", "key0", "key999"])).prints("0\n999");
    let waiting = "redis-cli -h $0 --raw BLPOP queue 20 &
        until redis-cli -h $0 CLIENT LIST | grep -q cmd=blpop; do :; done
        redis-cli -h $0 LPUSH queue heard >/dev/null; wait";
    case.web(["bash", "-c", waiting, host]).prints("queue\nheard");
}

fn postgres(case: &Case, host: &str) {
    let psql = |words: &[&str]| -> Ran {
        let options = ["psql", "-XAt", "-h", host, "-U", DATABASE.0, "postgres"];
        ran(case.web_command(options.iter().chain(words)).env("PGPASSWORD", DATABASE.1))
    };
    psql(&["-c", "SELECT 6 * 7"]).prints("42");
    psql(&["-c", "SELECT host(inet_server_addr()) <> '', count(*) FROM generate_series(1, 100000)"])
        .prints("t|100000");
    psql(&["-c", "SELECT repeat('x', 5000000)"]).prints(&"x".repeat(5_000_000));
    psql(&["-c", "SELECT nonsense"]).exits(1).complains(&["column \"nonsense\" does not exist"]);
    let wrong = ["psql", "-h", host, "-U", DATABASE.0, "-w", "postgres", "-c", "SELECT 1"];
    ran(case.web_command(wrong).env("PGPASSWORD", "not it")).exits(2).complains(&["authentication failed"]);
}

fn git(case: &Case, host: &str, folder: &Folder, ssh: &str) {
    for (name, url) in [
        ("http", format!("http://{host}/cgi-bin/git/repository.git")),
        ("ssh", format!("ssh://root@{host}/srv/git/repository.git")),
    ] {
        let script = "set -e; git clone -q $1 $0; cd $0; cat README; git checkout -q -b $2; echo $2 >README
            git -c user.name=x -c user.email=x@x commit -q -a -m second; git push -q origin $2 2>&1
            git ls-remote --heads origin $2 | cut -f 2";
        let words = ["sh", "-c", script, &folder.file(name), &url, name];
        ran(case.web_command(words).env("GIT_SSH_COMMAND", ssh))
            .prints(&format!("hello from git\nrefs/heads/{name}"));
    }
    let missing = format!("http://{host}/cgi-bin/git/nothing.git");
    case.web(["git", "clone", "-q", &missing, &folder.file("missing")]).exits(128).complains(&["not found"]);
}

fn ssh(case: &Case, host: &str, options: &str) {
    let login = |command: &str| format!("{options} root@{host} '{command}'");
    case.shell(&login("cat /etc/passwd | while read -r line; do echo $line; done; exit 7")).exits(7);
    let sum = "cksum </bin/busybox";
    let here = case.shell(sum);
    fed(&mut case.web_command(["sh", "-c", &format!("{} </bin/busybox | cksum", login("cat"))]), b"")
        .prints(here.succeeds());
}

#[test]
fn clients_and_their_own_servers_understand_each_other() {
    let case = Case::new();
    let Some(laptop) = case.laptop("an image of real servers") else { return };
    let folder = Folder::new(laptop);
    let key = folder.file("key");
    ran(laptop.command("ssh-keygen").unwrap().args(["-q", "-t", "ed25519", "-N", "", "-f", &key])).succeeds();
    let sandbox = Sandbox::create(case.target(), "servers").unwrap();
    let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
    servers::start(case.target(), &sandbox, public.trim()).unwrap();
    let host = format!("servers.{}", sandbox.namespace());
    redis(&case, &host);
    postgres(&case, &host);
    // The laptop's settings for all users, which are root's, let it trust the server.
    let options = format!("ssh -q -o BatchMode=yes -i {key}");
    ssh(&case, &host, &options);
    git(&case, &host, &folder, &options);
}
