//! The same in the cluster: an installed tp, its port-forward, an agent beside a container that serves its volume by HTTP.

use tp_tests::case::python;
use tp_tests::{Error, Figures, Sandbox, Target, run};

use super::{ROUNDS, judge};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: all}
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
      exec httpd -f -p 8080 -h /data
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
"#;

/// Whether the goals are met.
pub(super) fn measure() -> Result<bool, Error> {
    let target = Target::attach()?;
    let sandbox = Sandbox::create(&target, "bench-volumes")?;
    sandbox.apply(POD)?;
    run::output(sandbox.kubectl().args(["wait", "--for=condition=Ready", "pod/all", "--timeout=120s"]))?;
    let address = ["get", "pod", "all", "-o", "jsonpath={.status.podIP}"];
    let address = run::output(sandbox.kubectl().args(address))?;
    let program = python("volume_times", &[address.trim(), "8080", "/data", &ROUNDS.to_string()]);
    let options = ["-n", sandbox.namespace(), "--pod", "all"];
    let said = run::output(&mut target.tp_run(options, program)?)?;
    let mut figures = Figures::new("a file of the pod, in the cluster", "ms");
    for (row, time) in said.lines().filter_map(|line| line.split_once(' ')) {
        let time =
            time.parse().map_err(|_| Error::Answer { what: "volume_times.py", answer: said.clone() })?;
        figures.add(row, time);
    }
    judge(&figures, "in the cluster")
}
