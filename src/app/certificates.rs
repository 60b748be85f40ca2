//! The certificate of the listener for webhooks, which is loaded again when its files change, and watched as it expires.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
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

/// The certificate in use.
pub(super) struct Certificates {
    pub slot: TlsSlot,
    current: Mutex<Option<Current>>,
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
}

/// What changes when a file is replaced or written: its number, its size and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileStamps(Vec<Option<(u64, u64, i64, i64)>>);

impl FileStamps {
    fn of(config: &TlsConfig) -> Self {
        let files = [Some(&config.certificate), Some(&config.key), config.client_ca.as_ref()];
        let stamp = |path: &PathBuf| {
            let found = Path::metadata(path).ok()?;
            Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
        };
        Self(files.into_iter().flatten().map(stamp).collect())
    }
}

impl Certificates {
    pub fn new(config: Option<&TlsConfig>, identity: Option<TlsIdentity>) -> Self {
        let certificates = Self { slot: TlsSlot::default(), current: Mutex::default() };
        certificates.set(config, identity);
        certificates
    }

    /// Uses another certificate from the next connection on.
    pub fn set(&self, config: Option<&TlsConfig>, identity: Option<TlsIdentity>) {
        let mut current = self.current.lock();
        self.slot.store(identity.as_ref().map(|identity| identity.config.clone()));
        *current = config.zip(identity).map(|(config, identity)| {
            let stamps = FileStamps::of(config);
            let config = config.clone();
            let (loaded, seen, checked_at) = (stamps.clone(), stamps, Instant::now());
            Current { config, identity, loaded, seen, checked_at, reported_at: None }
        });
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
            current.loaded = stamps.clone();
            match load(&current.config) {
                Ok(identity) => {
                    log::info!("server.tls: loaded {} again", current.config.certificate.display());
                    self.slot.store(Some(identity.config.clone()));
                    (current.identity, current.reported_at) = (identity, None);
                }
                Err(text) => log::error!("server.tls: {text}: the old certificate stays in use"),
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
