//! What the servers of this package have in common.

use actix_web::web::Bytes;

/// A queue, as one thread of the server uses it.
pub trait Queue: Sized + 'static {
    /// What the threads share.
    type Shared: Clone + Send + 'static;

    /// Creates the table or stream, once.
    async fn prepare(place: &str) -> anyhow::Result<Self::Shared>;

    /// Connects one thread.
    async fn connect(place: &str, shared: Self::Shared) -> anyhow::Result<Self>;

    /// Stores a body. Returns when the queue has confirmed it.
    async fn put(&self, body: Bytes) -> anyhow::Result<()>;
}
