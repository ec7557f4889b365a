//! `tp status`: this user's runs on this machine.
//!
//! Each run keeps a card in its private folder, which is there exactly as long as the run: nothing is asked of the cluster
//! or of the run itself. The card is replaced whole, so that nobody reads half of one.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::debug;

use crate::report::Failure;
use crate::session::At;
use crate::{cli, kube, run, show, table};

const CARD: &str = "card";

/// What a run says of itself.
pub struct Card {
    path: PathBuf,
    run: Value,
}

impl Card {
    /// That of a run that begins now, in its folder. Others cannot enter it.
    #[must_use]
    pub fn new(folder: &Path, command: &[OsString], exposes: &[String]) -> Self {
        let command: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        let since = kube::time(Some(&kube::now().into()));
        let run = json!({"pid": std::process::id(), "command": command, "exposes": exposes, "since": since});
        Self { path: folder.join(CARD), run }
    }

    /// Keeps the card for as long as the run goes on.
    pub async fn keep(mut self, mut at_rx: watch::Receiver<At>) -> Infallible {
        loop {
            let at = at_rx.borrow_and_update().clone();
            if let Err(error) = self.write(&at) {
                debug!(%error, "this run will not be in `tp status`");
            }
            if at_rx.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn write(&mut self, at: &At) -> io::Result<()> {
        let link = if at.linked { "up" } else { "lost" };
        if let Some(run) = self.run.as_object_mut() {
            let now = [
                ("namespace", &*at.namespace),
                ("pod", &at.pod),
                ("container", &at.container),
                ("link", link),
            ];
            run.extend(now.map(|(name, value)| (name.to_owned(), value.into())));
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(self.run.to_string().as_bytes())?;
        file.persist(&self.path)?;
        Ok(())
    }
}

/// Prints them, the oldest first.
///
/// # Errors
/// If nobody reads.
pub fn status(options: &cli::Status) -> Result<u8, Failure> {
    let cards = run::folder::folders().into_iter().filter_map(|folder| std::fs::read(folder.join(CARD)).ok());
    let mut runs: Vec<Value> = cards.filter_map(|card| serde_json::from_slice(&card).ok()).collect();
    runs.sort_by_key(|run| (word(run, "since"), word(run, "pid")));
    let text = match options.output {
        cli::Output::Text => {
            let rows: Vec<_> = runs.iter().map(row).collect();
            table::set(["PID", "NAMESPACE", "POD", "LINK", "EXPOSES", "SINCE", "COMMAND"], &rows)
        }
        cli::Output::Json => format!("{:#}\n", Value::from(runs)),
    };
    show::print(&text)
}

fn row(run: &Value) -> [String; 7] {
    ["pid", "namespace", "pod", "link", "exposes", "since", "command"].map(|name| match run.get(name) {
        Some(Value::Array(words)) => {
            let words: Vec<_> = words.iter().filter_map(Value::as_str).map(shown).collect();
            words.join(if name == "exposes" { "," } else { " " })
        }
        _ => word(run, name),
    })
}

/// A word of a command in one line, and told apart from the next.
fn shown(word: &str) -> String {
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()) {
        format!("{word:?}")
    } else {
        word.to_owned()
    }
}

fn word(run: &Value, name: &str) -> String {
    let value = run.get(name).unwrap_or(&Value::Null);
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_a_row() {
        let folder = tempfile::tempdir().unwrap();
        let command = ["sh".into(), "-c".into(), "sleep 1\ntrue".into()];
        let mut card = Card::new(folder.path(), &command, &["80".to_owned(), "53/udp".to_owned()]);
        let at = At { namespace: "shop".into(), pod: "web-1".into(), container: "app".into(), linked: true };
        card.write(&at).unwrap();
        card.write(&At { linked: false, ..at }).unwrap();
        let run: Value = serde_json::from_slice(&std::fs::read(folder.path().join(CARD)).unwrap()).unwrap();
        let since = word(&run, "since");
        let pid = std::process::id().to_string();
        let expected = [&*pid, "shop", "web-1", "lost", "80,53/udp", &since, "sh -c \"sleep 1\\ntrue\""];
        assert_eq!(row(&run), expected);
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}
