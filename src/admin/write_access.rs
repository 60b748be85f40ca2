//! Connections with which the admin listener changes jobs and handlers, beside the writer. They write as the command line
//! does: in short transactions, which the writer notices.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use crate::store::open_files::OpenFiles;
use crate::store::{self, Access, Store};

/// The database of the server.
#[derive(Clone, Debug)]
pub struct WriteAccess {
    pub database: PathBuf,
    /// The files that the server has open.
    pub files: Arc<OpenFiles>,
}

impl WriteAccess {
    /// Opens a connection.
    ///
    /// # Errors
    /// The database can't be opened, or another file has taken its place.
    pub fn open(&self) -> anyhow::Result<Store> {
        let store = store::open_for_cli(&self.database, Access::Write)
            .with_context(|| self.database.display().to_string())?;
        match self.files.compare() {
            Some(change) => anyhow::bail!("{change}"),
            None => Ok(store),
        }
    }
}
