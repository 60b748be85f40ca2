//! References to secrets, and the reading of secrets.
//!
//! A secret never stands in config.toml, and loading config.toml reads none. [`read_secrets`] reads
//! them for the commands that need them. It reports each one that it can't read with file and line.
//! No error and no Debug output shows any part of a secret.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::ConfigError;
use super::parse;
use super::toml_reader::TomlValue;
use super::{Config, LoadedConfig, SecretRef, SecretReference};
use crate::verify::{Scheme, SecretFormat};

const SECRET_EXPECTED: &str =
    r#"expected { env = "NAME" }, { file = "path" } or { credential = "name" }"#;
/// Far beyond any key or certificate; it stops at a device or log given by mistake.
const MAX_SECRET_BYTES: usize = 1 << 20;

/// The secrets that were read, by their references.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(HashMap<SecretRef, Vec<u8>>);

impl Secrets {
    /// The bytes of a secret, if it could be read.
    pub fn get(&self, secret: &SecretRef) -> Option<&[u8]> {
        self.0.get(secret).map(Vec::as_slice)
    }

    /// The bytes of those of `references` that could be read, in that order.
    pub fn resolve<'s>(&'s self, references: &'s [SecretRef]) -> impl Iterator<Item = &'s [u8]> {
        references.iter().filter_map(|secret| self.get(secret))
    }

    /// Every text by which a request may reveal a secret of `config`: the secrets themselves, the
    /// credentials of `basic` (RFC 7617), and the keys of Standard Webhooks without their prefixes.
    pub fn texts_to_redact(&self, config: &Config) -> Vec<Vec<u8>> {
        let mut texts: Vec<Vec<u8>> = self.0.values().cloned().collect();
        for verify in config.sources.iter().map(|source| &source.verify) {
            for secret in self.resolve(&verify.secret) {
                match &verify.scheme {
                    Scheme::Basic { user } => {
                        let pair = [user.as_bytes(), b":", secret].concat();
                        texts.push(STANDARD.encode(pair).into_bytes());
                    }
                    Scheme::Preset(sender, _)
                        if sender.secret == SecretFormat::StandardVerifier =>
                    {
                        let keys = secret.split(|&byte| byte == b'|');
                        texts.extend(keys.map(|key| without_prefix(key).to_vec()));
                    }
                    _ => {}
                }
            }
        }
        let of_sources = config.sources.iter().filter_map(|source| Some(&source.consumer()?.nats));
        let of_handlers =
            config.handlers.iter().filter_map(|handler| Some(&handler.jetstream()?.nats));
        let credentials =
            of_sources.chain(of_handlers).filter_map(|nats| nats.credentials.as_ref());
        for secret in credentials.filter_map(|secret| self.get(secret)) {
            // The parts of `user:password`, and the lines of a `.creds` file.
            let password = secret.iter().position(|&byte| byte == b':').map(|at| &secret[at + 1..]);
            let lines = secret.split(|&byte| byte == b'\n').filter(|line| line.len() > 40);
            texts.extend(password.into_iter().chain(lines).map(|part| part.trim_ascii().to_vec()));
        }
        texts
    }

    /// Adds a secret from elsewhere, for tests.
    pub fn insert(&mut self, secret: SecretRef, bytes: Vec<u8>) {
        self.0.insert(secret, bytes);
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} of them)", self.0.len())
    }
}

/// The base64 of a Standard Webhooks key: `v1,whsec_…`.
fn without_prefix(key: &[u8]) -> &[u8] {
    let key = key.strip_prefix(b"v1,").unwrap_or(key);
    let private = key.strip_prefix(b"whsec_");
    private.or_else(|| key.strip_prefix(b"whpk_")).unwrap_or(key)
}

/// Warnings about secrets that probably contain a mistake. None shows the secret.
pub fn secret_warnings(loaded: &LoadedConfig, secrets: &Secrets) -> Vec<ConfigError> {
    let warning = |reference: &SecretReference| {
        Some(reference.error(reference.format.find_mistake(secrets.get(&reference.secret)?)?))
    };
    loaded.secrets.iter().filter_map(warning).collect()
}

/// Returns the secrets that no server could use, and those that the server may be able to read
/// although this process can't: a variable or credential that its unit sets, or a file that this
/// user may not read.
pub fn check_secrets(loaded: &LoadedConfig) -> (Vec<ConfigError>, Vec<ConfigError>) {
    let (mut errors, mut here_only) = (Vec::new(), Vec::new());
    for reference in &loaded.secrets {
        match reference.secret.read() {
            Ok(bytes) => errors
                .extend(reference.format.find_error(&bytes).map(|reason| reference.error(&reason))),
            Err(SecretError::Everywhere(reason)) => errors.push(reference.error(&reason)),
            Err(SecretError::HereOnly(reason)) => here_only.push(reference.error(&reason)),
        }
    }
    (errors, here_only)
}

/// Reads all secrets, and returns an error for each one that can't be read or used.
pub fn read_secrets(loaded: &LoadedConfig) -> (Secrets, Vec<ConfigError>) {
    read_secrets_under(loaded, "")
}

/// Like [`read_secrets`], for one part alone, such as `handlers.crm`.
pub fn read_secrets_under(loaded: &LoadedConfig, part: &str) -> (Secrets, Vec<ConfigError>) {
    let (mut found, mut errors) = (Secrets::default(), Vec::new());
    let is_under = |key: &str| {
        let rest = key.strip_prefix(part);
        part.is_empty() || rest.is_some_and(|rest| rest.starts_with('.'))
    };
    for reference in loaded.secrets.iter().filter(|reference| is_under(&reference.key)) {
        let bytes = match found.get(&reference.secret) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => reference.secret.read(),
        };
        match bytes {
            Ok(bytes) => match reference.format.find_error(&bytes) {
                Some(reason) => errors.push(reference.error(&reason)),
                None => found.insert(reference.secret.clone(), bytes),
            },
            Err(SecretError::Everywhere(reason) | SecretError::HereOnly(reason)) => {
                errors.push(reference.error(&reason));
            }
        }
    }
    (found, errors)
}

impl SecretReference {
    fn error(&self, reason: &str) -> ConfigError {
        let text = format!("{}: {} {reason}", self.key, self.secret);
        ConfigError { file: self.file.clone(), line: Some(self.line), text }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

/// Why a secret can't be read, and the remedy.
enum SecretError {
    /// It can't be read wherever the server starts.
    Everywhere(String),
    /// This user can't read it in this environment; the server may.
    HereOnly(String),
}

impl SecretRef {
    /// Reads the secret, without one trailing newline.
    fn read(&self) -> Result<Vec<u8>, SecretError> {
        let here_only = |reason: String| SecretError::HereOnly(reason);
        let mut bytes = match self {
            Self::Env(name) => {
                std::env::var_os(name).map(OsStringExt::into_vec).ok_or_else(|| {
                    here_only("is not set: set it where hooktrail is started".to_owned())
                })?
            }
            Self::File(path) => read_file(path)?,
            Self::Credential(name) => {
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    here_only(format!(
                        "needs CREDENTIALS_DIRECTORY: systemd sets it for \
                         LoadCredential={name}:/path"
                    ))
                })?;
                read_file(&Path::new(&folder).join(name)).map_err(|unread| match unread {
                    SecretError::Everywhere(reason) | SecretError::HereOnly(reason) => {
                        here_only(reason)
                    }
                })?
            }
        };
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        match bytes.is_empty() {
            true => Err(SecretError::Everywhere("is empty: put the secret there".to_owned())),
            false => Ok(bytes),
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, SecretError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let reason = format!("can't be read: {error}: it must exist and be readable");
            match error.kind() {
                ErrorKind::PermissionDenied => SecretError::HereOnly(reason),
                _ => SecretError::Everywhere(reason),
            }
        })?;
    if bytes.len() > MAX_SECRET_BYTES {
        let reason = format!("is larger than {MAX_SECRET_BYTES} bytes: expected one secret");
        return Err(SecretError::Everywhere(reason));
    }
    Ok(bytes)
}

/// Parses one reference or a list of them; any of the secrets is valid.
pub(super) fn parse_list(
    value: &TomlValue<'_>,
    folder: &Path,
    format: SecretFormat,
) -> Vec<SecretRef> {
    if !value.is_list() {
        return parse_one(value, folder, format).into_iter().collect();
    }
    let items = value.list(SECRET_EXPECTED).unwrap_or_default();
    if items.is_empty() {
        value.error(format!("is []: {SECRET_EXPECTED}"));
    }
    items.iter().filter_map(|item| parse_one(item, folder, format)).collect()
}

/// Parses one reference to a secret. No error shows any other value, which may be the secret
/// itself.
pub(super) fn parse_one(
    value: &TomlValue<'_>,
    folder: &Path,
    format: SecretFormat,
) -> Option<SecretRef> {
    if !value.is_table() {
        return value.invalid_redacted(SECRET_EXPECTED);
    }
    let table = value.table(SECRET_EXPECTED)?;
    let given: Vec<_> = ["env", "file", "credential"]
        .into_iter()
        .filter_map(|key| Some((key, table.get(key)?)))
        .collect();
    let is_empty = table.entries_in_order().is_empty();
    table.reject_unknown();
    if is_empty || given.len() > 1 {
        return value.invalid_redacted(SECRET_EXPECTED);
    }
    let (key, place) = given.first()?;
    let text = place.raw_text().filter(|text| !text.is_empty() && !text.contains('\0'));
    let secret = match (*key, text) {
        (_, None) => return place.invalid_redacted(SECRET_EXPECTED),
        ("env", Some(name)) if name.contains('=') => {
            return place.invalid_redacted("expected the name of an environment variable");
        }
        ("env", Some(name)) => SecretRef::Env(name.to_owned()),
        ("file", Some(path)) => SecretRef::File(parse::resolve_path(path, folder)),
        (_, Some(name)) if name.contains('/') || matches!(name, "." | "..") => {
            let remedy = "expected the name of a credential, without a slash";
            return place.invalid_redacted(remedy);
        }
        (_, Some(name)) => SecretRef::Credential(name.to_owned()),
    };
    value.log.add_secret(SecretReference {
        file: value.log.file_name(value.at),
        line: value.at.line,
        key: value.key.clone(),
        secret: secret.clone(),
        format,
    });
    Some(secret)
}
