//! One client: who it is, and whom its requests go to.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::timeout;

use super::filter::Asked;
use super::routes::{Entry, Routes, Table};
use super::{DIAL, LEAVE, Probed, Refusal, Stream, Visitor};

/// What a connection of TLS begins with (RFC 8446 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

#[derive(Clone, Debug)]
pub(super) struct Visit {
    visitor: Visitor,
    table_rx: watch::Receiver<Table>,
}

impl Visit {
    pub(super) fn new(visitor: Visitor, routes: &Routes) -> Self {
        Self { visitor, table_rx: routes.watch() }
    }

    pub(super) fn choose(&self, asked: &Asked<'_>) -> Arc<Entry> {
        self.table_rx.borrow().choose(asked, self.visitor.probed != Probed::No)
    }

    pub(super) fn rest(&self) -> Arc<Entry> {
        self.table_rx.borrow().rest()
    }

    /// Whose a connection is that begins with these bytes, which are no HTTP.
    pub(super) fn unread(&self, said: &[u8]) -> Arc<Entry> {
        let table = self.table_rx.borrow();
        let is_probe = self.visitor.probed == Probed::ByTls && said.first() == Some(&TLS_HANDSHAKE);
        if is_probe { table.app() } else { table.rest() }
    }

    pub(super) fn knows(&self, entry: &Arc<Entry>) -> bool {
        self.table_rx.borrow().has(entry)
    }

    /// Waits a while for the table to have it no more: a program's connections end before its side says that it is gone.
    pub(super) async fn goes(&self, entry: &Arc<Entry>) -> bool {
        let mut table_rx = self.table_rx.clone();
        let is_app = Arc::ptr_eq(entry, &table_rx.borrow().app());
        !is_app && timeout(LEAVE, gone(&mut table_rx, entry)).await == Ok(true)
    }

    /// Waits for the next change of the table. Cancel safe.
    pub(super) async fn changed(&mut self) {
        if self.table_rx.changed().await.is_err() {
            // Nobody is left who could change it.
            std::future::pending::<()>().await;
        }
    }

    /// A connection to a program; to the next one in question when that one gives the client back or goes meanwhile. Tells
    /// whose it is.
    pub(super) async fn dial(&self, entry: Arc<Entry>) -> io::Result<(Arc<Entry>, Stream)> {
        let mut entry = entry;
        loop {
            let mut table_rx = self.table_rx.clone();
            let dialed = tokio::select! {
                dialed = timeout(DIAL, entry.upstream.connect(self.visitor)) => dialed,
                true = gone(&mut table_rx, &entry) => Ok(Err(Refusal::NotMine)),
            };
            match dialed {
                Ok(Ok(stream)) => return Ok((entry, stream)),
                Ok(Err(Refusal::Failed(error))) => return Err(error),
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(Err(Refusal::NotMine)) => entry = self.after(&entry)?,
            }
        }
    }

    fn after(&self, entry: &Arc<Entry>) -> io::Result<Arc<Entry>> {
        let table = self.table_rx.borrow();
        let (rest, app) = (table.rest(), table.app());
        if Arc::ptr_eq(entry, &app) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(if entry.is_filtered() && !Arc::ptr_eq(entry, &rest) { rest } else { app })
    }
}

/// Waits until the table has it no more; `false` if there will be no other table.
async fn gone(table_rx: &mut watch::Receiver<Table>, entry: &Arc<Entry>) -> bool {
    table_rx.wait_for(|table| !table.has(entry)).await.is_ok()
}
