//! Reads the parts of a `multipart/form-data` body with the `multer` crate.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use multer::Multipart;
use multer::bytes::Bytes;

/// One part of a multipart body.
pub struct Part {
    pub name: Option<String>,
    /// The file name, if the part is a file.
    pub file: Option<String>,
    pub content_type: Option<String>,
    pub bytes: Bytes,
}

/// Calls `visit` with each part in order, until it returns `None`. Returns `None` if it did, or if the body is
/// not a complete multipart body.
pub fn for_each_part(
    content_type: &str,
    body: &[u8],
    mut visit: impl FnMut(Part) -> Option<()>,
) -> Option<()> {
    let boundary = multer::parse_boundary(content_type).ok()?;
    let mut multipart = Multipart::new(OneChunk(Some(Bytes::copy_from_slice(body))), boundary);
    while let Some(field) = poll_ready(multipart.next_field())?.ok()? {
        let name = field.name().map(str::to_owned);
        let file = field.file_name().map(str::to_owned);
        let content_type = field.content_type().map(ToString::to_string);
        let bytes = poll_ready(field.bytes())?.ok()?;
        visit(Part { name, file, content_type, bytes })?;
    }
    Some(())
}

/// A part of a multipart body, by its place in the body.
pub struct LocatedPart {
    pub name: Option<String>,
    pub is_file: bool,
    /// The header lines, without the blank line after them.
    pub head: Range<usize>,
    pub content: Range<usize>,
}

/// Returns the place of each part. `None`: the body is not a complete multipart body.
///
/// multer copies the contents. They are found again by its own rules, and compared.
pub fn locate_parts(content_type: &str, body: &[u8]) -> Option<Vec<LocatedPart>> {
    let delimiter = format!("--{}", multer::parse_boundary(content_type).ok()?);
    let find = |text: &[u8], from: usize| {
        memchr::memmem::find(body.get(from..)?, text).map(|offset| from + offset)
    };
    let mut next = find(delimiter.as_bytes(), 0)?;
    let mut parts = Vec::new();
    for_each_part(content_type, body, |part| {
        let after_delimiter = next + delimiter.len();
        let is_padding = |byte: &&u8| matches!(**byte, b' ' | b'\t');
        let padding = body.get(after_delimiter..)?.iter().take_while(is_padding).count();
        let head_start = after_delimiter + padding + 2;
        let head_end = find(b"\r\n\r\n", head_start)?;
        let content = head_end + 4..head_end + 4 + part.bytes.len();
        let after_content = body.get(content.end..)?.strip_prefix(b"\r\n")?;
        let is_same = body[content.clone()] == part.bytes[..]
            && after_content.starts_with(delimiter.as_bytes());
        next = content.end + 2;
        parts.push(LocatedPart {
            name: part.name,
            is_file: part.file.is_some(),
            head: head_start..head_end,
            content,
        });
        is_same.then_some(())
    })?;
    Some(parts)
}

/// A stream of a complete body.
struct OneChunk(Option<Bytes>);

impl Stream for OneChunk {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().map(Ok))
    }
}

/// Polls a future once. It is ready at once, because the whole body is in memory.
fn poll_ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
