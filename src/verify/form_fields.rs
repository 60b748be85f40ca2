//! Fields of a form, as Twilio, Mandrill and Mailgun sign them. They are read before the signature
//! is known: their number is bounded, and a field without escapes is not copied.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use crate::{json, multipart};

/// A field's name and value, decoded.
pub(super) type Field<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// Fields of a form that are read. These senders send tens; PHP's `max_input_vars` is the same.
pub(super) const FIELDS_MAX: usize = 1000;

/// Reads the fields of an urlencoded body, in their order. A byte order mark is skipped, as everywhere
/// that a form is read.
pub(super) fn each(body: &[u8]) -> impl Iterator<Item = Field<'_>> {
    json::without_mark(body).split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(field)
}

/// Lists the fields of an urlencoded body, in their order.
///
/// # Errors
/// There are more than `FIELDS_MAX`.
pub(super) fn parse_urlencoded(body: &[u8]) -> Result<Vec<Field<'_>>, String> {
    let fields: Vec<Field<'_>> = each(body).take(FIELDS_MAX + 1).collect();
    if fields.len() > FIELDS_MAX { Err(too_many()) } else { Ok(fields) }
}

fn too_many() -> String {
    format!("form has more than {FIELDS_MAX} fields")
}

fn field(pair: &[u8]) -> Field<'_> {
    let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
    (decoded(&pair[..at]), decoded(pair.get(at + 1..).unwrap_or_default()))
}

fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'+', b'%', text).is_none() {
        return Cow::Borrowed(text);
    }
    let spaced: Vec<u8> = text.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

/// The value of a field that must be there once.
pub(super) fn unique_value<'f>(fields: &'f [Field<'_>], name: &str) -> Option<&'f [u8]> {
    let mut values = fields.iter().filter(|(found, _)| **found == *name.as_bytes());
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value)
}

/// Names and values of sorted fields, one after the other.
pub(super) fn concat(fields: &[Field<'_>]) -> Vec<u8> {
    let parts: Vec<&[u8]> = fields.iter().flat_map(|(name, value)| [&**name, &**value]).collect();
    parts.concat()
}

/// Lists the fields of these names in a multipart body.
///
/// # Errors
/// The body is not multipart, broken, or has more than `FIELDS_MAX` parts.
pub(super) fn parse_multipart(
    content_type: Option<&[u8]>,
    body: &[u8],
    names: &[&str],
) -> Result<Vec<Field<'static>>, String> {
    let (mut found, mut total) = (Vec::new(), 0);
    let content_type = std::str::from_utf8(content_type.unwrap_or_default()).unwrap_or_default();
    let whole = multipart::for_each_part(content_type, json::without_mark(body), |part| {
        total += 1;
        let name = part.name.filter(|name| names.contains(&name.as_str()));
        let field = |name: String| (name.into_bytes().into(), part.bytes.to_vec().into());
        found.extend(name.map(field));
        (total <= FIELDS_MAX).then_some(())
    });
    match whole {
        Some(()) => Ok(found),
        None if total > FIELDS_MAX => Err(too_many()),
        None => Err("body is not multipart, as its type says".to_owned()),
    }
}

pub(super) fn is_multipart(content_type: Option<&[u8]>) -> bool {
    has_media_type(content_type, b"multipart/form-data")
}

pub(super) fn is_form(content_type: Option<&[u8]>) -> bool {
    has_media_type(content_type, b"application/x-www-form-urlencoded")
}

fn has_media_type(content_type: Option<&[u8]>, name: &[u8]) -> bool {
    let essence = content_type.unwrap_or_default().split(|&byte| byte == b';').next();
    essence.unwrap_or_default().trim_ascii().eq_ignore_ascii_case(name)
}
