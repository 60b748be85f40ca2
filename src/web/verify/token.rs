//! `token`: a shared secret in a header, a query parameter or the path's last segment.

use percent_encoding::percent_decode_str;

use super::{Asked, Scheme, Shared};
use crate::config::Verify;

pub(super) struct Token {
    secrets: Shared,
    header: Option<String>,
    parameter: Option<String>,
}

impl Token {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self {
            secrets: Shared::new(secrets.iter().copied()),
            header: verify.header.clone(),
            parameter: verify.query.clone(),
        }
    }

    /// Lets nobody in.
    pub fn nobody() -> Self {
        Self { secrets: Shared(Vec::new()), header: None, parameter: None }
    }
}

impl Scheme for Token {
    fn check(&self, asked: &Asked<'_>, _: i64) -> Result<(), String> {
        let (right, place) = match (&self.header, &self.parameter) {
            (Some(header), _) => (self.secrets.has(asked.header(header)?), "header"),
            (_, Some(name)) => {
                (self.secrets.has(&parameter(asked.query, name)?), "query parameter")
            }
            _ => {
                let segment = asked.secret_segment.ok_or("no token in the path")?;
                (self.secrets.has(segment.as_bytes()), "path segment")
            }
        };
        if right { Ok(()) } else { Err(format!("token in the {place} does not match")) }
    }
}

/// The value of a parameter that must be there once, decoded.
fn parameter(query: Option<&str>, name: &str) -> Result<Vec<u8>, String> {
    let pairs =
        query.unwrap_or("").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(found, _)| is_named(found, name));
    match (values.next(), values.next()) {
        (Some((_, value)), None) => {
            Ok(percent_decode_str(&value.replace('+', " ")).collect::<Vec<u8>>())
        }
        (None, _) => Err(format!("no query parameter {name}")),
        (Some(_), Some(_)) => Err(format!("more than one query parameter {name}")),
    }
}

/// Whether a name in a query is this one, however it is encoded.
pub fn is_named(sent: &str, name: &str) -> bool {
    sent == name || percent_decode_str(sent).decode_utf8().is_ok_and(|sent| sent == name)
}
