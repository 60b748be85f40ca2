//! Form fields as Twilio, Mandrill and Mailgun sign them. They are read before the signature is
//! verified, so their number is limited, and a field without escapes is not copied.

use super::proof::Reason;
use crate::urlencoded::{self, FormField};
use crate::{json, multipart};

/// Maximum number of form fields. These senders send tens. PHP's `max_input_vars` has the same
/// default.
pub(super) const MAX_FIELDS: usize = 1000;

/// Lists the fields of an urlencoded body in their order. A byte order mark is skipped, as everywhere
/// else that a form is read.
///
/// # Errors
/// There are more than `MAX_FIELDS`.
pub(super) fn parse_urlencoded(body: &[u8]) -> Result<Vec<FormField<'_>>, Reason> {
    let fields: Vec<FormField<'_>> =
        urlencoded::fields(json::without_mark(body)).take(MAX_FIELDS + 1).collect();
    if fields.len() > MAX_FIELDS { Err(too_many_fields()) } else { Ok(fields) }
}

fn too_many_fields() -> Reason {
    format!("form has more than {MAX_FIELDS} fields").into()
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
) -> Result<Vec<FormField<'static>>, Reason> {
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
        None => Err("body is not multipart, but its Content-Type says so".into()),
    }
}
