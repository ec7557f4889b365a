//! What a run made or changed in the cluster, each with how it is taken back.
//!
//! Kubernetes has no transactions, and a run can end between any two calls: by an error, by a signal, by its command's
//! end. So a step is noted *before* the call that makes it necessary, must be harmless if that call never came to anything,
//! and they are taken back last first. One that fails does not keep the others from being tried: it is told, with the
//! command that does it by hand.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::info;

/// Why a step could not be taken back.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

type Act = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(), Cause>> + Send>> + Send>;

struct Step {
    what: String,
    by_hand: String,
    /// None while it is being done.
    act: Option<Act>,
}

/// A step that could not be taken back.
#[derive(Debug, thiserror::Error)]
#[error("{what} could not be undone")]
pub struct Failed {
    /// What was to be done.
    pub what: String,
    /// The command that does it by hand.
    pub by_hand: String,
    /// What kept it from being done.
    #[source]
    pub source: Cause,
}

/// The steps to be taken back.
#[derive(Default)]
pub struct Undo(Mutex<Vec<Step>>);

impl Undo {
    /// Notes a step, before it is made. `what` is told if taking it back fails, and `by_hand` is the command for that.
    pub fn note<F>(
        &self,
        what: impl Into<String>,
        by_hand: impl Into<String>,
        act: impl FnOnce() -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), Cause>> + Send + 'static,
    {
        let act: Act = Box::new(move || Box::pin(act()));
        self.steps().push(Step { what: what.into(), by_hand: by_hand.into(), act: Some(act) });
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If there is nothing to be taken back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps().is_empty()
    }

    /// Takes everything back, last first; gives what could not be. A step is on the list until it is done, so that
    /// [`Undo::by_hand`] tells all that is left when this is cut short.
    pub async fn run(&self) -> Vec<Failed> {
        let mut failed = Vec::new();
        while let Some(act) = self.last() {
            let outcome = match act {
                Some(act) => act().await,
                None => Err("it was cut short".into()),
            };
            let Some(Step { what, by_hand, .. }) = self.steps().pop() else { break };
            if let Err(source) = outcome {
                failed.push(Failed { what, by_hand, source });
            }
        }
        failed
    }

    fn last(&self) -> Option<Option<Act>> {
        let mut steps = self.steps();
        let step = steps.last_mut()?;
        info!(step.what, "undoing");
        Some(step.act.take())
    }

    /// The commands that do by hand what is still on the list, in the order in which they are to be given.
    #[must_use]
    pub fn by_hand(&self) -> Vec<String> {
        self.steps().iter().rev().map(|step| step.by_hand.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn steps_are_taken_back_last_first_and_a_failed_one_keeps_no_other_back() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let undo = Undo::default();
        for step in [1, 2, 3] {
            let done = Arc::clone(&done);
            undo.note(format!("step {step}"), format!("command {step}"), move || async move {
                done.lock().unwrap().push(step);
                if step == 2 { Err("no".into()) } else { Ok(()) }
            });
        }
        assert_eq!(undo.by_hand(), ["command 3", "command 2", "command 1"]);
        let failed = undo.run().await;
        assert_eq!(*done.lock().unwrap(), [3, 2, 1]);
        assert_eq!(failed.len(), 1);
        assert_eq!((failed[0].what.as_str(), failed[0].by_hand.as_str()), ("step 2", "command 2"));
        assert!(undo.is_empty() && undo.run().await.is_empty());
    }
}
