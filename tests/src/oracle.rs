//! The oracle: a pod in which the laptop's own Python runs the same program that `tp run` runs, so that what tp shows
//! a program can be compared with the truth, byte for byte.
//!
//! Debian's interpreter is put into an image with the libraries that it loads, as they are on this machine: another
//! libc would resolve names in other ways and say other errors.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::case::{PYTHON, Ran, python, ran};
use crate::image::Image;
use crate::{Error, Target, run};

/// The image's name in the cluster.
const IMAGE: &str = "localhost/tp-oracle:1";
/// Folders of the standard library that no case imports: most of its size.
const LEFT_OUT: [&str; 6] = ["__pycache__", "test", "idlelib", "ensurepip", "lib2to3", "pydoc_data"];

/// A pod that runs Python; deleted on drop.
#[derive(Debug)]
pub struct Oracle {
    target: Target,
    pod: String,
}

impl Oracle {
    /// Starts the pod in namespace `default`, beside the sample application. Only our own cluster can be given the
    /// image.
    pub fn start(target: &Target) -> Result<Self, Error> {
        let Target::Laptop(cluster, _) = target else {
            target.laptop("an image made on this machine")?;
            return Err(Error::NotUp { why: "no laptop".to_owned() });
        };
        let archive = std::env::temp_dir().join(format!("tp-oracle-{}.tar", std::process::id()));
        image()?.write(&archive)?;
        let loaded = cluster.load_image(&archive);
        let _ = fs::remove_file(&archive);
        loaded?;
        let oracle = Self { target: target.clone(), pod: format!("oracle-{}", std::process::id()) };
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": oracle.pod},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "python", "image": IMAGE, "imagePullPolicy": "Never",
                "command": [PYTHON, "-c", "import signal; signal.pause()"],
            }]},
        });
        run::with_input(target.kubectl().args(["create", "-f", "-"]), pod.to_string().as_bytes())?;
        let pod = format!("pod/{}", oracle.pod);
        run::output(target.kubectl().args(["wait", "--for=condition=Ready", "--timeout=60s", &pod]))?;
        Ok(oracle)
    }

    /// Runs `apps/NAME.py` in the pod.
    pub fn python(&self, name: &str, arguments: &[&str]) -> Ran {
        let mut command = self.target.kubectl();
        command.args(["exec", &self.pod, "--"]).args(python(name, arguments));
        ran(&mut command)
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let delete = ["delete", "pod", &self.pod, "--wait=false"];
        if let Err(error) = run::output(self.target.kubectl().args(delete)) {
            eprintln!("the pod {} stays: {error}", self.pod);
        }
    }
}

fn image() -> Result<Image, Error> {
    let mut image = Image::new(IMAGE)?;
    let interpreter = fs::canonicalize(PYTHON).map_err(Error::file("find", PYTHON))?;
    let library = Path::new("/usr/lib").join(interpreter.file_name().unwrap_or_default());
    let mut files = Vec::new();
    walk(&library, &mut files)?;
    let modules = files.iter().filter(|file| file.extension().is_some_and(|end| end == "so"));
    let mut objects: Vec<&Path> = modules.map(PathBuf::as_path).collect();
    objects.push(&interpreter);
    let shared = shared_objects(&objects)?;
    for file in files.iter().chain(&shared) {
        image.program(inside(file), file)?;
    }
    image.program(inside(Path::new(PYTHON)), &interpreter)?;
    Ok(image)
}

fn inside(path: &Path) -> &str {
    path.to_str().unwrap_or_default().trim_start_matches('/')
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::file("list", folder))?.flatten() {
        let path = entry.path();
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                let name = entry.file_name();
                if !LEFT_OUT.iter().any(|&left_out| name == left_out) {
                    walk(&path, files)?;
                }
            }
            Ok(_) => files.push(path),
            // A link to nowhere.
            Err(_) => {}
        }
    }
    Ok(())
}

/// What the loader would map for these, itself included, by the names it would use.
fn shared_objects(objects: &[&Path]) -> Result<BTreeSet<PathBuf>, Error> {
    let said = run::attempt(Command::new("ldd").args(objects))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let named = said.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    Ok(named.map(PathBuf::from).filter(|path| path.exists()).collect())
}
