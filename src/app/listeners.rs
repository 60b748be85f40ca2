//! The listeners of both servers, which a reload may change.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::admin::AdminServer;
use crate::config::Config;
use crate::web::{ListenAddresses, STOP_LIMIT, Server, Sockets};

/// Both servers, and the sockets of their listeners.
pub(super) struct Listeners {
    pub intake: Arc<Server>,
    pub admin: AdminServer,
    sockets: Mutex<Sockets>,
}

impl Listeners {
    /// Begins to accept connections.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn open(intake: Arc<Server>, admin: AdminServer, sockets: Sockets) -> anyhow::Result<Self> {
        serve(&intake, &admin, &sockets)?;
        Ok(Self { intake, admin, sockets: Mutex::new(sockets) })
    }

    pub fn addresses(&self) -> ListenAddresses {
        ListenAddresses::of(&self.sockets.lock())
    }

    /// Binds the addresses of a new configuration that are not bound yet.
    ///
    /// # Errors
    /// An address that is not available, with the reason.
    pub fn rebind(&self, config: &Config) -> anyhow::Result<Rebound<'_>> {
        let next = self.sockets.lock().rebind(config)?;
        Ok(Rebound { listeners: self, next: Some(next) })
    }

    /// Closes all listeners. Each webhook that was sent gets its response.
    pub fn stop(self) {
        self.admin.stop();
        self.intake.stop(STOP_LIMIT);
    }
}

fn serve(intake: &Arc<Server>, admin: &AdminServer, sockets: &Sockets) -> anyhow::Result<()> {
    let Sockets { intake: of_intake, admin: of_admin, .. } = sockets.try_clone()?;
    intake.set_listeners(of_intake)?;
    admin.set_listeners(of_admin)
}

/// Sockets that a reload has bound. If they are dropped, nothing has changed.
pub(super) struct Rebound<'a> {
    listeners: &'a Listeners,
    next: Option<Sockets>,
}

impl Rebound<'_> {
    /// Serves these listeners. Returns the addresses.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn apply(mut self) -> anyhow::Result<ListenAddresses> {
        let Some(next) = self.next.take() else { return Ok(self.listeners.addresses()) };
        let mut sockets = self.listeners.sockets.lock();
        serve(&self.listeners.intake, &self.listeners.admin, &next)?;
        next.store();
        sockets.remove_stored_unlike(&next);
        let (old, new) = (ListenAddresses::of(&sockets), ListenAddresses::of(&next));
        for address in new.all().filter(|address| !old.all().any(|old| old == *address)) {
            log::info!("listening on {address}");
        }
        for address in old.all().filter(|address| !new.all().any(|new| new == *address)) {
            log::info!("no longer listening on {address}");
        }
        *sockets = next;
        Ok(new)
    }
}

impl Drop for Rebound<'_> {
    fn drop(&mut self) {
        if let Some(next) = &self.next {
            next.remove_files_unlike(&self.listeners.sockets.lock());
        }
    }
}
