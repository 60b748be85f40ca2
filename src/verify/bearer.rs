//! `bearer` (RFC 6750) and `basic` (RFC 7617): a shared secret in `Authorization`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::proof::{Proof, Reason};
use super::secrets::SharedSecrets;
use super::settings::SchemeSettings;
use super::{OutgoingRequest, SignedRequest, VerificationScheme};

pub(super) struct Bearer(SharedSecrets);

impl Bearer {
    pub fn new(settings: &SchemeSettings<'_>) -> Self {
        Self(settings.shared_secrets())
    }
}

impl VerificationScheme for Bearer {
    fn check(&self, request: &SignedRequest<'_>, _: i64) -> Result<Proof, Reason> {
        self.0.check(credentials(request, "bearer")?, "bearer token does not match")
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, _: i64) -> Result<(), Reason> {
        let token = String::from_utf8(self.0.signing_secret(outgoing)?);
        let token = token.map_err(|_| "the secret is not UTF-8")?;
        outgoing.set_header("authorization", format!("Bearer {token}"));
        Ok(())
    }

    fn www_authenticate(&self) -> Option<&'static str> {
        Some("Bearer")
    }
}

pub(super) struct Basic(SharedSecrets);

impl Basic {
    pub fn new(user: &str, settings: &SchemeSettings<'_>) -> Self {
        let pair = |secret: &&[u8]| [user.as_bytes(), b":", secret].concat();
        let pairs: Vec<Vec<u8>> = settings.secrets.iter().map(pair).collect();
        Self(SharedSecrets::new(pairs.iter().map(Vec::as_slice)))
    }
}

impl VerificationScheme for Basic {
    fn check(&self, request: &SignedRequest<'_>, _: i64) -> Result<Proof, Reason> {
        let value = credentials(request, "basic")?;
        let pair = STANDARD.decode(value).map_err(|_| "basic credentials are not base64")?;
        self.0.check(&pair, "user or password does not match")
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, _: i64) -> Result<(), Reason> {
        let pair = self.0.signing_secret(outgoing)?;
        outgoing.set_header("authorization", format!("Basic {}", STANDARD.encode(pair)));
        Ok(())
    }

    fn www_authenticate(&self) -> Option<&'static str> {
        Some(r#"Basic realm="hooktrail""#)
    }
}

/// Returns the credentials that follow the scheme's name in `Authorization`.
fn credentials<'a>(request: &SignedRequest<'a>, scheme: &str) -> Result<&'a [u8], Reason> {
    let value = request.required_header("authorization")?;
    let scheme_error = || Reason::from(format!("authorization is not {scheme}"));
    let gap = value.iter().position(|&byte| byte == b' ').ok_or_else(scheme_error)?;
    let (name, credentials) = value.split_at(gap);
    if name.eq_ignore_ascii_case(scheme.as_bytes()) {
        Ok(credentials.trim_ascii())
    } else {
        Err(scheme_error())
    }
}
