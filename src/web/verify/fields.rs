//! Fields of a form, as Twilio, Mandrill and Mailgun sign them.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use multer::Multipart;
use multer::bytes::Bytes;
use percent_encoding::percent_decode;

/// A field's name and value, decoded.
pub(super) type Field = (Vec<u8>, Vec<u8>);

/// The fields of an urlencoded body, in their order.
pub(super) fn of(body: &[u8]) -> Vec<Field> {
    body.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(field).collect()
}

fn field(pair: &[u8]) -> Field {
    let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
    (decoded(&pair[..at]), decoded(pair.get(at + 1..).unwrap_or_default()))
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect();
    percent_decode(&spaced).collect()
}

/// The value of a field that must be there once.
pub(super) fn one<'f>(fields: &'f [Field], name: &str) -> Option<&'f [u8]> {
    let mut values = fields.iter().filter(|(found, _)| found == name.as_bytes());
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value)
}

/// Names and values of sorted fields, one after the other.
pub(super) fn joined(fields: &[Field]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [name.as_slice(), value]).flatten().copied().collect()
}

/// The fields of these names in a multipart body; `None` where it is broken or none.
pub(super) fn of_multipart(
    content_type: Option<&[u8]>,
    body: &[u8],
    names: &[&str],
) -> Option<Vec<Field>> {
    let boundary = multer::parse_boundary(std::str::from_utf8(content_type?).ok()?).ok()?;
    let mut multipart = Multipart::new(Whole(Some(Bytes::copy_from_slice(body))), boundary);
    let mut found = Vec::new();
    while let Some(field) = now(multipart.next_field())?.ok()? {
        let name = field.name().filter(|name| names.contains(name)).map(str::to_owned);
        // Another's bytes are read too, to get to the next one.
        let bytes = now(field.bytes())?.ok()?;
        found.extend(name.map(|name| (name.into_bytes(), bytes.to_vec())));
    }
    Some(found)
}

/// A body that is there as a whole.
struct Whole(Option<Bytes>);

impl Stream for Whole {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().map(Ok))
    }
}

/// What it gives without waiting: there is nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(it) => Some(it),
        Poll::Pending => None,
    }
}

pub(super) fn is_multipart(content_type: Option<&[u8]>) -> bool {
    is(content_type, b"multipart/form-data")
}

pub(super) fn is_form(content_type: Option<&[u8]>) -> bool {
    is(content_type, b"application/x-www-form-urlencoded")
}

fn is(content_type: Option<&[u8]>, name: &[u8]) -> bool {
    let essence = content_type.unwrap_or_default().split(|&byte| byte == b';').next();
    essence.unwrap_or_default().trim_ascii().eq_ignore_ascii_case(name)
}
