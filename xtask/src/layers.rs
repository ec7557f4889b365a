//! Who may depend on whom: the table, and the check that the sources keep to it.
//!
//! The parts that catch a program's calls must not know about Kubernetes, and nothing may point upwards; otherwise
//! the next interceptor cannot be put beside the first, and no part can be tested without all others. The compiler
//! does not see folders as layers, so the sources are read.

use std::fs;
use std::path::Path;

use miette::{IntoDiagnostic as _, miette};

use crate::check::sources;
use crate::step::{cargo, workspace};

/// What decides, prints and parses: nothing below may use it.
const TOP: [&str; 4] = ["crate::cli", "crate::report", "crate::run", "crate::plan"];

/// A room of the launcher, and what it must not use beside [`TOP`], clap and miette.
const FORBIDDEN: [(&str, &[&str]); 21] = [
    (
        "mounts",
        &["crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::gate", "crate::child"],
    ),
    ("holder", &["crate::kube", "crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::gate"]),
    ("shim", &["crate::kube", "crate::session", "crate::trap", "crate::child"]),
    ("vif", &["crate::kube", "crate::session", "crate::shim", "crate::trap", "crate::child"]),
    ("trap", &["crate::kube", "crate::session", "crate::shim", "crate::vif", "crate::child"]),
    ("gate", &["crate::kube", "crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::child"]),
    ("flows", &["crate::kube", "crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::child"]),
    ("names", &["crate::kube", "crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::gate"]),
    (
        "nameserver",
        &["crate::kube", "crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::gate"],
    ),
    (
        "questions",
        &["crate::kube", "crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::gate"],
    ),
    (
        "resolver",
        &["crate::kube", "crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::gate"],
    ),
    ("pod", &["crate::kube", "crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::gate"]),
    ("link", &["crate::kube", "crate::session", "crate::shim", "crate::gate", "crate::pod"]),
    ("undo", &["crate::kube", "crate::session", "crate::gate"]),
    ("kube", &["crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::gate", "crate::child"]),
    ("child", &["crate::kube", "crate::session", "crate::shim", "crate::gate"]),
    ("environment", &["crate::kube", "crate::session", "crate::shim", "crate::gate"]),
    ("session", &["crate::expose"]),
    ("expose", &["crate::shim", "crate::trap", "crate::child"]),
    (
        "volumes",
        &["crate::kube", "crate::session", "crate::shim", "crate::vif", "crate::trap", "crate::gate"],
    ),
    ("sys", &["crate::kube", "crate::session", "crate::shim", "crate::gate", "crate::pod", "crate::names"]),
];

/// All that the shim is made of: it lives inside other people's programs.
const SHIM: [&str; 3] = ["libc", "tp-abi", "tp-shim"];

pub(crate) fn run() -> miette::Result<()> {
    let mut wrong = Vec::new();
    let launcher = workspace().join("launcher/src");
    for (room, forbidden) in FORBIDDEN {
        let mut files = vec![launcher.join(format!("{room}.rs"))];
        if launcher.join(room).is_dir() {
            files.extend(sources(&launcher.join(room))?);
        }
        for file in files.iter().filter(|file| file.exists()) {
            wrong.extend(uses(file, forbidden)?);
        }
    }
    wrong.extend(shim_dependencies()?);
    if wrong.is_empty() { Ok(()) } else { Err(miette!("{}", wrong.join("\n"))) }
}

/// The lines of a file that use what they must not.
fn uses(file: &Path, forbidden: &[&str]) -> miette::Result<Vec<String>> {
    let text = fs::read_to_string(file).into_diagnostic()?;
    Ok(offences(&text, forbidden)
        .into_iter()
        .map(|(line, name)| format!("{}:{line}: {name} is not for this layer", file.display()))
        .collect())
}

fn offences<'a>(text: &str, forbidden: &[&'a str]) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    for (line, path) in paths(text) {
        let names = forbidden.iter().chain(&TOP).chain(&["clap", "miette"]);
        found.extend(names.filter(|&&name| name == path).map(|&name| (line, name)));
    }
    found
}

/// The first word of every path in the code, and the second too after `crate`; with the number of its line.
fn paths(text: &str) -> Vec<(usize, String)> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = code.as_str();
    while let Some(letter) = rest.chars().next() {
        let length = rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len());
        let (word, after) = rest.split_at(length.max(letter.len_utf8()));
        if word == "crate" && after.starts_with("::{") {
            found.extend(
                group(after.get(3..).unwrap_or_default()).map(|name| (line, format!("crate::{name}"))),
            );
        } else if word == "crate" && after.starts_with("::") {
            found.extend(
                group(after.get(2..).unwrap_or_default())
                    .take(1)
                    .map(|name| (line, format!("crate::{name}"))),
            );
        } else if after.starts_with("::") {
            found.push((line, word.to_owned()));
        }
        line += usize::from(letter == '\n');
        rest = after;
    }
    found
}

/// The first word of each item up to the brace that closes the group.
fn group(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    let end = text.find(|letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        depth < 0 || letter == ';'
    });
    let inside = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
    let mut depth = 0_i32;
    let items = inside.split(move |letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        depth == 0 && letter == ','
    });
    let word = |item: &str| {
        item.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(item.len())
    };
    items
        .map(str::trim)
        .map(move |item| item.get(..word(item)).unwrap_or_default())
        .filter(|item| !item.is_empty())
}

fn shim_dependencies() -> miette::Result<Vec<String>> {
    let mut tree = cargo(["tree", "-p", "tp-shim", "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    let output = tp_tests::run::output(&mut tree).into_diagnostic()?;
    let mut names: Vec<&str> = output.lines().filter_map(|line| line.split(' ').next()).collect();
    names.sort_unstable();
    names.dedup();
    if names == SHIM {
        Ok(Vec::new())
    } else {
        Ok(vec![format!("the shim is made of {names:?}, not of {SHIM:?}")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_of_a_higher_layer_is_found() {
        let text =
            "//! See crate::kube::Forward.\nuse crate::pod;\nuse crate::kube::Forward;\nlet a = clap::x();\n";
        assert_eq!(offences(text, &["crate::kube"]), vec![(3, "crate::kube"), (4, "clap")]);
    }

    #[test]
    fn groups_are_looked_into() {
        let text = "use crate::{\n    pod::{a, b},\n    kube::c,\n    shim,\n};\ncrate::gate::meet(x, y);\n";
        let names: Vec<_> =
            paths(text).into_iter().map(|(_, name)| name).filter(|name| name.contains(':')).collect();
        assert_eq!(names, ["crate::pod", "crate::kube", "crate::shim", "crate::gate"]);
    }

    #[test]
    fn longer_names_are_other_names() {
        assert_eq!(offences("use crate::kubelike::X;\nuse mycrate::kube::X;\n", &["crate::kube"]), vec![]);
    }

    #[test]
    fn the_launcher_keeps_to_the_table() {
        run().unwrap();
    }
}
