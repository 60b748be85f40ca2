//! Form fields as Twilio, Mandrill and Mailgun sign them. They are read before the signature is
//! verified, so their number is limited, and a field without escapes is not copied.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use crate::{json, multipart};

/// The name and value of a field, decoded.
pub(super) type FormField<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// Maximum number of form fields. These senders send tens. PHP's `max_input_vars` has the same
/// default.
pub(super) const MAX_FIELDS: usize = 1000;

/// Iterates over the fields of an urlencoded body in their order. A byte order mark is skipped, as
/// everywhere else that a form is read.
pub(super) fn iter_fields(body: &[u8]) -> impl Iterator<Item = FormField<'_>> {
    json::without_mark(body)
        .split(|&byte| byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(parse_field)
}

/// Lists the fields of an urlencoded body in their order.
///
/// # Errors
/// There are more than `MAX_FIELDS`.
pub(super) fn parse_urlencoded(body: &[u8]) -> Result<Vec<FormField<'_>>, String> {
    let fields: Vec<FormField<'_>> = iter_fields(body).take(MAX_FIELDS + 1).collect();
    if fields.len() > MAX_FIELDS { Err(too_many_fields()) } else { Ok(fields) }
}

fn too_many_fields() -> String {
    format!("form has more than {MAX_FIELDS} fields")
}

fn parse_field(pair: &[u8]) -> FormField<'_> {
    let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
    (decode(&pair[..at]), decode(pair.get(at + 1..).unwrap_or_default()))
}

fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'+', b'%', text).is_none() {
        return Cow::Borrowed(text);
    }
    let spaced: Vec<u8> = text.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

/// Returns the value of a field that must occur exactly once.
pub(super) fn unique_value<'f>(fields: &'f [FormField<'_>], name: &str) -> Option<&'f [u8]> {
    let mut values = fields.iter().filter(|(found, _)| **found == *name.as_bytes());
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value)
}

/// Concatenates the names and values of sorted fields.
pub(super) fn concat(fields: &[FormField<'_>]) -> Vec<u8> {
    let parts: Vec<&[u8]> = fields.iter().flat_map(|(name, value)| [&**name, &**value]).collect();
    parts.concat()
}

/// Lists the fields with these names in a multipart body.
///
/// # Errors
/// The body is not multipart, is broken, or has more than `MAX_FIELDS` parts.
pub(super) fn parse_multipart(
    content_type: Option<&[u8]>,
    body: &[u8],
    names: &[&str],
) -> Result<Vec<FormField<'static>>, String> {
    let (mut fields, mut total) = (Vec::new(), 0);
    let content_type = std::str::from_utf8(content_type.unwrap_or_default()).unwrap_or_default();
    let completed = multipart::for_each_part(content_type, json::without_mark(body), |part| {
        total += 1;
        let name = part.name.filter(|name| names.contains(&name.as_str()));
        let field = |name: String| (name.into_bytes().into(), part.bytes.to_vec().into());
        fields.extend(name.map(field));
        (total <= MAX_FIELDS).then_some(())
    });
    match completed {
        Some(()) => Ok(fields),
        None if total > MAX_FIELDS => Err(too_many_fields()),
        None => Err("body is not multipart, but its Content-Type says so".to_owned()),
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
