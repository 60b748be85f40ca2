//! Checks `accept`: whether a body has the content type that its source requires, and parses.

use crate::config::Accept;
use crate::json;
use crate::media_type::BodyFormat;

/// Why a body is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentTypeError {
    /// The response is 415.
    UnsupportedType,
    /// The response is 400.
    MalformedBody(String),
}

/// Checks the content type, then the body. JSON that is nested deeper than 128 levels does not
/// parse.
///
/// # Errors
/// The content type or the body is not accepted.
pub fn check_content_type(
    accept: Accept,
    content_type: Option<&str>,
    body: &[u8],
) -> Result<(), ContentTypeError> {
    let format = BodyFormat::from_content_type(content_type.unwrap_or_default().as_bytes());
    match (accept, format) {
        (Accept::Any, _) => Ok(()),
        (Accept::Json, BodyFormat::Json) => check_json(body),
        (Accept::Form, BodyFormat::Form) => check_form(body),
        (Accept::Json | Accept::Form, _) => Err(ContentTypeError::UnsupportedType),
    }
}

fn check_json(body: &[u8]) -> Result<(), ContentTypeError> {
    json::validate(body)
        .map_err(|error| ContentTypeError::MalformedBody(format!("body is {error}")))
}

fn check_form(body: &[u8]) -> Result<(), ContentTypeError> {
    let error =
        |text: &str| Err(ContentTypeError::MalformedBody(format!("body is not a form: {text}")));
    let body = json::without_mark(body);
    if !body.is_ascii() {
        return error("it contains bytes that are not ASCII");
    }
    let mut rest = body;
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        match rest.get(at + 1..at + 3) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => rest = &rest[at + 3..],
            _ => return error("a % without two hex digits"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_body_needs_its_content_type_and_at_most_128_levels() {
        let json = |content_type, body: &str| {
            check_content_type(Accept::Json, content_type, body.as_bytes())
        };
        assert_eq!(json(Some("application/json; charset=utf-8"), "{}"), Ok(()));
        assert_eq!(json(Some("application/cloudevents+json"), "[1]"), Ok(()));
        assert_eq!(json(Some("text/plain"), "{}"), Err(ContentTypeError::UnsupportedType));
        assert_eq!(json(None, "{}"), Err(ContentTypeError::UnsupportedType));
        assert!(matches!(
            json(Some("application/json"), "{"),
            Err(ContentTypeError::MalformedBody(_))
        ));
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(json(Some("application/json"), &nested(128)), Ok(()));
        assert!(matches!(
            json(Some("application/json"), &nested(129)),
            Err(ContentTypeError::MalformedBody(_))
        ));
        let text = format!("[{:?}]", "[\"".repeat(200));
        assert_eq!(json(Some("application/json"), &text), Ok(()));
        assert!(matches!(
            json(Some("application/json"), &nested(200_000)),
            Err(ContentTypeError::MalformedBody(_))
        ));
    }

    #[test]
    fn a_json_body_has_to_be_valid_utf_8() {
        let json = |body: &[u8]| check_content_type(Accept::Json, Some("application/json"), body);
        assert!(matches!(json(b"[\"\xff\"]"), Err(ContentTypeError::MalformedBody(_))));
        assert!(matches!(json(b""), Err(ContentTypeError::MalformedBody(_))));
        assert!(matches!(json(b"{} {}"), Err(ContentTypeError::MalformedBody(_))));
        assert_eq!(json("[\"\u{fc}\", 1e999]".as_bytes()), Ok(()));
        assert_eq!(json(b"\xef\xbb\xbf{}"), Ok(()));
        assert!(matches!(
            json(b"\xef\xbb\xbf\xef\xbb\xbf{}"),
            Err(ContentTypeError::MalformedBody(_))
        ));
    }

    #[test]
    fn a_form_needs_its_content_type_and_valid_escapes() {
        let form = |body: &str| {
            let content_type = Some("Application/X-WWW-Form-URLencoded");
            check_content_type(Accept::Form, content_type, body.as_bytes())
        };
        assert_eq!(form("a=1&b=%C3%A4"), Ok(()));
        assert_eq!(form("\u{feff}a=1"), Ok(()));
        assert!(matches!(form("a=%4"), Err(ContentTypeError::MalformedBody(_))));
        assert!(matches!(form("a=ä"), Err(ContentTypeError::MalformedBody(_))));
        assert_eq!(
            check_content_type(Accept::Form, None, b"a=1"),
            Err(ContentTypeError::UnsupportedType)
        );
    }

    #[test]
    fn accept_any_accepts_every_body() {
        assert_eq!(check_content_type(Accept::Any, None, b"\xff\0"), Ok(()));
    }
}
