//! How long a user waits: from `tp run` to the first byte of a service, cold and warm, beside what they would do without
//! tp, in one run, the two by turns.
//!
//! - *true*: `true` alone, under `tp run` with an agent that lingers, and `kubectl get --raw /readyz`: one request.
//! - *bare*: the same curl with the pod's network, without tp: the floor.
//! - *warm*: `tp run` with an agent that lingers.
//! - *cold*: `tp run` in a pod that has no agent yet.
//! - *peers*: `kubectl debug` until its container runs, then `kubectl port-forward` to the first byte.
//!
//! Each cold round takes pods that nobody has touched. Times are medians in ms of a whole process, start-up included; a
//! goal is a ratio or a difference within this run. `TP_BENCH_JSON=FILE` keeps the figures.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use tp_tests::figures::goal;
use tp_tests::run::Background;
use tp_tests::{Error, Figures, PodNetwork, Sandbox, Target, run};

const ROUNDS: usize = 7;
/// The pods that rounds and the warm-up use up: one for tp and one for kubectl each.
const PODS: usize = 2 * (ROUNDS + 1);

const TRUE: &str = "true";
const TRUE_BY_TP: &str = "tp run true";
const READYZ: &str = "kubectl get --raw /readyz";
const BARE: &str = "bare";
const WARM: &str = "warm";
const COLD: &str = "cold";
const DEBUG: &str = "kubectl debug to running";
const FORWARD: &str = "kubectl port-forward to first byte";

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

    let mut figures = Figures::new("first byte of a service", "ms");
    for (round, pair) in bench.pods.chunks_exact(2).take(ROUNDS + 1).enumerate() {
        let [ours, theirs] = pair else { continue };
        let times = [
            (TRUE, time(&mut bench.target.command("true")?)?),
            (TRUE_BY_TP, time(&mut bench.target.tp_run(["--deployment", "web"], ["true"])?)?),
            (READYZ, time(bench.target.command("kubectl")?.args(["get", "--raw", "/readyz"]))?),
            (BARE, bench.bare()?),
            (WARM, bench.warm()?),
            (COLD, bench.cold(ours)?),
            (DEBUG, bench.debug(theirs)?),
            (FORWARD, bench.port_forward(theirs)?),
        ];
        // The first round fills caches of both sides.
        if round > 0 {
            for (row, time) in times {
                figures.add(row, time.as_secs_f64() * 1000.0);
            }
        }
    }
    figures.tell()?;
    let added = goal("warm over bare", figures.median(WARM) - figures.median(BARE), " ms", 250.0);
    let run =
        goal("true under tp run, over true", figures.median(TRUE_BY_TP) - figures.median(TRUE), " ms", 100.0);
    let peers = figures.median(DEBUG) + figures.median(FORWARD);
    println!("peers over warm: {:.1}", peers / figures.median(WARM));
    Ok(goal("cold over kubectl debug + port-forward", figures.median(COLD) / peers, "", 1.0) && added && run)
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
        let mut forward = Background::start(&mut forward)?;
        let line = forward.line()?;
        // "Forwarding from 127.0.0.1:40123 -> 8080"
        let address = line.split_whitespace().nth(2).unwrap_or_default();
        run::output(self.target.command("curl")?.args(Self::CURL).arg(format!("http://{address}")))?;
        Ok(started.elapsed())
    }
}

fn time(command: &mut Command) -> Result<Duration, Error> {
    let started = Instant::now();
    run::output(command)?;
    Ok(started.elapsed())
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
