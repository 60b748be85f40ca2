//! The subject of a client certificate, as a text that can be stored.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use x509_parser::asn1_rs::{BmpString, Tag, ToDer};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, X509Certificate, X509Name};

use crate::redact::Redactor;

/// A certificate may have a subject of any length.
const MAX_BYTES: usize = 1 << 10;

/// The short names of attributes (RFC 4514 section 3), and those that OpenSSL prints too.
const SHORT_NAMES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("2.5.4.5", "serialNumber"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// The subject of the certificate that a client showed on its connection, such as `CN=paminga,O=Paminga Inc`. It is at
/// most 1 KiB long and has no control characters, because it becomes an environment variable and a part of lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSubject(Arc<str>);

impl ClientSubject {
    /// Reads the subject of a certificate in DER. `None`: it can't be read.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self::new(&format_name(certificate.subject())?))
    }

    /// Bounds a subject. A control character becomes the hexadecimal digits of its bytes, each after a backslash
    /// (RFC 4514 section 2.4). What follows the last character within 1 KiB is left out.
    fn new(subject: &str) -> Self {
        let mut bounded = String::with_capacity(subject.len().min(MAX_BYTES));
        for c in subject.chars() {
            let start = bounded.len();
            if c.is_control() {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    // A write to a string can't fail.
                    let _ = write!(bounded, "\\{byte:02X}");
                }
            } else {
                bounded.push(c);
            }
            if bounded.len() > MAX_BYTES {
                bounded.truncate(start);
                break;
            }
        }
        Self(bounded.into())
    }

    /// Returns the subject without known secrets.
    pub fn redact(&self, redactor: &Redactor) -> Arc<str> {
        match redactor.redact(&self.0) {
            Cow::Borrowed(_) => Arc::clone(&self.0),
            Cow::Owned(redacted) => redacted.into(),
        }
    }
}

/// Formats a name by RFC 4514, so that no value can look like two attributes: the last part first, such as
/// `CN=paminga,O=Paminga Inc`. `None`: a text in it is invalid.
fn format_name(name: &X509Name<'_>) -> Option<String> {
    let mut text = String::new();
    let parts: Vec<_> = name.iter().collect();
    for (index, part) in parts.into_iter().rev().enumerate() {
        for (number, attribute) in part.iter().enumerate() {
            match (index, number) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            format_attribute(&mut text, attribute)?;
        }
    }
    Some(text)
}

fn format_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) -> Option<()> {
    let oid = attribute.attr_type().to_id_string();
    let known = SHORT_NAMES.iter().find(|(known, _)| *known == oid);
    text.push_str(known.map_or(&oid, |(_, name)| name));
    text.push('=');
    let value = attribute.attr_value();
    match value.tag() {
        _ if known.is_none() => push_der(text, &value.to_der_vec_raw().ok()?),
        Tag::BmpString => escape_value(text, &BmpString::try_from(value.clone()).ok()?.string()),
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString
        | Tag::T61String => escape_value(text, std::str::from_utf8(value.data).ok()?),
        _ => push_der(text, &value.to_der_vec_raw().ok()?),
    }
    Some(())
}

/// Adds a value of an unknown type as its encoding (RFC 4514 section 2.4).
fn push_der(text: &mut String, der: &[u8]) {
    text.push('#');
    text.push_str(&hex::encode(der));
}

/// Adds a text with a backslash before each character that has a meaning in a name (RFC 4514 section 2.4).
fn escape_value(text: &mut String, value: &str) {
    let last = value.char_indices().next_back().map(|(at, _)| at);
    for (at, c) in value.char_indices() {
        let is_special = match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => true,
            '#' => at == 0,
            ' ' => at == 0 || Some(at) == last,
            _ => false,
        };
        if is_special {
            text.push('\\');
        }
        text.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    /// The subject of a certificate with these attributes, as it is stored.
    fn subject_of(attributes: &[(DnType, DnValue)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let subject = ClientSubject::of_certificate(certificate.der()).expect("a subject");
        subject.redact(&Redactor::default()).to_string()
    }

    fn utf8(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    #[test]
    fn a_subject_is_written_by_rfc_4514_with_its_last_attribute_first() {
        let attributes = [
            (DnType::CountryName, DnValue::PrintableString("SE".try_into().unwrap())),
            (DnType::OrganizationName, utf8("Paminga Inc")),
            (DnType::CommonName, utf8("paminga é")),
        ];
        assert_eq!(subject_of(&attributes), "CN=paminga é,O=Paminga Inc,C=SE");
        let bmp = DnValue::BmpString("Žluť".try_into().unwrap());
        assert_eq!(subject_of(&[(DnType::CommonName, bmp)]), "CN=Žluť");
        let serial = DnType::CustomDnType(vec![2, 5, 4, 5]);
        assert_eq!(subject_of(&[(serial, utf8("7"))]), "serialNumber=7");
        let unknown = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 32473, 1]);
        assert_eq!(subject_of(&[(unknown, utf8("ab"))]), "1.3.6.1.4.1.32473.1=#0c026162");
        assert_eq!(subject_of(&[]), "");
    }

    #[test]
    fn a_value_of_a_subject_never_looks_like_another_attribute() {
        let common_name = |text: &str| subject_of(&[(DnType::CommonName, utf8(text))]);
        assert_eq!(common_name("a,O=Paminga Inc"), "CN=a\\,O=Paminga Inc");
        assert_eq!(common_name("a+O=b;\"<\\>"), "CN=a\\+O=b\\;\\\"\\<\\\\\\>");
        assert_eq!(common_name("# a "), "CN=\\# a\\ ");
        assert_eq!(common_name(" "), "CN=\\ ");
        assert_eq!(common_name("a\nb\0"), "CN=a\\0Ab\\00");
    }

    #[test]
    fn what_is_no_certificate_has_no_subject() {
        assert_eq!(ClientSubject::of_certificate(b""), None);
        assert_eq!(ClientSubject::of_certificate(b"-----BEGIN CERTIFICATE-----"), None);
    }

    fn bounded(subject: &str) -> String {
        ClientSubject::new(subject).redact(&Redactor::default()).to_string()
    }

    #[test]
    fn a_subject_is_cut_at_a_character_within_1_kib() {
        let whole = format!("CN={}", "a".repeat(1021));
        assert_eq!(bounded(&whole), whole);
        assert_eq!(bounded(&format!("{whole}b")), whole);
        let wide = format!("CN={}", "é".repeat(600));
        assert_eq!(bounded(&wide), format!("CN={}", "é".repeat(510)));
        let escaped = format!("{}\n", "a".repeat(1022));
        assert_eq!(bounded(&escaped), "a".repeat(1022));
    }

    #[test]
    fn control_characters_of_a_subject_are_escaped() {
        assert_eq!(bounded("CN=a\0b\r\n\u{85}\\2C"), "CN=a\\00b\\0D\\0A\\C2\\85\\2C");
        assert_eq!(bounded("CN=Žluťoučký,O=\"x\""), "CN=Žluťoučký,O=\"x\"");
        assert_eq!(bounded(""), "");
    }

    #[test]
    fn a_known_secret_in_a_subject_is_redacted() {
        let redactor = Redactor::default().with(["other-secret"]).unwrap();
        let subject = ClientSubject::new("CN=other-secret,O=a");
        assert_eq!(&*subject.redact(&redactor), "CN=[redacted],O=a");
    }
}
