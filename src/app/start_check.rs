//! Says what would keep the server from starting on this machine, for `hooktrail check`. Changes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::{ConfigError, LoadedConfig};
use crate::handler;
use crate::store::{self, StartProblem, UnsafeFileSystem};
use crate::web::{self, ListenError};

/// Folders of systemd's unit files.
const UNIT_FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];
const SERVICE: &str = "hooktrail.service";
const SOCKET: &str = "hooktrail.socket";

/// The problems that a start would have.
#[derive(Debug, Default)]
pub struct StartFindings {
    /// The server would exit, or respond 503 until somebody changes it.
    pub errors: Vec<ConfigError>,
    /// The server may start all the same, under its unit.
    pub warnings: Vec<ConfigError>,
    /// This user may not open the database, about which there is an error or a warning.
    pub is_database_denied: bool,
}

/// Which units of systemd are installed. Under them the server has another user, more folders, or sockets
/// that systemd holds.
#[derive(Clone, Copy, Debug)]
struct Units {
    has_service: bool,
    has_socket: bool,
    /// The database belongs to the user who checks, so that the server has no more rights.
    is_own_database: bool,
}

impl Units {
    fn find(database: &Path) -> Self {
        let exists = |name| UNIT_FOLDERS.iter().any(|folder| Path::new(folder).join(name).exists());
        let user = rustix::process::geteuid().as_raw();
        Self {
            has_service: exists(SERVICE),
            has_socket: exists(SOCKET),
            is_own_database: database.metadata().is_ok_and(|found| found.uid() == user),
        }
    }

    /// The unit that may have what the server needs for this address, if one may.
    fn unit_for_listener(self, key: &str, error: &ListenError) -> Option<&'static str> {
        match error {
            ListenError::InUse(_) | ListenError::Denied(_)
                if self.has_socket && key == "server.listen" =>
            {
                Some(SOCKET)
            }
            ListenError::Denied(_) if self.has_service => Some(SERVICE),
            ListenError::InUse(_) | ListenError::Denied(_) | ListenError::Other(_) => None,
        }
    }

    fn unit_for_database(self, problem: &StartProblem) -> Option<&'static str> {
        match problem {
            StartProblem::ThisUser(_) if self.has_service && !self.is_own_database => Some(SERVICE),
            StartProblem::ThisUser(_) | StartProblem::Any(_) => None,
        }
    }
}

/// Checks the listeners and the database. Call it before SQLite opens the database in this process.
pub fn check_start(loaded: &LoadedConfig) -> StartFindings {
    let config = &loaded.config;
    let database = &config.store.path;
    let units = Units::find(database);
    // Opening a FIFO would wait for its other end.
    let is_file = database.metadata().map_or(true, |found| found.is_file());
    let server = if is_file { store::find_lock_holder(database) } else { Ok(None) };
    let mut findings = StartFindings::default();
    let mut add = |key, index, text: &str, unit: Option<&str>| match unit {
        Some(unit) => {
            let text = format!("{text}; {unit} may allow it");
            findings.warnings.push(loaded.error_at(key, index, &text));
        }
        None => findings.errors.push(loaded.error_at(key, index, text)),
    };
    let info = server.as_ref().ok().and_then(|server| server.as_ref()?.info());
    let taken: Vec<String> =
        info.map(|info| [&info.intake[..], &info.admin].concat()).unwrap_or_default();
    // A server may run and not say where it listens: it is still starting, or this user may not read that.
    let is_unknown = info.is_none() && !matches!(server, Ok(None));
    for unavailable in web::find_unavailable(config, &taken) {
        let web::UnavailableAddress { key, index, address, error } = unavailable;
        if !(is_unknown && matches!(error, ListenError::InUse(_))) {
            let text = format!("can't listen on {address}: {error}");
            add(key, index, &text, units.unit_for_listener(key, &error));
        }
    }
    if let Err(problem) = store::check_start(database, !matches!(server, Ok(None))) {
        let (StartProblem::Any(text) | StartProblem::ThisUser(text)) = &problem;
        add("store.path", 0, text, units.unit_for_database(&problem));
        findings.is_database_denied = matches!(problem, StartProblem::ThisUser(_));
    }
    findings.warnings.extend(machine_warnings(loaded));
    findings
}

/// Returns warnings about what will not work on this machine although the server starts, which logs them.
pub(super) fn machine_warnings(loaded: &LoadedConfig) -> Vec<ConfigError> {
    let mut warnings = Vec::new();
    let database = &loaded.config.store.path;
    // A network file system is an error of the start.
    if let Some(found @ UnsafeFileSystem::Unknown(_)) = UnsafeFileSystem::of(database) {
        warnings.push(loaded.error_at("store.path", 0, &found.describe(database)));
    }
    if let Some((handler, problem)) = handler::url::find_root_problem(&loaded.config.handlers) {
        warnings.push(loaded.error_at(&format!("handlers.{}.url", handler.name), 0, &problem));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_unit_may_allow_is_no_error_where_one_is_installed() {
        let text = String::new;
        let (in_use, denied, other) =
            (ListenError::InUse(text()), ListenError::Denied(text()), ListenError::Other(text()));
        let none = Units { has_service: false, has_socket: false, is_own_database: false };
        let service = Units { has_service: true, ..none };
        let socket = Units { has_socket: true, ..service };
        for (units, key, error, unit) in [
            (none, "server.listen", &in_use, None),
            (none, "server.listen", &denied, None),
            (service, "server.listen", &in_use, None),
            (service, "server.listen", &denied, Some(SERVICE)),
            (socket, "server.listen", &in_use, Some(SOCKET)),
            (socket, "admin.listen", &in_use, None),
            (socket, "admin.listen", &denied, Some(SERVICE)),
            (socket, "server.listen", &other, None),
        ] {
            assert_eq!(units.unit_for_listener(key, error), unit, "{units:?} {key} {error:?}");
        }
        let own = Units { is_own_database: true, ..service };
        let (any, this_user) = (StartProblem::Any(text()), StartProblem::ThisUser(text()));
        for (units, problem, unit) in [
            (none, &this_user, None),
            (service, &this_user, Some(SERVICE)),
            (own, &this_user, None),
            (service, &any, None),
        ] {
            assert_eq!(units.unit_for_database(problem), unit, "{units:?} {problem:?}");
        }
    }
}
