//! `accept`: whether a body is of the type that its source asks for, and parses.

use crate::config::Accept;
use crate::json;

/// What is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentTypeError {
    /// Answered 415.
    Type,
    /// Answered 400.
    Form(String),
}

/// Checks the type, then the form; a JSON nested deeper than 128 does not parse.
///
/// # Errors
/// Which of the two is wrong.
pub fn check_content_type(
    accept: Accept,
    content_type: Option<&str>,
    body: &[u8],
) -> Result<(), ContentTypeError> {
    let essence = content_type.unwrap_or("").split(';').next().unwrap_or("").trim();
    let is = |name: &str| essence.eq_ignore_ascii_case(name);
    match accept {
        Accept::Any => Ok(()),
        Accept::Json if is("application/json") || is_plus_json(essence) => check_json(body),
        Accept::Form if is("application/x-www-form-urlencoded") => check_form(body),
        Accept::Json | Accept::Form => Err(ContentTypeError::Type),
    }
}

fn is_plus_json(essence: &str) -> bool {
    let suffix = essence.rfind('+').map(|at| &essence[at..]);
    suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
}

fn check_json(body: &[u8]) -> Result<(), ContentTypeError> {
    json::validate(body).map_err(|why| ContentTypeError::Form(format!("body is {why}")))
}

fn check_form(body: &[u8]) -> Result<(), ContentTypeError> {
    let wrong = |text: &str| Err(ContentTypeError::Form(format!("body is not a form: {text}")));
    let body = json::without_mark(body);
    if !body.is_ascii() {
        return wrong("it has bytes beyond ASCII");
    }
    let mut left = body;
    while let Some(at) = left.iter().position(|&byte| byte == b'%') {
        match left.get(at + 1..at + 3) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => left = &left[at + 3..],
            _ => return wrong("a % without two hex digits"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_must_say_so_and_parse_to_a_depth_of_128() {
        let json = |content_type, body: &str| {
            check_content_type(Accept::Json, content_type, body.as_bytes())
        };
        assert_eq!(json(Some("application/json; charset=utf-8"), "{}"), Ok(()));
        assert_eq!(json(Some("application/cloudevents+json"), "[1]"), Ok(()));
        assert_eq!(json(Some("text/plain"), "{}"), Err(ContentTypeError::Type));
        assert_eq!(json(None, "{}"), Err(ContentTypeError::Type));
        assert!(matches!(json(Some("application/json"), "{"), Err(ContentTypeError::Form(_))));
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(json(Some("application/json"), &nested(128)), Ok(()));
        assert!(matches!(
            json(Some("application/json"), &nested(129)),
            Err(ContentTypeError::Form(_))
        ));
        let text = format!("[{:?}]", "[\"".repeat(200));
        assert_eq!(json(Some("application/json"), &text), Ok(()));
        assert!(matches!(
            json(Some("application/json"), &nested(200_000)),
            Err(ContentTypeError::Form(_))
        ));
    }

    #[test]
    fn json_must_be_utf_8() {
        let json = |body: &[u8]| check_content_type(Accept::Json, Some("application/json"), body);
        assert!(matches!(json(b"[\"\xff\"]"), Err(ContentTypeError::Form(_))));
        assert!(matches!(json(b""), Err(ContentTypeError::Form(_))));
        assert!(matches!(json(b"{} {}"), Err(ContentTypeError::Form(_))));
        assert_eq!(json("[\"\u{fc}\", 1e999]".as_bytes()), Ok(()));
        assert_eq!(json(b"\xef\xbb\xbf{}"), Ok(()));
        assert!(matches!(json(b"\xef\xbb\xbf\xef\xbb\xbf{}"), Err(ContentTypeError::Form(_))));
    }

    #[test]
    fn a_form_must_say_so_and_be_encoded() {
        let form = |body: &str| {
            let content_type = Some("Application/X-WWW-Form-URLencoded");
            check_content_type(Accept::Form, content_type, body.as_bytes())
        };
        assert_eq!(form("a=1&b=%C3%A4"), Ok(()));
        assert_eq!(form("\u{feff}a=1"), Ok(()));
        assert!(matches!(form("a=%4"), Err(ContentTypeError::Form(_))));
        assert!(matches!(form("a=ä"), Err(ContentTypeError::Form(_))));
        assert_eq!(check_content_type(Accept::Form, None, b"a=1"), Err(ContentTypeError::Type));
    }

    #[test]
    fn anything_goes_where_nothing_is_asked_for() {
        assert_eq!(check_content_type(Accept::Any, None, b"\xff\0"), Ok(()));
    }
}
