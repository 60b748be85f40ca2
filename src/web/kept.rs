//! A request as it is kept: byte for byte, but for what its source read as its secret, and
//! `Authorization` and `Cookie`, which stand as `[secret]`.

use super::verify::{Verifier, is_named};

const SECRET: &str = "[secret]";

/// Header lines, `name: value` each.
pub fn headers(verifier: &Verifier, lines: &[(&str, &[u8])]) -> Vec<u8> {
    let size = lines.iter().map(|(name, value)| name.len() + value.len() + 3).sum();
    let mut kept = Vec::with_capacity(size);
    for (name, value) in lines {
        let secret = matches!(*name, "authorization" | "cookie" | "proxy-authorization")
            || verifier.secret_header() == Some(name);
        kept.extend_from_slice(name.as_bytes());
        kept.extend_from_slice(b": ");
        kept.extend_from_slice(if secret { SECRET.as_bytes() } else { value });
        kept.push(b'\n');
    }
    kept
}

/// The query, the token's value replaced wherever its name stands.
pub fn query(verifier: &Verifier, query: &str) -> String {
    let Some(secret) = verifier.secret_parameter() else { return query.to_owned() };
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_named(name, secret) => format!("{name}={SECRET}"),
        _ => pair.to_owned(),
    };
    query.split('&').map(pair).collect::<Vec<_>>().join("&")
}

/// The path, its last segment replaced where it is the token.
pub fn path(verifier: Option<&Verifier>, path: &str) -> String {
    match path.rsplit_once('/') {
        Some((own, _)) if verifier.is_some_and(Verifier::secret_segment) => {
            format!("{own}/{SECRET}")
        }
        _ => path.to_owned(),
    }
}
