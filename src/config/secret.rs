//! Secrets: where they are to be had, and having them.
//!
//! A secret never stands in config.toml, and none is read while config.toml is: `secrets` reads
//! them for the commands that need them, and says with file and line which it could not have. No
//! fault and no Debug output shows any part of one.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::STANDARD as STANDARD_BASE64;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::error::ConfigError;
use super::key_material;
use super::parse;
use super::toml_reader::{TomlTable, TomlValue};
use super::{Config, LoadedConfig, SecretRef};

const FORMS: &str = r#"expected { env = "NAME" }, { file = "path" } or { credential = "name" }"#;
/// No key or certificate comes near; a device or a log given by mistake does.
const SECRET_BYTES_MAX: usize = 1 << 20;

/// A place in config.toml where a secret is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretReference {
    pub file: PathBuf,
    pub line: usize,
    /// `sources.paminga.verify.secret`
    pub key: String,
    pub secret: SecretRef,
    pub format: SecretFormat,
}

/// What is made of a secret, and so what it can't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretFormat {
    /// Whatever it is, it is used as it is.
    Bytes,
    /// What follows `Bearer` in a header.
    BearerToken,
    /// A variable of a handler's environment.
    Variable,
    /// A header's value.
    Header,
    /// The key of a signature by Standard Webhooks.
    StandardKey,
    /// That, or a public key of the same standard.
    StandardVerifier,
    /// An Ed25519 public key in hex.
    Ed25519Key,
    /// An ECDSA P-256 public key, base64.
    P256Key,
    /// Certificates with RSA keys, PEM.
    Certificates,
}

impl SecretFormat {
    fn validate(self, bytes: &[u8]) -> Option<String> {
        // RFC 9110 section 5.5.
        let control = |b: &u8| (*b < 0x20 && *b != b'\t') || *b == 0x7f;
        match self {
            Self::Variable if bytes.contains(&0) => Some("has a NUL: expected text".to_owned()),
            Self::Header if bytes.iter().any(control) => {
                Some("has a line break or the like: expected one line of text".to_owned())
            }
            Self::Bytes | Self::BearerToken | Self::Variable | Self::Header => None,
            Self::StandardKey => parse_shared_standard_key(bytes).err(),
            Self::StandardVerifier => key_material::parse_standard_keys(bytes).err(),
            Self::Ed25519Key => key_material::parse_ed25519_hex(bytes).err(),
            Self::P256Key => key_material::parse_p256(bytes).err(),
            Self::Certificates => key_material::parse_certificates(bytes).err(),
        }
    }
}

impl SecretFormat {
    /// What a text may have by mistake, so that nothing that is right fits it.
    fn suspicion(self, bytes: &[u8]) -> Option<&'static str> {
        let is_text =
            matches!(self, Self::Bytes | Self::BearerToken | Self::Variable | Self::Header);
        let text = bytes.trim_ascii();
        let quotes = [&b"\""[..], b"'", b"`"];
        let is_quoted =
            |quote: &&[u8]| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
        let begins =
            |name: &[u8]| text.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name));
        match self {
            _ if !is_text => None,
            _ if bytes.starts_with(b"\xef\xbb\xbf") => Some(
                "begins with a byte order mark, which is taken for a part of it: save it without",
            ),
            _ if text.len() < bytes.len() => Some(
                "begins or ends with white space, which is taken for a part of it: only one newline \
                 at the end is not",
            ),
            _ if quotes.iter().any(is_quoted) => {
                Some("stands in quotes, which are taken for a part of it: leave them out")
            }
            Self::BearerToken if begins(b"bearer ") => {
                Some("begins with \"Bearer\": expected what follows it in the header")
            }
            _ => None,
        }
    }
}

/// Secrets that were read, by where they came from.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(HashMap<SecretRef, Vec<u8>>);

impl Secrets {
    /// The bytes of a secret that could be read.
    pub fn get(&self, secret: &SecretRef) -> Option<&[u8]> {
        self.0.get(secret).map(Vec::as_slice)
    }

    /// Those of `wanted` that could be read, in that order.
    pub fn resolve<'s>(&'s self, wanted: &'s [SecretRef]) -> impl Iterator<Item = &'s [u8]> {
        wanted.iter().filter_map(|secret| self.get(secret))
    }

    /// Every text in which a request may give a secret of `config` away: the secrets themselves, the
    /// credentials of `basic` (RFC 7617), and the keys of Standard Webhooks without what stands before
    /// them.
    pub fn texts_to_redact(&self, config: &Config) -> Vec<Vec<u8>> {
        let mut texts: Vec<Vec<u8>> = self.0.values().cloned().collect();
        for verify in config.sources.iter().map(|source| &source.verify) {
            let user = verify.user.as_deref().unwrap_or_default().as_bytes();
            for secret in self.resolve(&verify.secret) {
                match verify.scheme.as_str() {
                    "basic" => {
                        let pair = [user, b":", secret].concat();
                        texts.push(STANDARD_BASE64.encode(pair).into_bytes());
                    }
                    "standard" => {
                        let keys = secret.split(|&byte| byte == b'|');
                        texts.extend(keys.map(|key| without_prefix(key).to_vec()));
                    }
                    _ => {}
                }
            }
        }
        texts
    }

    /// For those who have secrets from elsewhere, such as tests.
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

/// Secrets that were read and are probably not what was meant. None is shown.
pub fn secret_warnings(loaded: &LoadedConfig, secrets: &Secrets) -> Vec<ConfigError> {
    let warning = |used: &SecretReference| {
        Some(used.error(used.format.suspicion(secrets.get(&used.secret)?)?))
    };
    loaded.secrets.iter().filter_map(warning).collect()
}

/// What keeps a server from starting wherever it is started, and what may be otherwise there: a variable or
/// a credential that its unit sets, a file that this user may not read.
pub fn check_secrets(loaded: &LoadedConfig) -> (Vec<ConfigError>, Vec<ConfigError>) {
    let (mut faults, mut elsewhere) = (Vec::new(), Vec::new());
    for used in &loaded.secrets {
        match used.secret.read() {
            Ok(bytes) => faults.extend(used.format.validate(&bytes).map(|it| used.error(&it))),
            Err(SecretError::Everywhere(reason)) => faults.push(used.error(&reason)),
            Err(SecretError::HereOnly(reason)) => elsewhere.push(used.error(&reason)),
        }
    }
    (faults, elsewhere)
}

/// Reads every secret; those that can't be had or used are faults.
pub fn read_secrets(loaded: &LoadedConfig) -> (Secrets, Vec<ConfigError>) {
    read_secrets_under(loaded, "")
}

/// Like `secrets`, of one part alone: `handlers.crm`.
pub fn read_secrets_under(loaded: &LoadedConfig, part: &str) -> (Secrets, Vec<ConfigError>) {
    let (mut found, mut faults) = (Secrets::default(), Vec::new());
    let under = |key: &str| {
        let rest = key.strip_prefix(part);
        part.is_empty() || rest.is_some_and(|rest| rest.starts_with('.'))
    };
    for used in loaded.secrets.iter().filter(|used| under(&used.key)) {
        let bytes = match found.get(&used.secret) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => used.secret.read(),
        };
        match bytes {
            Ok(bytes) => match used.format.validate(&bytes) {
                Some(reason) => faults.push(used.error(&reason)),
                None => found.insert(used.secret.clone(), bytes),
            },
            Err(SecretError::Everywhere(reason) | SecretError::HereOnly(reason)) => {
                faults.push(used.error(&reason));
            }
        }
    }
    (found, faults)
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

/// Why a secret can't be had, and what to do.
enum SecretError {
    /// Wherever the server is started.
    Everywhere(String),
    /// By this user, in this environment.
    HereOnly(String),
}

impl SecretRef {
    /// The secret without one trailing newline.
    fn read(&self) -> Result<Vec<u8>, SecretError> {
        let elsewhere = |reason: String| SecretError::HereOnly(reason);
        let mut bytes = match self {
            Self::Env(name) => {
                std::env::var_os(name).map(OsStringExt::into_vec).ok_or_else(|| {
                    elsewhere("is not set: set it where hooktrail is started".to_owned())
                })?
            }
            Self::File(path) => read_file(path)?,
            Self::Credential(name) => {
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    elsewhere(format!(
                        "needs CREDENTIALS_DIRECTORY: systemd sets it for \
                         LoadCredential={name}:/path"
                    ))
                })?;
                read_file(&Path::new(&folder).join(name)).map_err(|unread| match unread {
                    SecretError::Everywhere(reason) | SecretError::HereOnly(reason) => {
                        elsewhere(reason)
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
        .and_then(|file| file.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let reason = format!("can't be read: {error}: it must exist and be readable");
            match error.kind() {
                ErrorKind::PermissionDenied => SecretError::HereOnly(reason),
                _ => SecretError::Everywhere(reason),
            }
        })?;
    if bytes.len() > SECRET_BYTES_MAX {
        let reason = format!("is larger than {SECRET_BYTES_MAX} bytes: expected one secret");
        return Err(SecretError::Everywhere(reason));
    }
    Ok(bytes)
}

/// One secret or a list of them, all valid.
pub(super) fn parse_list(
    value: &TomlValue<'_>,
    folder: &Path,
    becomes: SecretFormat,
) -> Vec<SecretRef> {
    if !value.is_list() {
        return parse_one(value, folder, becomes).into_iter().collect();
    }
    let items = value.list(FORMS).unwrap_or_default();
    if items.is_empty() {
        value.error(format!("is []: {FORMS}"));
    }
    items.iter().filter_map(|item| parse_one(item, folder, becomes)).collect()
}

/// One secret. Whatever else stands there is not shown: it may well be one.
pub(super) fn parse_one(
    value: &TomlValue<'_>,
    folder: &Path,
    becomes: SecretFormat,
) -> Option<SecretRef> {
    if !value.is_table() {
        return value.invalid_redacted(FORMS);
    }
    let table = value.table(FORMS)?;
    let found = [
        text(&table, "env").map(|(at, text)| (env(&text), at)),
        text(&table, "file").map(|(at, text)| (file(&text, folder), at)),
        text(&table, "credential").map(|(at, text)| (credential(&text), at)),
    ];
    let written = ["env", "file", "credential"].iter().filter(|key| table.has(key)).count();
    let empty = table.entries_in_order().is_empty();
    table.reject_unknown(&[]);
    if empty || written > 1 {
        return value.invalid_redacted(FORMS);
    }
    let (secret, at) = found.into_iter().flatten().next()?;
    let secret = secret.map_or_else(|remedy| at.invalid_redacted(remedy), Some)?;
    value.log.add_secret(SecretReference {
        file: value.log.file_name(value.at),
        line: value.at.line,
        key: value.key.clone(),
        secret: secret.clone(),
        format: becomes,
    });
    Some(secret)
}

fn text<'a>(table: &TomlTable<'a>, key: &'static str) -> Option<(TomlValue<'a>, String)> {
    let value = table.get(key)?;
    match value.raw_text().filter(|text| !text.is_empty() && !text.contains('\0')) {
        Some(text) => Some((value.clone(), text.to_owned())),
        None => value.invalid_redacted(FORMS),
    }
}

fn env(name: &str) -> Result<SecretRef, String> {
    match name.contains('=') {
        true => Err("expected the name of an environment variable".to_owned()),
        false => Ok(SecretRef::Env(name.to_owned())),
    }
}

fn file(path: &str, folder: &Path) -> Result<SecretRef, String> {
    Ok(SecretRef::File(parse::resolve_path(path, folder)))
}

fn credential(name: &str) -> Result<SecretRef, String> {
    match name.contains('/') || name == "." || name == ".." {
        true => Err("expected the name of a credential, without a slash".to_owned()),
        false => Ok(SecretRef::Credential(name.to_owned())),
    }
}

/// The key of a Standard Webhooks secret, `whsec_` and base64 whose padding may be missing: 24 to 64
/// bytes. Does not show the secret where it is none.
///
/// # Errors
/// What is wrong with it and what was expected.
pub fn parse_shared_standard_key(secret: &[u8]) -> Result<Vec<u8>, String> {
    const KEY: &str = "expected whsec_ and the base64 of 24 to 64 bytes";
    let text = secret.strip_prefix(b"whsec_").unwrap_or(secret);
    let text = match text {
        [text @ .., b'=', b'='] | [text @ .., b'='] => text,
        text => text,
    };
    // As the libraries of that standard read it: bits that the last letter has too many are not
    // looked at.
    let lenient = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone);
    match GeneralPurpose::new(&STANDARD, lenient).decode(text) {
        Ok(key) if (24..=64).contains(&key.len()) => Ok(key),
        Ok(key) => Err(format!("is a key of {} bytes: {KEY}", key.len())),
        Err(_) => Err(format!("is no base64: {KEY}")),
    }
}
