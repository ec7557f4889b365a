//! `cargo xtask demo`: the main job, from nothing to the answer of a service in the cluster.

use miette::{IntoDiagnostic as _, miette};
use tp_tests::{Cluster, Laptop, Layout, run as harness};

use crate::step::step;
use crate::{cluster, dist};

pub(crate) fn run() -> miette::Result<()> {
    let layout = Layout::from_env();
    let prefix = step("build and install tp", || dist::run(None))?;
    step("bring the test cluster up", || cluster::up(&Cluster::new(layout.clone())))?;
    let laptop = Laptop::attach(layout).into_diagnostic()?.with_prefix(prefix);
    laptop.reset_leaks().into_diagnostic()?;

    println!("\nOn the laptop, without tp:");
    let mut direct = laptop.command("curl").into_diagnostic()?;
    direct.args(["-sS", "--max-time", "2", "http://backend"]);
    let answer = harness::attempt(&mut direct).into_diagnostic()?;
    println!("$ curl http://backend\n{}", String::from_utf8_lossy(&answer.stderr).trim_end());
    laptop.reset_leaks().into_diagnostic()?;

    println!("\nThe same through the pod of deployment web:");
    let words = ["run", "--deployment", "web", "--", "curl", "-sS", "http://backend"];
    println!("$ tp {}", words.join(" "));
    let status = laptop.command("tp").into_diagnostic()?.args(words).status().into_diagnostic()?;
    let leaks = laptop.leaks().into_diagnostic()?;
    println!("\n{status}; packets that left the laptop for elsewhere than the API server: {leaks}");
    println!("Try more of it: cargo xtask laptop -- tp run --deployment web -- bash");
    if status.success() && leaks == 0 { Ok(()) } else { Err(miette!("the demo failed")) }
}
