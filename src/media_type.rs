//! What a `Content-Type` says about a body. It is read leniently: a parameter that does not parse
//! changes nothing, and a type without a subtype is one that nobody knows.

/// How a body is read, decided by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// `application/json`, or a type with the suffix `+json` (RFC 6839).
    Json,
    /// JSON if it parses, else text: many senders say nothing better.
    MaybeJson,
    /// An urlencoded form.
    Form,
    Multipart,
    Text,
}

impl BodyFormat {
    /// The format of a body with this `Content-Type`, which is empty if the header is missing.
    pub fn from_content_type(content_type: &[u8]) -> Self {
        let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii();
        let is_type = |name: &[u8]| essence.eq_ignore_ascii_case(name);
        let suffix = memchr::memrchr(b'+', essence).map_or(&b""[..], |at| &essence[at..]);
        if is_type(b"application/json") || suffix.eq_ignore_ascii_case(b"+json") {
            Self::Json
        } else if is_type(b"application/x-www-form-urlencoded") {
            Self::Form
        } else if is_type(b"multipart/form-data") {
            Self::Multipart
        } else if is_type(b"") || is_type(b"text/plain") || is_type(b"application/octet-stream") {
            Self::MaybeJson
        } else {
            Self::Text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_do_not_change_the_format() {
        for (content_type, expected) in [
            ("application/json", BodyFormat::Json),
            (" Application/JSON ;charset=utf-8; x", BodyFormat::Json),
            ("application/cloudevents+JSON", BodyFormat::Json),
            ("application/x+json+xml", BodyFormat::Text),
            ("", BodyFormat::MaybeJson),
            (";charset=utf-8", BodyFormat::MaybeJson),
            ("text/plain", BodyFormat::MaybeJson),
            ("APPLICATION/x-www-form-urlencoded;", BodyFormat::Form),
            ("multipart/form-data; boundary=a", BodyFormat::Multipart),
            ("application/jsonp", BodyFormat::Text),
            ("application", BodyFormat::Text),
        ] {
            let found = BodyFormat::from_content_type(content_type.as_bytes());
            assert_eq!(found, expected, "{content_type}");
        }
    }
}
