//! Names: what a program on the laptop finds under a name is what a program in the pod would find.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::collections::BTreeSet;

use tp_tests::Case;

/// The addresses of a service, the first family's first.
fn cluster_ips(case: &Case, service: &str) -> Vec<String> {
    let ips = case.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIPs[*]}"]);
    ips.split(' ').map(str::to_owned).collect()
}

/// The addresses of all pods with this label.
fn pod_ips(case: &Case, app: &str) -> BTreeSet<String> {
    let label = format!("app={app}");
    let ips = case.kubectl(&["get", "pods", "-l", &label, "-o", "jsonpath={.items[*].status.podIPs[*].ip}"]);
    ips.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_service_is_found_by_every_spelling_of_its_name() {
    let case = Case::new();
    for name in [
        "backend",
        "backend.default",
        "backend.default.svc",
        "backend.default.svc.cluster.local",
        "backend.default.svc.cluster.local.",
        "BackEnd",
        "alias.test",
        "external",
    ] {
        case.web(["curl", "-sS", &format!("http://{name}/")]).says(&["service=backend\n"]);
    }
}

#[test]
fn a_program_sees_the_services_own_address() {
    let case = Case::new();
    let backend = cluster_ips(&case, "backend");
    let curl = |family: &str| {
        case.web([
            "curl",
            "-sS",
            family,
            "-o",
            "/dev/null",
            "-w",
            "%{remote_ip} %{remote_port}",
            "http://backend",
        ])
    };
    curl("-4").prints(&format!("{} 80", backend[0]));
    curl("-6").prints(&format!("{} 80", backend[1]));
}

#[test]
fn ipv6_works_by_name_and_by_address_also_where_there_is_nothing_else() {
    let case = Case::new();
    let v6only = cluster_ips(&case, "v6only").remove(0);
    case.web(["curl", "-sS", "-6", "http://backend/"]).says(&["service=backend\n"]);
    case.web(["curl", "-sS", "http://v6only/"]).says(&["service=backend\n"]);
    case.web(["curl", "-sS", &format!("http://[{v6only}]/")]).says(&["service=backend\n"]);
    // Asked for IPv4, there is no such address.
    case.web(["curl", "-sS", "-4", "http://v6only/"]).exits(6);
}

#[test]
fn an_ipv4_address_in_ipv6_clothes_reaches_the_ipv4_service() {
    let case = Case::new();
    let backend = cluster_ips(&case, "backend").remove(0);
    case.python("names", &["mapped", &backend]).prints(&format!("peer ::ffff:{backend} 80\nservice=backend"));
}

#[test]
fn a_headless_service_is_all_its_pods() {
    let case = Case::new();
    let pods = pod_ips(&case, "headless");
    assert_eq!(pods.len(), 4, "two pods, two families");
    let found = case.web(["getent", "ahosts", "headless"]);
    let found: BTreeSet<String> =
        found.succeeds().lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(found, pods);
    case.web(["curl", "-sS", "http://headless:8080/"]).says(&["service=headless\n"]);
    case.web(["curl", "-sS", "http://db-0.db:8080/"]).says(&["service=db\n", "pod=db-0\n"]);
}

#[test]
fn getent_says_what_it_says_in_a_pod() {
    let case = Case::new();
    let backend = cluster_ips(&case, "backend");
    let found = case.web(["getent", "ahosts", "backend"]);
    let lines: BTreeSet<String> = found
        .succeeds()
        .lines()
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .collect();
    let expected =
        backend.iter().flat_map(|ip| ["STREAM", "DGRAM", "RAW"].map(|kind| format!("{ip} {kind}")));
    assert_eq!(lines, expected.collect());
    assert!(found.stdout.lines().next().unwrap().ends_with("backend.default.svc.cluster.local"), "{found}");
    case.web(["getent", "ahostsv6", "nowhere"]).exits(2);
    // libc would ask the laptop's nameserver for a network's name, where nsswitch.conf(5) says so.
    case.web(["getent", "-s", "dns", "networks", "nowhere.test"]).exits(2);
}

#[test]
fn a_name_that_is_not_there_is_not_found() {
    let case = Case::new();
    for name in ["nowhere", "nowhere.default.svc.cluster.local", "no.such.name.test"] {
        case.web(["curl", "-sS", &format!("http://{name}/")]).exits(6).complains(&["Could not resolve host"]);
    }
    case.python("names", &["missing", "nowhere"])
        .prints("getaddrinfo EAI_NONAME\ngethostbyname EAI_NONAME\ngethostbyname_ex EAI_NONAME");
}

#[test]
fn the_old_functions_and_service_names_work() {
    let case = Case::new();
    let backend = cluster_ips(&case, "backend").remove(0);
    case.python("names", &["old", "backend"])
        .prints(&format!("backend.default.svc.cluster.local [] ['{backend}']\n{backend}\n{backend} 80"));
}

#[test]
fn an_address_has_the_name_that_the_clusters_dns_gives_it() {
    let case = Case::new();
    let backend = cluster_ips(&case, "backend");
    for address in &backend {
        case.python("names", &["reverse", address])
            .prints("backend.default.svc.cluster.local\nbackend.default.svc.cluster.local");
    }
    case.python("names", &["reverse", "203.0.113.77"]).exits(1).complains(&["HOST_NOT_FOUND"]);
}

#[test]
fn what_is_local_stays_local() {
    let case = Case::new();
    case.web(["getent", "ahostsv4", "localhost"]).says(&["127.0.0.1"]);
    case.python("names", &["loopback"]).prints("loopback ok\nunix ok");
}
