//! Running a program to its end and keeping what it said, and the small file operations that go with it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::Error;

/// The command as a person would type it, for messages.
pub fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs `command` with no stdin; its stdout, or an error with its stderr when it failed.
pub fn output(command: &mut Command) -> Result<String, Error> {
    let output = attempt(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(command, &output))
}

/// Runs `command` with no stdin, whatever its exit code.
pub fn attempt(command: &mut Command) -> Result<Output, Error> {
    command.stdin(Stdio::null()).output().map_err(|source| Error::Start { program: shown(command), source })
}

/// Runs `command` with `input` as its stdin.
pub fn with_input(command: &mut Command, input: &[u8]) -> Result<String, Error> {
    let start = |command: &Command| {
        let program = shown(command);
        move |source| Error::Start { program, source }
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start(command))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading is judged by its exit code, not by our broken pipe.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(start(command))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(command, &output))
}

fn failed(command: &Command, output: &Output) -> Error {
    Error::Failed {
        command: shown(command),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
    }
}

/// `Command::new(program)` with its arguments, for one-line calls.
pub fn command<A: AsRef<std::ffi::OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Writes a file that appears whole or not at all, readable by all.
pub fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Error> {
    write_mode(path, contents, 0o644)
}

/// Writes a file with the given mode; it appears whole or not at all.
pub fn write_mode(path: &Path, contents: impl AsRef<[u8]>, mode: u32) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .map_err(Error::file("create", &new))?;
    file.write_all(contents.as_ref()).map_err(Error::file("write", &new))?;
    fs::rename(&new, path).map_err(Error::file("replace", path))
}

/// Creates a folder and those above it.
pub fn folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::file("create", path))
}

/// Removes a folder with everything in it; one that is not there is fine.
pub fn remove_folder(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The last lines of a file, or why there are none.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

/// A program that runs beside, and is killed when this is dropped.
#[derive(Debug)]
pub struct Background {
    shown: String,
    child: Child,
}

impl Background {
    /// Starts it, without stdin; its stdout is a pipe.
    pub fn start(command: &mut Command) -> Result<Self, Error> {
        let shown = shown(command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let child = child.map_err(|source| Error::Start { program: shown.clone(), source })?;
        Ok(Self { shown, child })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads the rest of what it prints, for nobody: else it would stop when the pipe is full.
    pub fn ignore(&mut self) {
        if let Some(mut stdout) = self.child.stdout.take() {
            std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        }
    }

    /// The next line that it prints, without its end; empty when it prints no more.
    pub fn line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        let mut byte = [0];
        // Byte by byte: what is read beyond the line would be lost to the next call.
        while let Some(stdout) = &mut self.child.stdout
            && stdout
                .read(&mut byte)
                .map_err(|source| Error::Start { program: self.shown.clone(), source })?
                == 1
            && byte != *b"\n"
        {
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
