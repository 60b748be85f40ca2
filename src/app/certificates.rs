//! The certificate of the listener for webhooks, which is loaded again when its files change, and watched as it expires.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;
use crate::config::{self, TlsConfig, ValidityProblem};
use crate::tls::TlsIdentity;
use crate::web::TlsSlot;

/// How often the files are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How often a certificate that expires is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// A certificate of the configuration, with its files as they were before they were read.
pub(super) struct LoadedCertificate {
    pub config: TlsConfig,
    pub identity: TlsIdentity,
    pub stamps: FileStamps,
}

/// The certificate in use.
pub(super) struct Certificates {
    pub slot: Arc<TlsSlot>,
    current: Mutex<Option<Current>>,
    /// The authorities of clients that hold. `None`: there was no certificate yet.
    client_ca: Mutex<Option<Option<Vec<u8>>>>,
}

struct Current {
    config: TlsConfig,
    identity: TlsIdentity,
    /// The files as they were loaded.
    loaded: FileStamps,
    /// The files as they were last seen: one that is being written is loaded when it stays the same.
    seen: FileStamps,
    checked_at: Instant,
    reported_at: Option<Instant>,
    /// Why changed files could not be loaded. They are tried again: another program may still have to give access to them.
    failure: Option<String>,
}

/// What changes when a file is replaced or written: its number, its size and its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileStamps(Vec<Option<(u64, u64, [i64; 4])>>);

impl FileStamps {
    /// Looks at the files. Call it before they are read.
    pub fn of(config: &TlsConfig) -> Self {
        let files = [Some(&config.certificate), Some(&config.key), config.client_ca.as_ref()];
        let stamp = |path: &PathBuf| {
            let found = Path::metadata(path).ok()?;
            let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
            Some((found.ino(), found.size(), times))
        };
        Self(files.into_iter().flatten().map(stamp).collect())
    }
}

impl Certificates {
    pub fn new(loaded: Option<LoadedCertificate>) -> Self {
        let (current, client_ca) = Default::default();
        let certificates = Self { slot: Arc::default(), current, client_ca };
        certificates.set(loaded);
        certificates
    }

    /// Uses another certificate from the next connection on. `None`: only listeners that are closing use it still.
    pub fn set(&self, loaded: Option<LoadedCertificate>) {
        let mut current = self.current.lock();
        *current = loaded.map(|LoadedCertificate { config, identity, stamps }| {
            self.publish(&identity);
            let (loaded, seen, checked_at) = (stamps.clone(), stamps, Instant::now());
            let (reported_at, failure) = (None, None);
            Current { config, identity, loaded, seen, checked_at, reported_at, failure }
        });
    }

    fn publish(&self, identity: &TlsIdentity) {
        let mut client_ca = self.client_ca.lock();
        let before = client_ca.replace(identity.client_ca.clone());
        let has_other_authorities = before.is_some_and(|before| before != identity.client_ca);
        self.slot.set(Arc::clone(&identity.config), has_other_authorities);
    }

    /// Loads the files again if they have changed. Returns what to report about a certificate that expires.
    pub fn tick(&self) -> Option<String> {
        let mut current = self.current.lock();
        let current = current.as_mut()?;
        if current.checked_at.elapsed() < CHECK_INTERVAL {
            return None;
        }
        current.checked_at = Instant::now();
        let stamps = FileStamps::of(&current.config);
        if stamps != current.loaded && stamps == current.seen {
            match load(&current.config) {
                Ok(identity) => {
                    log::info!("server.tls: loaded {} again", current.config.certificate.display());
                    self.publish(&identity);
                    current.loaded = stamps.clone();
                    (current.identity, current.reported_at, current.failure) =
                        (identity, None, None);
                }
                Err(text) if current.failure.as_ref() != Some(&text) => {
                    log::error!("server.tls: {text}: the old certificate stays in use");
                    current.failure = Some(text);
                }
                Err(_) => {}
            }
        }
        current.seen = stamps;
        let now_ms = clock::wall_ms();
        let problem = config::validity_problem(&current.config, &current.identity, now_ms)?;
        if current.reported_at.is_some_and(|at| at.elapsed() < REPORT_INTERVAL) {
            return None;
        }
        current.reported_at = Some(Instant::now());
        let (ValidityProblem::Invalid(text) | ValidityProblem::Expiring(text)) = problem;
        log::warn!("server.tls: {text}");
        Some(text)
    }
}

/// Reads the files, and rejects a certificate that is not valid now.
fn load(config: &TlsConfig) -> Result<TlsIdentity, String> {
    let identity = config::load_files(config).map_err(|e| e.to_string())?;
    match config::validity_problem(config, &identity, clock::wall_ms()) {
        Some(ValidityProblem::Invalid(text)) => Err(text),
        Some(ValidityProblem::Expiring(_)) | None => Ok(identity),
    }
}
