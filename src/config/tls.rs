//! Reads the files of `server.tls`, and says what is wrong with them.

use super::error::{ConfigError, ConfigErrors};
use super::{LoadedConfig, TlsConfig};
use crate::clock;
use crate::tls::{self, TlsError, TlsFiles, TlsIdentity};

/// How long before its end a certificate should have been renewed.
pub const RENEWAL_MS: i64 = 14 * 24 * 3_600_000;

/// Reads the certificate, its key and the authorities of senders. `None`: there is no `server.tls`.
///
/// # Errors
/// A file that can't be used, with the line of config.toml.
pub fn read_tls(loaded: &LoadedConfig) -> Result<Option<TlsIdentity>, ConfigErrors> {
    let Some(config) = &loaded.config.server.tls else { return Ok(None) };
    let error = |e: TlsError| ConfigErrors(vec![error_of(loaded, &e)]);
    load_files(config).map(Some).map_err(error)
}

/// Like [`read_tls`], without the line.
///
/// # Errors
/// A file that can't be used.
pub fn load_files(config: &TlsConfig) -> Result<TlsIdentity, TlsError> {
    let TlsConfig { certificate, key, client_ca } = config;
    tls::load(TlsFiles { certificate, key, client_ca: client_ca.as_deref() })
}

fn error_of(loaded: &LoadedConfig, error: &TlsError) -> ConfigError {
    loaded.error_at(&format!("server.tls.{}", error.key), 0, &error.text)
}

/// Checks the files for `check`: returns errors, and warnings. A file that this user may not read may be readable for the
/// server's user.
pub fn check_tls(loaded: &LoadedConfig) -> (Vec<ConfigError>, Vec<ConfigError>) {
    let Some(config) = &loaded.config.server.tls else { return Default::default() };
    match load_files(config) {
        Ok(identity) => match validity_problem(config, &identity, clock::wall_ms()) {
            Some(ValidityProblem::Invalid(text)) => (vec![at_certificate(loaded, &text)], vec![]),
            Some(ValidityProblem::Expiring(text)) => (vec![], vec![at_certificate(loaded, &text)]),
            None => Default::default(),
        },
        Err(error) if error.is_denied => (vec![], vec![error_of(loaded, &error)]),
        Err(error) => (vec![error_of(loaded, &error)], vec![]),
    }
}

/// Makes an error about the certificate.
pub fn at_certificate(loaded: &LoadedConfig, text: &str) -> ConfigError {
    loaded.error_at("server.tls.certificate", 0, text)
}

/// What is wrong with the time of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValidityProblem {
    /// It has expired, or is not valid yet. Senders reject it.
    Invalid(String),
    /// It expires soon.
    Expiring(String),
}

/// Compares a certificate's time with the clock.
pub fn validity_problem(
    config: &TlsConfig,
    identity: &TlsIdentity,
    now_ms: i64,
) -> Option<ValidityProblem> {
    let file = config.certificate.display();
    let day = |ms| clock::format_rfc3339(ms).chars().take(10).collect::<String>();
    let (from, until) = (identity.valid_from_ms, identity.valid_until_ms);
    if now_ms < from {
        let text =
            format!("{file} is not valid before {}: check the clock, or the file", day(from));
        return Some(ValidityProblem::Invalid(text));
    }
    if now_ms >= until {
        let text = format!("{file} expired on {}: senders reject it: renew it", day(until));
        return Some(ValidityProblem::Invalid(text));
    }
    (now_ms >= until - RENEWAL_MS).then(|| {
        let days = (until - now_ms) / (24 * 3_600_000);
        let text = format!("{file} expires on {}, in {days} days: renew it", day(until));
        ValidityProblem::Expiring(text)
    })
}
