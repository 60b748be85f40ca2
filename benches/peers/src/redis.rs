//! A Redis stream. All requests of a thread share one connection, which sends them without waiting for earlier
//! replies (pipelining).

use actix_web::web::Bytes;
use redis::aio::MultiplexedConnection;

use crate::queue::Queue;

pub struct RedisStream(MultiplexedConnection);

impl Queue for RedisStream {
    type Shared = ();

    async fn prepare(_: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn connect(address: &str, (): ()) -> anyhow::Result<Self> {
        let client = redis::Client::open(format!("redis://{address}/"))?;
        Ok(Self(client.get_multiplexed_async_connection().await?))
    }

    async fn put(&self, body: Bytes) -> anyhow::Result<()> {
        let mut add = redis::cmd("XADD");
        add.arg("hooks").arg("*").arg("body").arg(&body[..]);
        Ok(add.query_async(&mut self.0.clone()).await?)
    }
}
