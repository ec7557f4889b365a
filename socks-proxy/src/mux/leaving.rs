//! Streams whose user is gone: it has said all, and reads nothing more, as a program that has closed its socket.
//!
//! Nobody waits for their ends, and each would cost a message of its own through all that a link goes through. So an end waits a
//! moment for something else that leaves, which for a program that makes one connection after the other is its next one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};

use tokio_util::task::TaskTracker;

use super::MuxStream;

/// How long an end waits for company.
const MOMENT: Duration = Duration::from_millis(1);

/// Those of one session that have not been told to the other side yet.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    streams: Mutex<Vec<MuxStream>>,
    /// Ends that wait for room in a window.
    ending: TaskTracker,
}

impl Leaving {
    /// Ends a stream soon.
    pub(super) fn add(self: &Arc<Self>, stream: MuxStream) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.push(stream);
        if streams.len() == 1 {
            let leaving = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(MOMENT).await;
                leaving.dismiss();
            });
        }
    }

    /// Ends those that wait now.
    pub(super) fn dismiss(&self) {
        let streams = std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner));
        streams.into_iter().for_each(|stream| self.end(stream));
    }

    /// The same, and waits until all of them are said.
    pub(super) async fn dismissed(&self) {
        self.dismiss();
        self.ending.close();
        self.ending.wait().await;
        self.ending.reopen();
    }

    /// Says the end behind what has been written, and drops the stream, which resets what the peer still says.
    fn end(&self, mut stream: MuxStream) {
        let mut cx = Context::from_waker(Waker::noop());
        if Pin::new(&mut stream).poll_shutdown(&mut cx).is_pending() {
            // Its window is full.
            self.ending.spawn(async move { drop(stream.shutdown().await) });
        }
    }
}
