//! Fields of a form, as Twilio, Mandrill and Mailgun sign them.

use percent_encoding::percent_decode;

use crate::multipart;

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
    let mut found = Vec::new();
    multipart::each(std::str::from_utf8(content_type?).ok()?, body, |part| {
        let name = part.name.filter(|name| names.contains(&name.as_str()));
        found.extend(name.map(|name| (name.into_bytes(), part.bytes.to_vec())));
        Some(())
    })?;
    Some(found)
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
