//! A NATS JetStream stream with file storage. Many messages are in flight; each response waits for the
//! acknowledgement of its message.

use actix_web::web::Bytes;
use async_nats::jetstream::{self, Context, stream};

use crate::queue::Queue;

pub struct JetStream(Context);

impl Queue for JetStream {
    type Shared = ();

    async fn prepare(address: &str) -> anyhow::Result<()> {
        let context = jetstream::new(async_nats::connect(address).await?);
        context
            .create_stream(stream::Config {
                name: "hooks".to_owned(),
                storage: stream::StorageType::File,
                ..stream::Config::default()
            })
            .await?;
        Ok(())
    }

    async fn connect(address: &str, (): ()) -> anyhow::Result<Self> {
        Ok(Self(jetstream::new(async_nats::connect(address).await?)))
    }

    async fn put(&self, body: Bytes) -> anyhow::Result<()> {
        self.0.publish("hooks", body).await?.await?;
        Ok(())
    }
}
