//! How long a user waits: from `tp run` to the first byte of a service, cold and warm, beside what they would do without
//! tp, in one run, the two by turns.
//!
//! - *bare*: the same curl with the pod's network, without tp: the floor.
//! - *warm*: `tp run` with an agent that lingers.
//! - *cold*: `tp run` in a pod that has no agent yet.
//! - *peers*: `kubectl debug` until its container runs, then `kubectl port-forward` to the first byte.
//!
//! Each cold round takes pods that nobody has touched. Times are medians in ms of a whole process, start-up included; a
//! goal is a ratio or a difference within this run. `TP_BENCH_JSON=FILE` keeps the figures.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use tp_tests::{Error, PodNetwork, Sandbox, Target, run};

const ROUNDS: usize = 7;
/// The pods that rounds and the warm-up use up: one for tp and one for kubectl each.
const PODS: usize = 2 * (ROUNDS + 1);

fn main() -> ExitCode {
    // `cargo test --benches` and `cargo bench` pass flags of the libtest harness; none means anything here.
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("first_byte: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Bench {
    target: Target,
    sandbox: Sandbox,
    bare: PodNetwork,
    pods: Vec<String>,
}

/// One row of the table: milliseconds, one a round.
struct Row {
    what: &'static str,
    times: Vec<f64>,
}

fn measure() -> Result<bool, Error> {
    let target = Target::attach()?;
    let Target::Laptop(cluster, laptop) = &target else {
        target.laptop("first-byte times")?;
        return Ok(false);
    };
    let bare = PodNetwork::find(cluster, laptop, "default", "app=web")?;
    let sandbox = Sandbox::create(&target, "bench")?;
    sandbox.apply(&deployment())?;
    run::output(sandbox.kubectl().args(["rollout", "status", "deployment/bench", "--timeout=120s"]))?;
    let names = ["get", "pods", "-l", "app=bench", "-o", "jsonpath={.items[*].metadata.name}"];
    let pods = run::output(sandbox.kubectl().args(names))?;
    let pods: Vec<String> = pods.split_whitespace().map(str::to_owned).collect();
    let bench = Bench { target, sandbox, bare, pods };

    let mut rows = ["bare", "warm", "cold", "kubectl debug to running", "kubectl port-forward to first byte"]
        .map(|what| Row { what, times: Vec::new() });
    for (round, pair) in bench.pods.chunks_exact(2).take(ROUNDS + 1).enumerate() {
        let [ours, theirs] = pair else { continue };
        let times = [
            bench.bare()?,
            bench.warm()?,
            bench.cold(ours)?,
            bench.debug(theirs)?,
            bench.port_forward(theirs)?,
        ];
        // The first round fills caches of both sides.
        if round > 0 {
            for (row, time) in rows.iter_mut().zip(times) {
                row.times.push(time.as_secs_f64() * 1000.0);
            }
        }
    }
    Ok(report(&rows))
}

impl Bench {
    const CURL: [&'static str; 5] = ["-sS", "-o", "/dev/null", "--max-time", "20"];

    fn bare(&self) -> Result<Duration, Error> {
        time(self.bare.command("curl")?.args(Self::CURL).arg("http://backend"))
    }

    fn warm(&self) -> Result<Duration, Error> {
        let curl = ["curl"].into_iter().chain(Self::CURL).chain(["http://backend"]);
        time(&mut self.target.tp_run(["--deployment", "web"], curl)?)
    }

    fn cold(&self, pod: &str) -> Result<Duration, Error> {
        let options = ["-n", self.sandbox.namespace(), "--pod", pod];
        let curl = ["curl"].into_iter().chain(Self::CURL).chain(["http://backend.default"]);
        time(&mut self.target.tp_run(options, curl)?)
    }

    fn debug(&self, pod: &str) -> Result<Duration, Error> {
        let started = Instant::now();
        let debug = ["debug", pod, "--image=busybox:stable", "-c", "peer", "--", "sleep", "600"];
        run::output(self.target.command("kubectl")?.args(["-n", self.sandbox.namespace()]).args(debug))?;
        let running = "--for=jsonpath={.status.ephemeralContainerStatuses[0].state.running}";
        let wait = ["wait", "pod", pod, running, "--timeout=60s"];
        run::output(self.target.command("kubectl")?.args(["-n", self.sandbox.namespace()]).args(wait))?;
        Ok(started.elapsed())
    }

    fn port_forward(&self, pod: &str) -> Result<Duration, Error> {
        let started = Instant::now();
        let mut forward = self.target.command("kubectl")?;
        forward.args(["-n", self.sandbox.namespace(), "port-forward", pod, ":8080"]);
        let mut forward = Running(
            forward
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|source| Error::Start { program: "kubectl port-forward".to_owned(), source })?,
        );
        let mut line = String::new();
        if let Some(stdout) = forward.0.stdout.as_mut() {
            // What cannot be read leaves the address empty, and curl says so.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        // "Forwarding from 127.0.0.1:40123 -> 8080"
        let address = line.split_whitespace().nth(2).unwrap_or_default();
        run::output(self.target.command("curl")?.args(Self::CURL).arg(format!("http://{address}")))?;
        Ok(started.elapsed())
    }
}

/// Ended when it goes out of scope.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn time(command: &mut Command) -> Result<Duration, Error> {
    let started = Instant::now();
    run::output(command)?;
    Ok(started.elapsed())
}

fn report(rows: &[Row; 5]) -> bool {
    println!("first byte of a service, ms, {ROUNDS} rounds\n");
    println!("{:<40} {:>8} {:>8} {:>8}", "", "min", "median", "max");
    for row in rows {
        let (min, median, max) = spread(&row.times);
        println!("{:<40} {min:>8.0} {median:>8.0} {max:>8.0}", row.what);
    }
    let [bare, warm, cold, debug, forward] = rows.each_ref().map(|row| spread(&row.times).1);
    let peers = debug + forward;
    let added = warm - bare;
    let ratio = cold / peers;
    println!("\nwarm over bare: {added:.0} ms (goal: under 250)");
    println!("cold over kubectl debug + port-forward: {ratio:.2} (goal: under 1.5)");
    println!("peers over warm: {:.1}", peers / warm);
    if let Ok(file) = std::env::var("TP_BENCH_JSON") {
        let rows: serde_json::Map<_, _> =
            rows.iter().map(|row| (row.what.to_owned(), row.times.clone().into())).collect();
        let kept = serde_json::json!({ "unit": "ms", "rows": rows, "cold_over_peers": ratio });
        if let Err(error) = std::fs::write(&file, format!("{kept:#}\n")) {
            eprintln!("first_byte: cannot write {file}: {error}");
            return false;
        }
    }
    added < 250.0 && ratio < 1.5
}

fn spread(times: &[f64]) -> (f64, f64, f64) {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

fn deployment() -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: bench}}
spec:
  replicas: {PODS}
  selector: {{matchLabels: {{app: bench}}}}
  template:
    metadata: {{labels: {{app: bench}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {{name: app, image: 'localhost/tp-sample:1', args: ['http=8080']}}
"
    )
}
