//! An open transaction that writes.

use rusqlite::Connection;

use super::effects::Effects;
use super::writer_cache::WriterCache;

/// An open transaction: its connection, what the writer caches, and the effects of its changes so far. The
/// effects count after the commit.
pub struct WriteTransaction<'t> {
    pub conn: &'t Connection,
    pub cache: &'t mut WriterCache,
    pub effects: &'t mut Effects,
}
