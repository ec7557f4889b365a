//! Programs that say what they have reached and wait to be told to go on, so that they can be looked at meanwhile; and what a
//! process has used of the machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::{Error, run};

/// A script that says a line, runs `"$@"` when it is told to, says what that says, and waits for its end.
pub const CARRY: &str = "echo ready; read go; \"$@\" && read end";

/// A program that says a line, and goes on when it is told to.
#[derive(Debug)]
pub struct Held {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Held {
    /// Starts it.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(command: &mut Command) -> Result<Self, Error> {
        let shown = run::shown(command);
        let start = |source| Error::Start { program: shown.clone(), source };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(start)?;
        let said = child.stdout.take().ok_or_else(|| start(std::io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { child, said: BufReader::new(said) })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says this figure; those that it said before.
    ///
    /// # Errors
    /// If it ends before.
    pub fn figures(&mut self, last: &str) -> Result<BTreeMap<String, f64>, Error> {
        let mut figures = BTreeMap::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.trim_end().split_once(' ') else { continue };
            if name == last {
                return Ok(figures);
            }
            figures.insert(name.to_owned(), value.parse().unwrap_or(f64::NAN));
        }
    }

    /// Waits until it says a line.
    ///
    /// # Errors
    /// If it ends before.
    pub fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        let what = "the program, which was to say a line,";
        match self.said.read_line(&mut line) {
            Ok(length) if length > 0 => Ok(line),
            _ => Err(Error::Answer { what, answer: line }),
        }
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it has ended.
    pub fn go_on(&mut self) -> Result<(), Error> {
        let to = "the program's standard input";
        self.child
            .stdin
            .as_mut()
            .map_or(Ok(()), |stdin| stdin.write_all(b"\n").map_err(Error::file("write", to)))
    }

    /// Waits for its end, of which it is told by that of its standard input.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn end(mut self) -> Result<(), Error> {
        drop(self.child.stdin.take());
        self.child.wait().map(drop).map_err(Error::file("wait for", "the program"))
    }
}

/// A process's memory that is in RAM, in kB (proc_pid_status(5)).
///
/// # Errors
/// If there is no such process.
pub fn resident(pid: u32) -> Result<f64, Error> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(Error::file("read", path))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN))
}

/// A process's CPU time, in seconds (proc_pid_stat(5)): the 14th and the 15th word, in ticks of 10 ms.
///
/// # Errors
/// If there is no such process.
pub fn busy(pid: u32) -> Result<f64, Error> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(Error::file("read", path))?;
    // The second word may have blanks in it; it ends with the last parenthesis.
    let words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = words.skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}
