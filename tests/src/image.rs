//! Container images made from files of this machine, as the archive that `docker save` writes.
//!
//! No registry is asked for anything: the cluster's images are its own static programs and Debian's busybox. The
//! archive of the same files is the same bytes, so an image's digest says whether it must be imported again.

use std::fs;
use std::path::Path;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{Error, run};

/// An image of one layer.
pub struct Image {
    reference: String,
    entrypoint: Vec<String>,
    command: Vec<String>,
    layer: tar::Builder<Vec<u8>>,
    config: Vec<u8>,
}

impl Image {
    /// An image with the folders that programs expect, /tmp writable for all.
    pub fn new(reference: &str) -> Result<Self, Error> {
        let mut image = Self {
            reference: reference.to_owned(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            layer: tar::Builder::new(Vec::new()),
            config: Vec::new(),
        };
        for (folder, mode) in [
            ("bin", 0o755),
            ("dev", 0o755),
            ("etc", 0o755),
            ("home", 0o755),
            ("proc", 0o755),
            ("root", 0o700),
            ("sys", 0o755),
            ("tmp", 0o1777),
            ("usr", 0o755),
            ("var", 0o755),
        ] {
            image.append(folder, tar::EntryType::Directory, mode, &[])?;
        }
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
        image.file("etc/passwd", 0o644, users.as_bytes())?;
        image.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
        Ok(image)
    }

    /// What the container runs, before the pod's args.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// What the container runs when the pod says nothing.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Adds a file with these bytes.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<(), Error> {
        self.append(path, tar::EntryType::Regular, mode, contents)
    }

    /// Adds a program of this machine.
    pub fn program(&mut self, path: &str, source: &Path) -> Result<(), Error> {
        let contents = fs::read(source).map_err(Error::file("read", source))?;
        self.file(path, 0o755, &contents)
    }

    /// Adds a folder of this machine with all files below it; links become what they lead to.
    pub fn folder(&mut self, path: &str, source: &Path) -> Result<(), Error> {
        let mut entries: Vec<_> = fs::read_dir(source)
            .and_then(Iterator::collect::<Result<_, _>>)
            .map_err(Error::file("list", source))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (source, path) = (entry.path(), format!("{path}/{}", entry.file_name().to_string_lossy()));
            if source.is_dir() {
                self.folder(&path, &source)?;
            } else {
                self.program(&path, &source)?;
            }
        }
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), Error> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.layer.append_link(&mut header, path, target).map_err(Error::file("add to the image", path))
    }

    fn append(&mut self, path: &str, kind: tar::EntryType, mode: u32, contents: &[u8]) -> Result<(), Error> {
        let mut header = header(kind, mode, contents.len() as u64);
        self.layer.append_data(&mut header, path, contents).map_err(Error::file("add to the image", path))
    }

    /// Writes the archive; returns the image's id, `sha256:` and the digest of its configuration.
    pub fn write(mut self, archive: &Path) -> Result<String, Error> {
        let layer = self.layer.into_inner().map_err(Error::file("finish the layer of", archive))?;
        let layer_digest = digest(&layer);
        self.config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        })
        .to_string()
        .into_bytes();
        let config_digest = digest(&self.config);
        let config_name = format!("{config_digest}.json");
        let layer_name = format!("{layer_digest}/layer.tar");
        let manifest = json!([{"Config": config_name, "RepoTags": [self.reference], "Layers": [layer_name]}]);
        let mut whole = tar::Builder::new(Vec::with_capacity(layer.len() + 8192));
        for (name, bytes) in [
            (config_name.as_str(), self.config.as_slice()),
            (layer_name.as_str(), layer.as_slice()),
            ("manifest.json", manifest.to_string().as_bytes()),
        ] {
            let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
            whole.append_data(&mut header, name, bytes).map_err(Error::file("write", archive))?;
        }
        run::write(archive, whole.into_inner().map_err(Error::file("write", archive))?)?;
        Ok(format!("sha256:{config_digest}"))
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The machine's name in images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    fn write(name: &str) -> (String, Vec<u8>) {
        let path = std::env::temp_dir().join(format!("tp-image-{}-{name}.tar", std::process::id()));
        let mut image = Image::new("localhost/test:1").unwrap().entrypoint(&["/bin/a"]);
        image.file("bin/a", 0o755, b"program").unwrap();
        image.link("bin/b", "a").unwrap();
        let id = image.write(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        (id, bytes)
    }

    #[test]
    fn the_archive_names_its_parts_by_their_digests() {
        let (id, bytes) = write("parts");
        let mut parts = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            parts.insert(entry.path().unwrap().display().to_string(), contents);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&parts["manifest.json"]).unwrap();
        let config = &parts[manifest[0]["Config"].as_str().unwrap()];
        let layer = &parts[manifest[0]["Layers"][0].as_str().unwrap()];
        assert_eq!(manifest[0]["RepoTags"][0], "localhost/test:1");
        assert_eq!(id, format!("sha256:{}", digest(config)));
        let config: serde_json::Value = serde_json::from_slice(config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(layer)));
        assert_eq!(config["config"]["Entrypoint"][0], "/bin/a");
        let mut archive = tar::Archive::new(layer.as_slice());
        let modes: BTreeMap<_, _> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap()))
            .collect();
        assert_eq!(modes["tmp"], 0o1777);
        assert_eq!(modes["bin/a"], 0o755);
        assert!(modes.contains_key("bin/b"));
    }

    #[test]
    fn the_same_files_give_the_same_archive() {
        assert_eq!(write("one"), write("two"));
    }
}
