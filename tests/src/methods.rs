//! The methods of `tp run` that cases run under, and which cases are about one of them alone.
//!
//! A case says what a program sees, and that is the same whatever catches its calls: so each runs under every method,
//! unchanged. The few that look at the means themselves stand in [`BOUND`], with the reason; the table that
//! `cargo xtask matrix` prints shows them as such.

/// The variable that names the method for all that a case runs through `tp run`; tp chooses itself without it.
pub const VARIABLE: &str = "TP_TEST_METHOD";
/// The methods, in the table's order: what `tp run --method` takes. `auto` is the shim for all that it can enter.
pub const METHODS: [&str; 3] = ["auto", "vif", "trap"];

/// A case, or all of a test program, that is about some methods only.
#[derive(Debug)]
pub struct Bound {
    /// The test program.
    pub program: &'static str,
    /// The case; all of the program's if it is empty.
    pub case: &'static str,
    /// The methods that it is about.
    pub methods: &'static [&'static str],
    /// Why the others are none of its business.
    pub why: &'static str,
}

const fn bound(
    program: &'static str,
    case: &'static str,
    methods: &'static [&'static str],
    why: &'static str,
) -> Bound {
    Bound { program, case, methods, why }
}

/// What is about the shim has no other method in it.
const SHIM: &[&str] = &["auto"];
const ASKS: &str = "the socket by which the shim asks; nobody else gets to know it";
const OWN: &str = "the case says itself which methods it is about";
const PLACES: &str =
    "what is asked and made in the cluster, and told of it; the other cases run programs with it";
const MOUNTS: &str = "how volumes are mounted; what catches a program's calls has no part in it";
const BEFORE: &str = "what becomes of tp before any program is started";

const PODS: &str =
    "what is done in the pods; how a program is reached by each method the case of all kinds of ports shows";

/// What cannot have the shim.
const PAST_LIBC: &[&str] = &["vif", "trap"];
const CHOSEN: &str = "auto takes one of the others for it, as for the Go program that is run under all three";

/// Where the namespace of a run is, it has an end.
const NAMESPACE: &[&str] = &["auto", "vif"];

/// All that are not for every method.
pub const BOUND: &[Bound] = &[
    bound("cluster_abandoned", "a_container_that_nobody_attached_to_ends_after_its_time_limit", SHIM, BEFORE),
    bound(
        "cluster_abandoned",
        "a_container_whose_upload_was_cut_off_ends_at_once_and_runs_nothing",
        SHIM,
        BEFORE,
    ),
    bound("cluster_abandoned", "an_interrupt_before_the_command_starts_ends_tp_with_130", SHIM, BEFORE),
    bound(
        "cluster_dns",
        "getaddrinfo_a_works_in_all_its_modes",
        SHIM,
        "the shim's own getaddrinfo_a; libc's says less of time limits, in the pod as well",
    ),
    bound(
        "cluster_filter",
        "",
        SHIM,
        "which requests are taken is the agent's business; how the program is kept is not",
    ),
    bound("cluster_robust", "whoever_writes_to_the_launchers_socket_disturbs_nobody", SHIM, ASKS),
    bound("cluster_robust", "a_question_of_another_user_is_not_answered", SHIM, ASKS),
    bound(
        "cluster_robust",
        "everybody_who_asked_a_launcher_that_stood_still_is_answered",
        NAMESPACE,
        "under a filter opening a file waits for a launcher that stands still, and so do threads that libc starts",
    ),
    bound(
        "cluster_robust",
        "a_storm_of_signals_changes_no_result",
        NAMESPACE,
        "a call that a filter catches can be interrupted, also one that never waits otherwise: EINTR without SA_RESTART",
    ),
    bound(
        "cluster_dns",
        "a_pod_without_ipv6_has_another_order",
        SHIM,
        "the case takes an address away behind Kubernetes' back, which still tells it; the others go by what it tells",
    ),
    bound(
        "cluster_path",
        "an_io_uring_reads_and_writes_a_connected_socket",
        NAMESPACE,
        "what a ring asks for is no system call that a filter could see: there are no rings under it",
    ),
    bound(
        "cluster_processes",
        "a_program_that_changed_its_root_starts_nothing_without_the_shim",
        SHIM,
        "a namespace or a filter goes along into another root folder",
    ),
    bound(
        "cluster_udp",
        "a_process_that_nobody_may_look_into_is_told_of_a_refused_port_as_well",
        NAMESPACE,
        "a filter's supervisor cannot take the sockets of such a process: it has no network at all",
    ),
    bound(
        "cluster_process",
        "a_program_whose_tp_was_killed_gets_errors_and_no_other_network",
        NAMESPACE,
        "without its supervisor a filter fails connections to loopback as well; cluster_trap has a case of it",
    ),
    bound("cluster_loopback", "", &["vif"], "the others have the laptop's loopback, and no other"),
    bound("cluster_auto", "", SHIM, "which method is taken where none is asked for"),
    bound("cluster_doctor", "", SHIM, "which method is taken on a machine that does not allow all"),
    bound("cluster_container", "", SHIM, OWN),
    bound("cluster_volumes", "what_cannot_be_had_is_told", SHIM, MOUNTS),
    bound("cluster_volumes", "without_namespaces_they_are_below_a_folder", SHIM, MOUNTS),
    bound("cluster_volumes", "ends::runs_that_end_or_are_killed_leave_no_mount_and_no_folder", SHIM, MOUNTS),
    bound("cluster_volumes", "ends::a_lost_agent_link_or_pod_is_an_error_and_no_wait_for_ever", SHIM, MOUNTS),
    bound("cluster_volumes", "programs::programs_work_on_a_volume_as_on_a_disk", SHIM, MOUNTS),
    bound("cluster_volumes", "programs::large_folders_and_files_are_whole", SHIM, MOUNTS),
    bound(
        "cluster_volumes",
        "programs::the_edit_role_has_them_where_pod_security_is_restricted",
        SHIM,
        MOUNTS,
    ),
    bound("cluster_vif", "", &["vif"], OWN),
    bound("cluster_trap", "", &["trap"], OWN),
    bound(
        "cluster_expose",
        "a_port_below_1024_is_had_in_a_private_network",
        SHIM,
        "the other methods are asked for by name, and trap has no such port",
    ),
    bound("cluster_expose", "all_pods_are_taken_as_they_come_and_go", SHIM, PODS),
    bound(
        "cluster_expose",
        "connections_that_were_open_stay_the_apps_and_a_killed_side_gives_the_port_back",
        SHIM,
        PODS,
    ),
    bound("cluster_expose", "a_laptop_that_is_cut_off_gives_the_port_back_and_takes_it_again", SHIM, PODS),
    bound("cluster_expose", "ten_thousand_requests_across_start_kill_and_end", SHIM, PODS),
    bound("cluster_expose", "servers_of_many_makes_serve_the_clusters_requests", SHIM, PODS),
    bound("cluster_expose", "many_clients_and_many_bytes_come_through_a_port", SHIM, PODS),
    bound("cluster_expose", "a_mirror_leaves_the_answers_to_the_app", SHIM, PODS),
    bound("cluster_expose", "two_people_with_headers_of_their_own_share_a_port", SHIM, PODS),
    bound("cluster_expose", "what_cannot_be_exposed_is_said", SHIM, PODS),
    bound("cluster_refusal", "", SHIM, BEFORE),
    bound("cluster_static", "a_go_program_with_cgo", PAST_LIBC, CHOSEN),
    bound("cluster_static", "a_static_i386_program", PAST_LIBC, CHOSEN),
    bound("cluster_static", "a_static_arm64_program_in_an_emulator", PAST_LIBC, CHOSEN),
    bound("cluster_static", "a_static_rust_program", PAST_LIBC, CHOSEN),
    bound("cluster_static", "a_static_program_of_this_machines_libc", PAST_LIBC, CHOSEN),
    bound("cluster_agent", "", SHIM, "`tp agent` runs no program"),
    bound("cluster_permission", "", SHIM, PLACES),
    bound("cluster_services", "", SHIM, PODS),
    bound("cluster_standin", "", SHIM, PLACES),
    bound("cluster_leave", "", SHIM, PLACES),
    bound("cluster_list", "", SHIM, PLACES),
    bound("cluster_moves", "", SHIM, PLACES),
    bound("cluster_webhook", "", SHIM, PLACES),
    bound("cluster_environment", "every_source_is_there_and_every_reader_reads_the_same", SHIM, PLACES),
    bound("cluster_environment", "secrets_are_for_those_who_ask_and_in_no_log", SHIM, PLACES),
    bound(
        "cluster_environment",
        "what_the_environment_names_and_is_not_there_is_told_by_its_name",
        SHIM,
        PLACES,
    ),
    bound("cluster_kubeconfig", "", SHIM, "how the cluster is found; nothing catches any call there"),
    bound(
        "cluster_killed",
        "a_program_that_would_wait_for_ever_does_not_outlive_its_network",
        NAMESPACE,
        "a filter has no network of its own that could end: its program goes on with errors, as under the shim",
    ),
];

/// If dynamic programs of this process's cases have the shim.
#[must_use]
pub fn under_the_shim() -> bool {
    std::env::var(VARIABLE).map_or(true, |method| method == "auto" || method == "shim")
}

/// What a call that wants the network is told under the method of this process's cases when the launcher is gone: each
/// method has its own way to fail, and none is another network.
#[must_use]
pub fn lost() -> &'static str {
    match std::env::var(VARIABLE).as_deref() {
        // The other end of the program's one network card is gone, and its routes.
        Ok("vif") => "ENETUNREACH",
        // What seccomp answers for a listener that nobody has any more (seccomp_unotify(2)).
        Ok("trap") => "ENOSYS",
        _ => "ENETDOWN",
    }
}

/// The same for a call that waited when the launcher went.
#[must_use]
pub fn cut_off() -> &'static str {
    if std::env::var(VARIABLE).is_ok_and(|method| method == "vif") { "ECONNABORTED" } else { lost() }
}

/// What a connect() is told for which the launcher has no descriptor.
#[must_use]
pub fn full() -> &'static str {
    // No packet says ENOBUFS.
    if std::env::var(VARIABLE).is_ok_and(|method| method == "vif") { "EHOSTUNREACH" } else { "ENOBUFS" }
}

/// Why the case does not run under the method; [`None`] if it does.
#[must_use]
pub fn why_not(program: &str, case: &str, method: &str) -> Option<&'static str> {
    let this = |bound: &&Bound| bound.program == program && (bound.case.is_empty() || bound.case == case);
    BOUND.iter().filter(this).find(|bound| !bound.methods.contains(&method)).map(|bound| bound.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_names_methods_that_there_are_and_a_reason() {
        for bound in BOUND {
            assert!(!bound.why.is_empty() && !bound.methods.is_empty(), "{bound:?}");
            assert!(bound.methods.iter().all(|method| METHODS.contains(method)), "{bound:?}");
            assert!(METHODS.iter().any(|method| !bound.methods.contains(method)), "{bound:?}");
        }
    }

    #[test]
    fn a_whole_program_or_one_case_is_bound() {
        assert!(why_not("cluster_agent", "any", "vif").is_some());
        assert_eq!(why_not("cluster_agent", "any", "auto"), None);
        assert_eq!(why_not("cluster_names", "any", "vif"), None);
    }
}
