//! The listeners of both servers, which a reload may change.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::admin::AdminServer;
use crate::config::Config;
use crate::web::{HttpServer, ListenAddresses, STOP_LIMIT, Sockets};

/// How long a reload waits for an address that a reload before has not closed yet.
const CLOSING_WAIT: Duration = Duration::from_secs(2);

/// Both servers, and the sockets of their listeners.
pub(super) struct Listeners {
    pub intake: Arc<HttpServer>,
    pub admin: AdminServer,
    sockets: Mutex<Sockets>,
}

impl Listeners {
    /// Begins to accept connections.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn open(intake: Arc<HttpServer>, admin: AdminServer, sockets: Sockets) -> io::Result<Self> {
        let served = sockets.try_clone()?;
        intake.set_listeners(served.intake);
        admin.set_listeners(served.admin);
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
        let started_at = Instant::now();
        loop {
            let bound = self.sockets.lock().rebind(config);
            match bound {
                Ok(next) => {
                    let sockets = Some((next.try_clone()?, next));
                    return Ok(Rebound { listeners: self, sockets });
                }
                Err(error) if !self.is_closing() || started_at.elapsed() >= CLOSING_WAIT => {
                    return Err(error);
                }
                Err(_) => {}
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_closing(&self) -> bool {
        self.intake.has_closing_sockets() || self.admin.has_closing_sockets()
    }

    /// Closes all listeners. Each webhook that was sent gets its response.
    pub fn stop(self) {
        let leaves_queue = self.sockets.lock().are_kept();
        // The servers have the last duplicates, so that nothing comes into the queue of a closed one.
        drop(self.sockets);
        self.admin.stop(leaves_queue);
        self.intake.stop(STOP_LIMIT, leaves_queue);
    }
}

/// The sockets that a reload needs: those that are open, and new ones. If they are dropped, nothing has changed.
pub(super) struct Rebound<'a> {
    listeners: &'a Listeners,
    /// Duplicates to serve, and to keep.
    sockets: Option<(Sockets, Sockets)>,
}

impl Rebound<'_> {
    /// Serves these listeners. Returns the addresses.
    pub fn apply(mut self) -> ListenAddresses {
        let Some((served, kept)) = self.sockets.take() else { return self.listeners.addresses() };
        let mut sockets = self.listeners.sockets.lock();
        sockets.remove_stored_unlike(&kept);
        kept.store();
        let (old, new) = (ListenAddresses::of(&sockets), ListenAddresses::of(&kept));
        *sockets = kept;
        self.listeners.intake.set_listeners(served.intake);
        self.listeners.admin.set_listeners(served.admin);
        for address in new.all().filter(|address| !old.all().any(|old| old == *address)) {
            log::info!("listening on {address}");
        }
        for address in old.all().filter(|address| !new.all().any(|new| new == *address)) {
            log::info!("no longer listening on {address}");
        }
        new
    }
}

impl Drop for Rebound<'_> {
    fn drop(&mut self) {
        if let Some((next, _)) = &self.sockets {
            next.remove_files_unlike(&self.listeners.sockets.lock());
        }
    }
}
