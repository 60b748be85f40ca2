//! Reads `multipart/form-data` as an object of its fields. Names nest as in forms. Files are
//! `{name, type, base64}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jaq_json::{Map, Val};

use super::form::Form;
use crate::multipart;

/// Parses a body; `None`: it is malformed, incomplete, or has too many fields.
pub(super) fn read(content_type: &str, body: &[u8]) -> Option<Val> {
    let mut form = Form::default();
    multipart::for_each_part(content_type, body, |part| {
        // A part without a name is not a field.
        let Some(name) = part.name else { return Some(()) };
        let value = match part.file {
            Some(file) => file_value(file, part.content_type, &part.bytes),
            None => Val::from(String::from_utf8_lossy(&part.bytes).into_owned()),
        };
        form.add(&name, value)
    })?;
    Some(form.finish())
}

fn file_value(name: String, kind: Option<String>, bytes: &[u8]) -> Val {
    file_object(
        Val::from(name),
        kind.map_or(Val::Null, Val::from),
        Val::from(STANDARD.encode(bytes)),
    )
}

/// Makes the object of a file.
pub(super) fn file_object(name: Val, kind: Val, base64: Val) -> Val {
    let key = |key: &str| Val::from(key.to_owned());
    let members = [(key("name"), name), (key("type"), kind), (key("base64"), base64)];
    Val::obj(Map::from_iter(members))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=xx";

    fn body(parts: &[(&str, &str)]) -> String {
        let part = |(head, text): &(&str, &str)| format!("--xx\r\n{head}\r\n\r\n{text}\r\n");
        parts.iter().map(part).collect::<String>() + "--xx--\r\n"
    }

    fn field(name: &str) -> String {
        format!("Content-Disposition: form-data; name=\"{name}\"")
    }

    #[test]
    fn fields_are_text_and_files_are_base64() {
        let file = field("f") + "; filename=\"a.bin\"\r\nContent-Type: image/png";
        let parts =
            [(&*field("a"), "1"), (&file, "\0\u{1}"), (&field("b[]"), "2"), (&field("a"), "3")];
        let expected =
            r#"{"a":["1","3"],"f":{"name":"a.bin","type":"image/png","base64":"AAE="},"b":["2"]}"#;
        assert_eq!(read(TYPE, body(&parts).as_bytes()).unwrap().to_string(), expected);
    }

    #[test]
    fn a_malformed_or_incomplete_body_is_not_parsed() {
        let whole = body(&[(&field("a"), "1"), (&field("b"), "2")]);
        assert!(read(TYPE, whole.as_bytes()).is_some());
        assert!(read("multipart/form-data", whole.as_bytes()).is_none());
        assert!(read("multipart/form-data; boundary=yy", whole.as_bytes()).is_none());
        for cut in 0..whole.len() - 6 {
            assert!(read(TYPE, &whole.as_bytes()[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_form_with_too_many_fields_is_not_parsed() {
        let one = field("a[]");
        assert!(read(TYPE, body(&vec![(&*one, ""); 10_000]).as_bytes()).is_some());
        assert!(read(TYPE, body(&vec![(&*one, ""); 10_001]).as_bytes()).is_none());
    }
}
