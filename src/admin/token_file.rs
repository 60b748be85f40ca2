//! The file `admin.token`: the token that the server creates at its first start, if the configuration names none.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;

use crate::clock;

/// A token has fewer bytes. A larger file is something else.
const MAX_BYTES: u64 = 4096;

/// Returns the token in the file, which is created if it does not exist.
///
/// # Errors
/// The file can't be read or created, or has no token.
pub fn load_or_create(path: &Path) -> anyhow::Result<String> {
    if let Some(token) = load(path)? {
        return Ok(token);
    }
    let token = hex::encode(clock::random::<32>()?);
    create(path, &token).with_context(|| {
        format!(
            "{}: the admin token can't be created: set admin.token, or admin.listen = []",
            path.display()
        )
    })?;
    log::info!("created the admin token: {}", path.display());
    Ok(token)
}

/// Returns the token in the file, or `None` if there is no file.
///
/// # Errors
/// The file can't be read, or has no token.
pub fn load(path: &Path) -> anyhow::Result<Option<String>> {
    let shown = path.display();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("{shown}: the admin token can't be read")),
    };
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        log::warn!("{shown}: other users can read the admin token: chmod 600 {shown}");
    }
    let mut text = String::new();
    file.take(MAX_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("{shown}: the admin token can't be read"))?;
    let token = text.trim_ascii();
    anyhow::ensure!(
        !token.is_empty(),
        "{shown}: is empty: remove it, and the next start creates a token"
    );
    Ok(Some(token.to_owned()))
}

/// Creates the file under a temporary name, so that no other process reads a part of it.
fn create(path: &Path, token: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("token.new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    // A file of an interrupted start may have another mode.
    file.set_permissions(Permissions::from_mode(0o600))?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_created_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        std::fs::write(folder.path().join("admin.token.new"), "left by an interrupted start")
            .unwrap();
        let token = load_or_create(&path).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_or_create(&path).unwrap(), token);
        std::fs::write(&path, " \n").unwrap();
        let error = load_or_create(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("is empty: remove it, and the next start creates a token"),
            "{error}"
        );
    }
}
