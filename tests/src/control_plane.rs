//! The components of Kubernetes: their certificates, configuration and command lines.

use std::path::Path;

use crate::daemon::Daemon;
use crate::layout::{
    API_PORT, API_SERVICE_V4, CGROUP, DNS_V4, NODE_NAME, NODE_V4, NODE_V6, PODS_V4, PODS_V6, SERVICES_V4,
    SERVICES_V6,
};
use crate::pki::{self, Authority};
use crate::{Error, Layout, run};

/// The components, in the order in which they start.
pub const COMPONENTS: [&str; 7] = [
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// Who talks to the API server: file name, user, group.
const USERS: [(&str, &str, &str); 5] = [
    ("admin", "tp-admin", "system:masters"),
    ("kubelet", "system:node:node", "system:nodes"),
    ("kube-controller-manager", "system:kube-controller-manager", ""),
    ("kube-scheduler", "system:kube-scheduler", ""),
    ("kube-proxy", "system:kube-proxy", ""),
];

/// Makes all certificates, kubeconfigs and configuration files.
pub fn configure(layout: &Layout) -> Result<(), Error> {
    let folder = layout.run("pki");
    let authority = Authority::create(&folder)?;
    let names = [
        NODE_V4,
        NODE_V6,
        "127.0.0.1",
        "::1",
        API_SERVICE_V4,
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    authority.install(&folder, "apiserver", &authority.issue("kube-apiserver", "", &names)?)?;
    let to_kubelet = authority.issue("kube-apiserver-kubelet-client", "system:masters", &[])?;
    authority.install(&folder, "kubelet-client", &to_kubelet)?;
    pki::create_token_key(&folder)?;
    for (name, user, group) in USERS {
        let kubeconfig = authority.kubeconfig(&authority.issue(user, group, &[])?, "default");
        run::write_mode(&layout.run(format!("{name}.kubeconfig")), kubeconfig, 0o600)?;
    }
    run::write(&layout.run("pod-resolv.conf"), "# nobody outside is asked\n")?;
    run::write(&layout.run("kubelet.yaml"), kubelet_config(layout))?;
    run::write(&layout.run("kube-proxy.yaml"), proxy_config(layout))
}

/// etcd without fsync: the data is thrown away with the cluster.
pub fn start_etcd(layout: &Layout, kubernetes: &Path) -> Result<Daemon, Error> {
    let data = layout.run("etcd").display().to_string();
    let arguments = [
        "etcd",
        "--data-dir",
        &data,
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ];
    Daemon::start(layout, "etcd", kubernetes, arguments)
}

/// containerd, Debian's.
pub fn start_containerd(layout: &Layout, containerd: &Path) -> Result<Daemon, Error> {
    let config = layout.run("containerd.toml").display().to_string();
    Daemon::start(layout, "containerd", containerd, ["--config", &config])
}

/// The API server, with the default admission plugins (PodSecurity among them) and NodeRestriction.
///
/// `InternalIP` alone: else exec, attach and port-forward look up the node's name, which no resolver knows.
pub fn start_api_server(layout: &Layout, kubernetes: &Path) -> Result<Daemon, Error> {
    let pki = |name: &str| layout.run("pki").join(name).display().to_string();
    let arguments = [
        "kube-apiserver".to_owned(),
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--advertise-address={NODE_V4}"),
        format!("--secure-port={API_PORT}"),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-cluster-ip-range={SERVICES_V4},{SERVICES_V6}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")),
        format!("--kubelet-client-key={}", pki("kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--allow-privileged".to_owned(),
        format!("--cert-dir={}", pki("")),
    ];
    Daemon::start(layout, "kube-apiserver", kubernetes, arguments.iter().map(String::as_str))
}

/// Everything that needs the API server.
pub fn start_rest(layout: &Layout, kubernetes: &Path) -> Result<Vec<Daemon>, Error> {
    let file = |name: &str| layout.run(name).display().to_string();
    let kubeconfig = |name: &str| format!("--kubeconfig={}", file(&format!("{name}.kubeconfig")));
    let components: [(&'static str, Vec<String>); 4] = [
        (
            "kube-controller-manager",
            vec![
                format!("--service-account-private-key-file={}", file("pki/sa.key")),
                format!("--root-ca-file={}", file("pki/ca.crt")),
                format!("--cluster-signing-cert-file={}", file("pki/ca.crt")),
                format!("--cluster-signing-key-file={}", file("pki/ca.key")),
                kubeconfig("kube-controller-manager"),
                "--use-service-account-credentials".to_owned(),
                "--leader-elect=false".to_owned(),
            ],
        ),
        ("kube-scheduler", vec![kubeconfig("kube-scheduler"), "--leader-elect=false".to_owned()]),
        (
            "kubelet",
            vec![
                format!("--config={}", file("kubelet.yaml")),
                kubeconfig("kubelet"),
                format!("--hostname-override={NODE_NAME}"),
                format!("--node-ip={NODE_V4},{NODE_V6}"),
                format!("--root-dir={}", file("kubelet")),
                format!("--cert-dir={}", file("kubelet-pki")),
            ],
        ),
        ("kube-proxy", vec![format!("--config={}", file("kube-proxy.yaml"))]),
    ];
    let start = |(name, arguments): &(&'static str, Vec<String>)| {
        Daemon::start(
            layout,
            name,
            kubernetes,
            [*name].into_iter().chain(arguments.iter().map(String::as_str)),
        )
    };
    components.iter().map(start).collect()
}

fn kubelet_config(layout: &Layout) -> String {
    let file = |name: &str| layout.run(name).display().to_string();
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {ca}}}}}
authorization: {{mode: Webhook}}
clusterDNS: [{DNS_V4}]
clusterDomain: cluster.local
cgroupDriver: cgroupfs
cgroupRoot: /{CGROUP}
containerRuntimeEndpoint: unix://{socket}
failSwapOn: false
maxPods: 200
evictionHard: {{memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}}
imageGCHighThresholdPercent: 100
resolvConf: {resolv}
podLogsDir: {logs}
volumePluginDir: {plugins}
nodeStatusUpdateFrequency: 2s
syncFrequency: 5s
eventRecordQPS: 0
",
        ca = file("pki/ca.crt"),
        socket = layout.containerd_socket().display(),
        resolv = file("pod-resolv.conf"),
        logs = file("pod-logs"),
        plugins = file("kubelet-plugins"),
    )
}

/// `conntrack: 0`: the limits are the machine's, not ours to change.
fn proxy_config(layout: &Layout) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {}}}
mode: nftables
clusterCIDR: \"{PODS_V4},{PODS_V6}\"
conntrack: {{maxPerCore: 0, min: 0}}
hostnameOverride: {NODE_NAME}
",
        layout.run("kube-proxy.kubeconfig").display()
    )
}
