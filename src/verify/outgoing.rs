//! An outgoing request, which `hooktrail send` and the tests sign as a sender does.

use super::url::PublicUrl;
use super::{SignedRequest, url};
use crate::media_type::BodyFormat;

/// A request before and after it is signed.
#[derive(Clone, Debug, Default)]
pub struct OutgoingRequest {
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    /// Lower-case name, value.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The unique id that the sender would give to the delivery.
    pub id: String,
    /// Whether to make the signature invalid.
    pub is_corrupt: bool,
}

impl OutgoingRequest {
    /// Sets a header and removes its other lines.
    pub fn set_header(&mut self, name: &str, value: impl Into<String>) {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.into()));
    }

    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn body_format(&self) -> BodyFormat {
        BodyFormat::from_content_type(self.header("content-type").unwrap_or_default().as_bytes())
    }

    /// Adds a query parameter or replaces it.
    pub(super) fn set_query_param(&mut self, name: &str, value: &[u8]) {
        let encode = |text: &[u8]| {
            percent_encoding::percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let query = self.query.take().unwrap_or_default();
        let mut pairs: Vec<String> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .filter(|pair| !super::param_name_matches(pair.split('=').next().unwrap_or(""), name))
            .map(str::to_owned)
            .collect();
        pairs.push(format!("{}={}", encode(name.as_bytes()), encode(value)));
        self.query = Some(pairs.join("&"));
    }

    /// The URL that the sender would call.
    pub(super) fn url(&self, configured: Option<&PublicUrl>) -> String {
        let headers = self.header_refs();
        url::public_url(configured, &self.as_signed_request(&headers))
    }

    /// The header lines as the server will receive them.
    pub(super) fn header_refs(&self) -> Vec<(&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
    }

    pub(super) fn as_signed_request<'a>(
        &'a self,
        headers: &'a [(&'a str, &'a [u8])],
    ) -> SignedRequest<'a> {
        SignedRequest {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers,
            body: &self.body,
            secret_segment: None,
            trusted_proxy_header: None,
        }
    }
}
