//! The parts of a `multipart/form-data` body, by the `multer` crate.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use multer::Multipart;
use multer::bytes::Bytes;

/// One part.
pub struct Part {
    pub name: Option<String>,
    /// The file's name, where it is one.
    pub file: Option<String>,
    pub content_type: Option<String>,
    pub bytes: Bytes,
}

/// Gives each part in its order to `take`, until that has enough by `None`. `None`: it had, or the
/// body is broken, without an end, or none.
pub fn for_each_part(
    content_type: &str,
    body: &[u8],
    mut take: impl FnMut(Part) -> Option<()>,
) -> Option<()> {
    let boundary = multer::parse_boundary(content_type).ok()?;
    let mut multipart = Multipart::new(OneChunk(Some(Bytes::copy_from_slice(body))), boundary);
    while let Some(field) = poll_ready(multipart.next_field())?.ok()? {
        let name = field.name().map(str::to_owned);
        let file = field.file_name().map(str::to_owned);
        let content_type = field.content_type().map(ToString::to_string);
        let bytes = poll_ready(field.bytes())?.ok()?;
        take(Part { name, file, content_type, bytes })?;
    }
    Some(())
}

/// A body that is there as a whole.
struct OneChunk(Option<Bytes>);

impl Stream for OneChunk {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().map(Ok))
    }
}

/// What it gives without waiting: there is nothing to wait for.
fn poll_ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(it) => Some(it),
        Poll::Pending => None,
    }
}
