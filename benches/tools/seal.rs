//! Seals the rows of a database that benches/fill.sql made.

use std::path::Path;

use hooktrail::internals::config::Durability;
use hooktrail::internals::store::{in_transaction, open, seal_unsealed_rows};

/// About as many events as arrive between two commits of a server under load.
const ROWS_PER_SEAL: i64 = 16;

pub fn run(database: &Path) -> anyhow::Result<()> {
    let store = open(database, Durability::Normal)?;
    in_transaction(&store.conn, |conn| seal_unsealed_rows(conn, ROWS_PER_SEAL))?;
    println!("{{}}");
    Ok(())
}
