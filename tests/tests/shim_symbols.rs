//! The shim's outside: what it exports, what it needs, and the C headers that say so.
#![allow(clippy::unwrap_used, reason = "a shim that cannot be read is a failed test")]

use object::{Object as _, ObjectSymbol as _};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use tp_abi::wire::{Address, AddressList, Answer, Ip, MESSAGE_MAX, Question, Resolver, put_address};
use tp_tests::fake_launcher::succeeded;
use tp_tests::shim_under_test;

/// All that the shim may need of libc. Nothing here allocates but `strdup`, for a canonical name that libc's own
/// freeaddrinfo() frees, and `malloc`, for a nameserver that its res_nclose() frees; nothing opens a socket; nothing can come back into a hook.
const IMPORTS: &[&str] = &[
    "__errno_location",
    "__h_errno_location",
    "bcmp",
    // By the vDSO: no system call.
    "clock_gettime",
    "dladdr",
    "dlvsym",
    "environ",
    "free",
    "freeaddrinfo",
    "inet_aton",
    "inet_pton",
    "malloc",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "strdup",
    "strlen",
];

/// What the C runtime's start-up files ask for, all of it weak.
const RUNTIME: &[&str] =
    &["_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__cxa_finalize", "__gmon_start__"];

fn headers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../c-headers/include")
}

fn symbols(defined: bool) -> BTreeSet<String> {
    let bytes = std::fs::read(shim_under_test()).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let symbols = file.dynamic_symbols().filter(|symbol| symbol.is_undefined() != defined);
    symbols.map(|symbol| symbol.name().unwrap().to_owned()).filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_shim_exports_what_tp_hooks_h_lists_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("hooks.c");
    std::fs::write(&source, "#define TP_HOOK(name, family, why) name\n#include \"tp_hooks.h\"\n").unwrap();
    let listed = succeeded(Command::new("cc").args(["-E", "-P", "-I"]).arg(headers()).arg(&source));
    let listed: BTreeSet<String> = listed.split_whitespace().map(str::to_owned).collect();
    assert_eq!(symbols(true), listed);
}

/// The first column of the table is the names, each in backticks.
#[test]
fn the_table_of_hooks_names_what_the_shim_exports_and_nothing_else() {
    let text = include_str!("../../ARCHITECTURE.md");
    let (_, section) = text.split_once("\n## Hooks\n").unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows = rows.map_while(|line| line.strip_prefix("| ")?.split(" | ").next());
    let names: Vec<String> =
        rows.flat_map(str::split_whitespace).map(|name| name.trim_matches('`').to_owned()).collect();
    let once: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(once.len(), names.len(), "a name is in the table twice");
    assert_eq!(symbols(true), once);
}

#[test]
fn the_shim_needs_no_more_than_it_may() {
    let allowed: BTreeSet<&str> = IMPORTS.iter().chain(RUNTIME).copied().collect();
    let needed = symbols(false);
    let beyond: Vec<_> = needed.iter().filter(|name| !allowed.contains(name.as_str())).collect();
    assert!(beyond.is_empty(), "{beyond:?}");
}

/// Functions that a libc may be too old for.
const NEWER: &[&str] = &["pidfd_spawn", "pidfd_spawnp"];

/// Each hook must exist in libc under this name, or nobody would ever call it; but for the one of AddressSanitizer.
#[test]
fn every_hook_is_a_function_of_libc() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc =
        maps.split_whitespace().find(|word| word.ends_with("/libc.so.6")).expect("this test is dynamic");
    let bytes = std::fs::read(libc).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let exported: BTreeSet<String> = file
        .dynamic_symbols()
        .filter(object::ObjectSymbol::is_definition)
        .map(|symbol| symbol.name().unwrap().to_owned())
        .collect();
    let unknown: Vec<_> = symbols(true).difference(&exported).cloned().collect();
    let unknown: Vec<_> = unknown.iter().filter(|name| !NEWER.contains(&name.as_str())).collect();
    assert_eq!(unknown, ["__asan_default_options"]);
}

/// Steps: a C program writes every message by the structs of tp_wire.h; the bytes are those of `wire.rs`.
#[test]
fn the_c_header_says_what_wire_rs_says() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("wire");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("apps/wire.c");
    let flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-I"];
    succeeded(Command::new("cc").args(flags).arg(headers()).arg("-o").arg(&binary).arg(source));
    let written = Command::new(binary).output().unwrap().stdout;

    let v4 = Address { ip: Ip::V4([10, 96, 0, 7]), port: 80, scope: 0 };
    let mut ip = [0; 16];
    (ip[0], ip[15]) = (0xfd, 9);
    let v6 = Address { ip: Ip::V6(ip), port: 443, scope: 3 };
    let mut list = [0; 48];
    let at = put_address(&mut list, 0, v4).unwrap();
    put_address(&mut list, at, v6).unwrap();
    let mut expected = Vec::<u8>::new();
    for question in [
        Question::Connect { cookie: 7, asked: v6, v6_socket: true },
        Question::Peer { cookie: 9 },
        Question::Why { cookie: 9 },
        Question::Lookup { want: 7, name: b"backend" },
        Question::Reverse { address: v4 },
        Question::Exec,
        Question::Opened { cookie: 8, asked: v6 },
        Question::Resolver,
        Question::Nameserver { address: v4 },
        Question::Local { v6: true },
        Question::Flow { asked: v6 },
        Question::Connected { cookie: 3, fd: 5, asked: v4 },
        Question::Relayed { relay: v4 },
    ] {
        let mut room = [0; MESSAGE_MAX];
        let length = question.encode(&mut room).unwrap();
        expected.extend(&room[..length]);
    }
    for answer in [
        Answer::Pass,
        Answer::Errno(111),
        Answer::Park(v4),
        Answer::Peer(v6),
        Answer::Addresses {
            seconds: 30,
            canonical: b"name",
            aliases: b"alias\0",
            addresses: AddressList::new(&list),
        },
        Answer::Failed(-2),
        Answer::Name(b"backend"),
        Answer::Resolver(Resolver {
            options: 0x4000,
            timeout: 5,
            attempts: 2,
            ndots: 15,
            nameservers: AddressList::new(&list),
            search: b"cluster.local\0",
        }),
        Answer::Nameserver(v4),
        Answer::Local(v6),
        Answer::Relay { relay: v4, connected: true },
    ] {
        let mut room = [0; MESSAGE_MAX];
        let length = answer.encode(&mut room).unwrap();
        expected.extend(&room[..length]);
    }
    assert_eq!(written, expected);
}
