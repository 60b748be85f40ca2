//! Decodes forms and queries (`application/x-www-form-urlencoded`,
//! <https://url.spec.whatwg.org/#urlencoded-parsing>). All parsers of them are here, so that a
//! signature check, an expression and a script see the same fields.
//!
//! Names and values are bytes. The crate `form_urlencoded` gives text, in which each byte that is
//! not UTF-8 becomes the same character: two bodies would then have one signed text.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::percent_decode;

/// The name and value of a field, decoded.
pub type FormField<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// Iterates over the fields in their order. A field without escapes is not copied.
pub fn fields(text: &[u8]) -> impl Iterator<Item = FormField<'_>> {
    let pairs = text.split(|&byte| byte == b'&');
    pairs.filter(|pair| !pair.is_empty()).map(|pair| {
        let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        (decode(&pair[..at]), decode(pair.get(at + 1..).unwrap_or_default()))
    })
}

/// Iterates over the decoded name of each field, and the range of its value as it is written. Without an equals
/// sign the range is empty.
pub fn locate_fields(text: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Range<usize>)> {
    let mut next = 0;
    let pairs = text.split(|&byte| byte == b'&').map(move |pair| {
        let start = next;
        next += pair.len() + 1;
        (start, pair)
    });
    pairs.filter(|(_, pair)| !pair.is_empty()).map(|(start, pair)| {
        let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        (decode(&pair[..at]), start + (at + 1).min(pair.len())..start + pair.len())
    })
}

/// Decodes a name or value. An invalid escape stays as it is.
pub fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'+', b'%', text).is_none() {
        return Cow::Borrowed(text);
    }
    let spaced: Vec<u8> = text.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_that_are_not_utf8_stay_as_they_are() {
        let all: Vec<FormField<'_>> = fields(b"a=%ff&\xfe=+%2B&&b&=c&d==%").collect();
        let expected: [(&[u8], &[u8]); 5] =
            [(b"a", b"\xff"), (b"\xfe", b" +"), (b"b", b""), (b"", b"c"), (b"d", b"=%")];
        assert_eq!(all, expected.map(|(name, value)| (name.into(), value.into())));
    }

    proptest! {
        #[test]
        fn the_range_of_a_field_has_its_value(text in "[a-c=&+%0-9A-F\u{e9}]{0,60}") {
            let text = text.as_bytes();
            let located = locate_fields(text).map(|(name, range)| (name, decode(&text[range])));
            prop_assert_eq!(located.collect::<Vec<_>>(), fields(text).collect::<Vec<_>>());
        }

        #[test]
        fn fields_are_those_of_the_standards_parser(text in "[a-c=&+%0-9A-F\u{e9}]{0,60}") {
            let ours = fields(text.as_bytes()).map(|(name, value)| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (text(&name), text(&value))
            });
            let standard = form_urlencoded::parse(text.as_bytes()).into_owned();
            prop_assert_eq!(ours.collect::<Vec<_>>(), standard.collect::<Vec<_>>());
        }
    }
}
