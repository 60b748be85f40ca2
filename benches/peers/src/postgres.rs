//! A table of PostgreSQL, through a pool of 16 connections for each thread. PostgreSQL commits concurrent
//! transactions in groups.

use actix_web::web::Bytes;
use deadpool_postgres::{Config, Pool, PoolConfig, Runtime};
use tokio_postgres::NoTls;

use crate::queue::Queue;

const CONNECTIONS: usize = 16;

pub struct Postgres(Pool);

fn pool(url: &str, size: usize) -> anyhow::Result<Pool> {
    let config = Config {
        url: Some(url.to_owned()),
        pool: Some(PoolConfig::new(size)),
        ..Config::default()
    };
    Ok(config.create_pool(Some(Runtime::Tokio1), NoTls)?)
}

impl Queue for Postgres {
    type Shared = ();

    async fn prepare(url: &str) -> anyhow::Result<()> {
        let client = pool(url, 1)?.get().await?;
        let sql = "CREATE TABLE IF NOT EXISTS hooks (
          id bigserial PRIMARY KEY,
          received_at timestamptz NOT NULL DEFAULT now(),
          body bytea NOT NULL
        )";
        Ok(client.batch_execute(sql).await?)
    }

    async fn connect(url: &str, (): ()) -> anyhow::Result<Self> {
        pool(url, CONNECTIONS).map(Self)
    }

    async fn put(&self, body: Bytes) -> anyhow::Result<()> {
        let client = self.0.get().await?;
        let insert = client.prepare_cached("INSERT INTO hooks (body) VALUES ($1)").await?;
        client.execute(&insert, &[&&body[..]]).await?;
        Ok(())
    }
}
