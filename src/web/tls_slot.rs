//! The certificate of listeners with TLS, which changes while they run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;

/// What the next handshake uses.
#[derive(Debug, Default)]
pub struct TlsSlot {
    config: ArcSwapOption<ServerConfig>,
    /// Counts the changes of the authorities of clients.
    authorities: AtomicU64,
}

impl TlsSlot {
    /// Changes the certificate. `has_other_authorities`: what clients have shown before is not valid any more.
    pub fn set(&self, config: Arc<ServerConfig>, has_other_authorities: bool) {
        self.config.store(Some(config));
        // After the configuration: a handshake in between counts as one of before.
        if has_other_authorities {
            self.authorities.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Returns the settings for a handshake, and the number of their authorities.
    pub fn load(&self) -> Option<(Arc<ServerConfig>, u64)> {
        let authorities = self.authorities.load(Ordering::SeqCst);
        Some((self.config.load_full()?, authorities))
    }

    /// Whether the authorities have changed since this number.
    pub fn has_other_authorities(&self, number: u64) -> bool {
        self.authorities.load(Ordering::SeqCst) != number
    }
}
