//! A table of SQLite with a transaction for each request (WAL, `synchronous = FULL`), on the blocking threads
//! of actix-web. They share one connection: SQLite has one writer at a time, and further connections would
//! poll for their turn.

use actix_web::web::{self, Bytes};
use r2d2::Pool;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::params;

use crate::queue::Queue;

pub struct Sqlite(Pool<SqliteConnectionManager>);

impl Queue for Sqlite {
    type Shared = Pool<SqliteConnectionManager>;

    async fn prepare(file: &str) -> anyhow::Result<Self::Shared> {
        let manager = SqliteConnectionManager::file(file).with_init(|conn| {
            conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        });
        let pool = Pool::builder().max_size(1).build(manager)?;
        pool.get()?.execute_batch(
            "CREATE TABLE IF NOT EXISTS hooks (
               id INTEGER PRIMARY KEY,
               received_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
               body BLOB NOT NULL
             )",
        )?;
        Ok(pool)
    }

    async fn connect(_: &str, pool: Self::Shared) -> anyhow::Result<Self> {
        Ok(Self(pool))
    }

    async fn put(&self, body: Bytes) -> anyhow::Result<()> {
        let pool = self.0.clone();
        web::block(move || {
            let conn = pool.get()?;
            conn.prepare_cached("INSERT INTO hooks (body) VALUES (?1)")?
                .execute(params![&body[..]])?;
            Ok(())
        })
        .await?
    }
}
