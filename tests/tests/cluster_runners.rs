//! Test runners as people start them, with the processes and threads that they make: each test is in the pod's network.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::process::Command;

use tp_tests::case::{Folder, PYTHON, app, ran};
use tp_tests::{Case, packages, run};

/// pytest and pytest-xdist with all that they are made of.
const PYTEST: &[&str] = &[
    "execnet==2.1.2",
    "iniconfig==2.3.1",
    "packaging==26.3",
    "pluggy==1.7.0",
    "pygments==2.21.0",
    "pytest==9.2.0",
    "pytest-xdist==3.8.0",
];

fn source(name: &str) -> String {
    std::fs::read_to_string(app("runners").join(name)).unwrap()
}

#[test]
fn pytest_passes_alone_and_with_worker_processes() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let _tests = folder.write("test_backend.py", &source("test_backend.py"), 0o644);
    let packages = packages::pypi(PYTEST).unwrap();
    let pytest = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider"];
    let rootdir = ["--rootdir", folder.path().to_str().unwrap(), folder.path().to_str().unwrap()];
    for workers in [&[][..], &["-n", "2"]] {
        let words = pytest.iter().chain(workers).chain(&rootdir);
        ran(case.web_command(words).env("PYTHONPATH", &packages)).says(&["12 passed"]);
    }
}

#[test]
fn jest_passes_with_worker_processes() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let config = folder.write("jest.config.json", "{}", 0o644);
    for number in ["1", "2", "3"] {
        let test = source("backend.test.js").replace("NUMBER", number);
        let _test = folder.write(&format!("backend{number}.test.js"), &test, 0o644);
    }
    let packages = packages::npm("2026-06-01", &["jest@29.7.0"]).unwrap();
    let jest = packages.join("node_modules/jest/bin/jest.js");
    let words = ["/usr/bin/node", jest.to_str().unwrap(), "--config", &config];
    let options = ["--watchman=false", "--cache=false", "--maxWorkers=2"];
    let ran = case.web(words.iter().chain(&options));
    ran.exits(0).complains(&["Tests:       9 passed, 9 total"]);
}

/// `cargo test` itself needs a toolchain that the laptop's user can read; what it runs is this program.
#[test]
fn rusts_test_harness_passes() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let program = folder.file("backend");
    let source = app("runners").join("backend.rs");
    run::output(Command::new("rustc").args(["--edition", "2024", "--test", "-o", &program]).arg(source))
        .unwrap();
    case.web([&program]).says(&["4 passed; 0 failed"]);
}

/// Steps: Maven, without a network of its own, compiles a test; Surefire runs it in another JVM.
#[test]
fn mavens_surefire_passes() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let (pom, test) = (source("pom.xml"), source("BackendTest.java"));
    let test_path = "src/test/java/BackendTest.java";
    // No method of that name: the runner is fetched and started, and asks nobody.
    let goals = ["test", "-Dtest=BackendTest#nothing", "-Dsurefire.failIfNoSpecifiedTests=false"];
    let repository = packages::maven(&[("pom.xml", &pom), (test_path, &test)], &goals).unwrap();
    let folder = Folder::new(laptop);
    let pom = folder.write("pom.xml", &pom, 0o644);
    ran(laptop.command("mkdir").unwrap().args(["-p", &folder.file("src/test/java")])).succeeds();
    let _test = folder.write(test_path, &test, 0o644);
    let repository = format!("-Dmaven.repo.local={}", repository.display());
    case.web(["mvn", "-B", "-o", "-f", &pom, &repository, "test"])
        .says(&["Tests run: 3, Failures: 0, Errors: 0"]);
}
