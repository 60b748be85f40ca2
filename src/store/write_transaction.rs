//! An open transaction that writes.

use rusqlite::{CachedStatement, Connection};

use super::effects::Effects;
use super::statements::Statements;
use super::writer_cache::WriterCache;

/// An open transaction: its connection, what the writer caches, and the effects of its changes so far. The
/// effects count after the commit.
pub struct WriteTransaction<'t> {
    pub conn: &'t Connection,
    pub cache: &'t mut WriterCache,
    pub effects: &'t mut Effects,
    pub(super) held: HeldStatements<'t>,
}

impl<'t> WriteTransaction<'t> {
    /// Wraps a transaction that the caller has begun.
    pub fn new(conn: &'t Connection, cache: &'t mut WriterCache, effects: &'t mut Effects) -> Self {
        Self { conn, cache, effects, held: HeldStatements { conn, statements: Vec::new() } }
    }
}

/// The statements that run for each job, kept until the end of the transaction. To look one up in the cache of
/// the connection takes as long as to bind its values: the cache hashes the text and copies it.
pub(super) struct HeldStatements<'c> {
    conn: &'c Connection,
    statements: Vec<(&'static str, CachedStatement<'c>)>,
}

impl<'c> HeldStatements<'c> {
    /// Returns the statement. It is found by the address of its text, so equal texts may be two statements.
    pub fn get(&mut self, sql: &'static str) -> rusqlite::Result<&mut CachedStatement<'c>> {
        let found = self.statements.iter().position(|(held, _)| std::ptr::eq(*held, sql));
        let index = match found {
            Some(index) => index,
            None => {
                self.statements.push((sql, self.conn.statement(sql)?));
                self.statements.len() - 1
            }
        };
        Ok(&mut self.statements[index].1)
    }
}
