//! What a run made or changed in the cluster, each with how it is taken back.
//!
//! Kubernetes has no transactions, and a run can end between any two calls: by an error, by a signal, by its command's
//! end. So a step is noted *before* the call that makes it necessary, must be harmless if that call never came to anything,
//! and they are taken back last first. One that fails does not keep the others from being tried: it is told, with the
//! command that does it by hand.
//!
//! A request whose sender has gone may still be carried out. So nobody who changes the cluster is just dropped: a change
//! that was begun goes on to its end ([`Undo::change`]), and nothing is taken back before all has ended.

use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::info;

/// Why a step could not be taken back.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

type Act = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(), Cause>> + Send>> + Send>;

/// A step that was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted(u64);

struct Step {
    noted: Noted,
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

#[derive(Default)]
struct Steps {
    list: Vec<Step>,
    next: u64,
}

/// The steps to be taken back.
#[derive(Default)]
pub struct Undo {
    steps: Mutex<Steps>,
    /// All who may change the cluster.
    tasks: TaskTracker,
}

impl Undo {
    /// Notes a step, before it is made. `what` is told if taking it back fails, and `by_hand` is the command for that.
    pub fn note<F>(
        &self,
        what: impl Into<String>,
        by_hand: impl Into<String>,
        act: impl FnOnce() -> F + Send + 'static,
    ) -> Noted
    where
        F: Future<Output = Result<(), Cause>> + Send + 'static,
    {
        let act: Act = Box::new(move || Box::pin(act()));
        let mut steps = self.steps();
        let noted = Noted(steps.next);
        steps.next += 1;
        steps.list.push(Step { noted, what: what.into(), by_hand: by_hand.into(), act: Some(act) });
        noted
    }

    /// Strikes a step off that was taken back already.
    pub fn forget(&self, noted: Noted) {
        self.steps().list.retain(|step| step.noted != noted);
    }

    /// Starts a task that may change the cluster. Whoever aborts it need not wait for its end: [`Undo::run`] does.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn(task)
    }

    /// Makes a change to its end, also if this is dropped meanwhile.
    pub async fn change<T: Send + 'static>(&self, change: impl Future<Output = T> + Send + 'static) -> T {
        match self.tasks.spawn(change).await {
            Ok(changed) => changed,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime ends, and with it whoever waits.
                Err(_cancelled) => pending().await,
            },
        }
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If there is nothing to be taken back, and nobody who could still change anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.steps().list.is_empty()
    }

    /// Takes everything back, last first, when nobody changes anything any more; gives what could not be. A step is on the
    /// list until it is done, so that [`Undo::by_hand`] tells all that is left when this is cut short.
    pub async fn run(&self) -> Vec<Failed> {
        self.tasks.close();
        self.tasks.wait().await;
        let mut failed = Vec::new();
        while let Some((noted, act)) = self.last() {
            let outcome = match act {
                Some(act) => act().await,
                None => Err("it was cut short".into()),
            };
            let done = self.steps().list.extract_if(.., |step| step.noted == noted).next();
            if let (Err(source), Some(Step { what, by_hand, .. })) = (outcome, done) {
                failed.push(Failed { what, by_hand, source });
            }
        }
        failed
    }

    fn last(&self) -> Option<(Noted, Option<Act>)> {
        let mut steps = self.steps();
        let step = steps.list.last_mut()?;
        info!(step.what, "undoing");
        Some((step.noted, step.act.take()))
    }

    /// The commands that do by hand what is still on the list, in the order in which they are to be given.
    #[must_use]
    pub fn by_hand(&self) -> Vec<String> {
        self.steps().list.iter().rev().map(|step| step.by_hand.clone()).collect()
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

    #[tokio::test]
    async fn a_change_that_was_begun_ends_before_it_is_taken_back_and_what_is_forgotten_is_not() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let undo = Arc::new(Undo::default());
        let record = |what: &'static str| {
            let order = Arc::clone(&order);
            move || order.lock().unwrap().push(what)
        };
        let (first, second, changed) = (record("first"), record("second"), record("changed"));
        let forgotten = undo.note("", "", || async move {
            first();
            Ok(())
        });
        undo.note("", "", || async move {
            second();
            Ok(())
        });
        let (begun_tx, begun_rx) = tokio::sync::oneshot::channel();
        let changing = Arc::clone(&undo);
        let task = undo.spawn(async move {
            let change = async move {
                let _ = begun_tx.send(());
                tokio::task::yield_now().await;
                changed();
            };
            changing.change(change).await;
            pending::<()>().await;
        });
        begun_rx.await.unwrap();
        task.abort();
        undo.forget(forgotten);
        assert!(undo.run().await.is_empty());
        assert_eq!(*order.lock().unwrap(), ["changed", "second"]);
    }
}
