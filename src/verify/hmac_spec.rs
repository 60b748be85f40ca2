//! The keys of `scheme = "hmac"`, which describe an HMAC over a text of parts.

/// The signed bytes, the algorithm, and the place of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HmacSpec {
    /// The header of the signature, in lower case.
    pub header: String,
    pub algorithm: Algorithm,
    /// The text before the signature in its header; may be empty.
    pub prefix: String,
    pub encoding: Encoding,
    pub signed: Vec<SignedPart>,
    /// In lower case.
    pub timestamp_header: Option<String>,
    pub timestamp_unit: TimestampUnit,
    /// In lower case.
    pub id_header: Option<String>,
}

/// `algorithm` of the scheme `hmac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

/// `encoding` of the scheme `hmac`: how the header encodes the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Hex,
    Base64,
}

/// `timestamp_unit` of the scheme `hmac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampUnit {
    Seconds,
    Milliseconds,
}

/// A part of the signed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedPart {
    Text(String),
    Body,
    Timestamp,
    Id,
    Url,
    Method,
}

/// Parses `"{timestamp}.{body}"` into parts.
///
/// # Errors
/// The text is invalid; the error lists the allowed values.
pub fn parse_signed_parts(text: &str) -> Result<Vec<SignedPart>, String> {
    let invalid = || {
        "expected text of {body}, {timestamp}, {id}, {url} and {method}, such as \
         \"{timestamp}.{body}\""
            .to_owned()
    };
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        let (name, after) = after[1..].split_once('}').ok_or_else(invalid)?;
        if !before.is_empty() {
            parts.push(SignedPart::Text(before.to_owned()));
        }
        parts.push(match name {
            "body" => SignedPart::Body,
            "timestamp" => SignedPart::Timestamp,
            "id" => SignedPart::Id,
            "url" => SignedPart::Url,
            "method" => SignedPart::Method,
            _ => return Err(invalid()),
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(SignedPart::Text(rest.to_owned()));
    }
    let is_constant = parts.iter().all(|part| matches!(part, SignedPart::Text(_)));
    let has_stray_brace =
        |part: &SignedPart| matches!(part, SignedPart::Text(text) if text.contains('}'));
    if is_constant || parts.iter().any(has_stray_brace) { Err(invalid()) } else { Ok(parts) }
}
