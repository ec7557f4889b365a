//! Who has a share in a port, as it is at this moment.

use std::sync::Arc;

use tokio::sync::watch;

use super::Upstream;
use super::filter::Asked;
use crate::expose::wire::Filter;

/// One program. Connections know it by its place in memory.
#[derive(Debug)]
pub(super) struct Entry {
    /// What it wants; `None`: all that nobody else wants.
    filter: Option<Filter>,
    pub(super) upstream: Arc<dyn Upstream>,
}

impl Entry {
    /// Others' requests are none of it.
    pub(super) const fn is_filtered(&self) -> bool {
        self.filter.is_some()
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// In the order in which they came.
    entries: Vec<Arc<Entry>>,
    app: Arc<Entry>,
}

impl Table {
    /// Who gets a request.
    pub(super) fn choose(&self, asked: &Asked<'_>, kubelet: bool) -> Arc<Entry> {
        if kubelet && asked.is_probe() {
            return self.app.clone();
        }
        let wants = |entry: &&Arc<Entry>| entry.filter.as_ref().is_some_and(|filter| asked.matches(filter));
        self.entries.iter().find(wants).cloned().unwrap_or_else(|| self.rest())
    }

    /// Who gets what no filter wants.
    pub(super) fn rest(&self) -> Arc<Entry> {
        self.entries.iter().find(|entry| !entry.is_filtered()).unwrap_or(&self.app).clone()
    }

    pub(super) fn app(&self) -> Arc<Entry> {
        self.app.clone()
    }

    pub(super) fn has(&self, entry: &Arc<Entry>) -> bool {
        Arc::ptr_eq(&self.app, entry) || self.entries.iter().any(|known| Arc::ptr_eq(known, entry))
    }
}

/// Who gets which request of a port. A change holds for the next request of each connection. Clones are the same table.
#[derive(Clone, Debug)]
pub struct Routes {
    table_tx: Arc<watch::Sender<Table>>,
}

impl Routes {
    /// Everything goes to the app.
    #[must_use]
    pub fn new(app: Arc<dyn Upstream>) -> Self {
        let app = Arc::new(Entry { filter: None, upstream: app });
        Self { table_tx: Arc::new(watch::Sender::new(Table { entries: Vec::new(), app })) }
    }

    /// What the filter wants and no earlier one goes there, until the registration is dropped; without a filter, all
    /// that none wants.
    #[must_use]
    pub fn add(&self, filter: Option<Filter>, upstream: Arc<dyn Upstream>) -> Registration {
        let entry = Arc::new(Entry { filter, upstream });
        self.table_tx.send_modify(|table| table.entries.push(entry.clone()));
        Registration { routes: self.clone(), entry }
    }

    /// There is a filter, so that requests have to be looked at.
    #[must_use]
    pub fn filtered(&self) -> bool {
        self.table_tx.borrow().entries.iter().any(|entry| entry.is_filtered())
    }

    pub(super) fn watch(&self) -> watch::Receiver<Table> {
        self.table_tx.subscribe()
    }
}

/// A program's share in a port, for as long as this is kept.
#[derive(Debug)]
pub struct Registration {
    routes: Routes,
    entry: Arc<Entry>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.routes.table_tx.send_modify(|table| {
            table.entries.retain(|entry| !Arc::ptr_eq(entry, &self.entry));
        });
    }
}
