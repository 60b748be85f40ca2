//! The digests of sealed rows: SHA-256 over their columns, each with its length before it.
//!
//! Digests of rows are cut to 16 bytes. To change a row later, an attacker has to find another row with a given digest,
//! which takes 2^128 steps. Collisions, which 2^64 steps find, are of no use: content is hashed with a salt that its
//! sender cannot know. The digests of seals are whole.

use ring::digest::{Context, SHA256};
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use crate::clock;
use crate::domain::quote;

/// SHA-256 of a row or a part of it, cut to 16 bytes.
pub type Digest = [u8; 16];

/// SHA-256 of a seal or of a subtree.
pub type TreeDigest = [u8; 32];

/// The bytes of a salt for one digest.
const SALT_BYTES: usize = 16;

/// Stands for the outputs of an attempt without any.
const NO_OUTPUTS: Digest = [0; 16];

/// Hashes values, so that no two sequences of values have the same bytes.
pub(super) struct ValueHasher(Context);

impl ValueHasher {
    /// `kind` says what the values are.
    pub fn new(kind: &str) -> Self {
        let mut hasher = Self(Context::new(&SHA256));
        hasher.bytes(kind.as_bytes());
        hasher
    }

    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.update(&(value.len() as u64).to_be_bytes());
        self.0.update(value);
        self
    }

    pub fn number(&mut self, value: i64) -> &mut Self {
        self.0.update(&value.to_be_bytes());
        self
    }

    fn optional_bytes(&mut self, value: Option<&[u8]>) -> &mut Self {
        match value {
            Some(value) => self.number(1).bytes(value),
            None => self.number(0),
        }
    }

    fn optional_number(&mut self, value: Option<i64>) -> &mut Self {
        match value {
            Some(value) => self.number(1).number(value),
            None => self.number(0),
        }
    }

    /// Returns the digest of a leaf of the tree. The bytes that were hashed begin with 0, as RFC 9162 wants it: those
    /// of the length of `kind`.
    pub fn tree_digest(self) -> TreeDigest {
        finish(self.0)
    }

    fn digest(self) -> Digest {
        let mut digest = Digest::default();
        digest.copy_from_slice(&self.0.finish().as_ref()[..size_of::<Digest>()]);
        digest
    }
}

fn finish(context: Context) -> TreeDigest {
    let mut digest = TreeDigest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Returns the digest of a subtree from those of its halves (RFC 9162 section 2.1.1).
pub(super) fn parent_digest(left: &TreeDigest, right: &TreeDigest) -> TreeDigest {
    let mut context = Context::new(&SHA256);
    context.update(&[1]);
    context.update(left);
    context.update(right);
    finish(context)
}

/// Returns the root of a tree without leaves.
pub(super) fn empty_root() -> TreeDigest {
    finish(Context::new(&SHA256))
}

/// The columns of an event that stay when its content is removed.
#[derive(Clone, Copy, Debug)]
pub struct EventFields<'a> {
    pub uid: &'a [u8],
    pub source: &'a str,
    pub received_at_ms: i64,
    pub method: &'a str,
    pub path: &'a str,
    pub ip: &'a str,
    /// The subject of the client certificate.
    pub client: Option<&'a str>,
    /// The key under which the machine that sent the event knows it.
    pub origin_key: Option<&'a str>,
    /// The size of the body.
    pub body_bytes: i64,
}

/// Stands before an origin key. It is the length of no client, so no event without a key has the digest of one with it.
const ORIGIN_KEY_MARK: i64 = -1;

pub fn event_digest(fields: &EventFields<'_>, content: &[u8]) -> Digest {
    let mut hasher = ValueHasher::new("event");
    hasher
        .bytes(fields.uid)
        .bytes(fields.source.as_bytes())
        .number(fields.received_at_ms)
        .bytes(fields.method.as_bytes())
        .bytes(fields.path.as_bytes())
        .bytes(fields.ip.as_bytes())
        .number(fields.body_bytes)
        .bytes(content);
    // Earlier events were sealed without these columns, so one that is NULL adds nothing.
    if let Some(client) = fields.client {
        hasher.bytes(client.as_bytes());
    }
    if let Some(key) = fields.origin_key {
        hasher.number(ORIGIN_KEY_MARK).bytes(key.as_bytes());
    }
    hasher.digest()
}

/// Returns the digest of the parts of an event that can be removed.
pub fn event_content_digest(
    salt: &[u8],
    query: Option<&[u8]>,
    headers: &[u8],
    body: &[u8],
) -> Digest {
    let mut hasher = ValueHasher::new("content");
    hasher.bytes(salt).optional_bytes(query).bytes(headers).bytes(body);
    hasher.digest()
}

/// What an event stores for its seal.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventSeal {
    pub salt: [u8; SALT_BYTES],
    pub digest: Digest,
}

/// The columns of an outcome that stay when its content is removed.
#[derive(Clone, Copy, Debug)]
pub struct AttemptFields<'a> {
    pub event: i64,
    pub item: Option<i64>,
    pub job: i64,
    pub attempt: i64,
    pub outcome: &'a str,
    pub ended_at_ms: i64,
    pub duration_ms: i64,
    pub next_at_ms: Option<i64>,
}

/// The other columns of an outcome.
#[derive(Clone, Copy, Debug)]
pub enum AttemptContent<'a> {
    /// Nothing can be removed: there are no outputs, and the detail quotes nothing.
    Permanent { detail: &'a str },
    /// The digests of the detail and of the outputs.
    Removable { detail: Digest, outputs: Digest },
}

/// `handler`: the name.
pub fn attempt_digest(
    handler: &str,
    fields: &AttemptFields<'_>,
    content: &AttemptContent<'_>,
) -> Digest {
    let mut hasher = ValueHasher::new("outcome");
    hasher
        .number(fields.event)
        .optional_number(fields.item)
        .bytes(handler.as_bytes())
        .number(fields.job)
        .number(fields.attempt)
        .bytes(fields.outcome.as_bytes())
        .number(fields.ended_at_ms)
        .number(fields.duration_ms)
        .optional_number(fields.next_at_ms);
    match content {
        AttemptContent::Permanent { detail } => hasher.number(0).bytes(detail.as_bytes()),
        AttemptContent::Removable { detail, outputs } => {
            hasher.number(1).bytes(detail).bytes(outputs)
        }
    };
    hasher.digest()
}

/// What an attempt whose content can be removed stores for its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptSeal {
    /// The salt of the detail, and behind it that of the outputs, if there are any.
    pub salt: Vec<u8>,
    pub(super) detail: Digest,
    pub(super) outputs: Digest,
}

impl AttemptSeal {
    /// Returns the seal of an attempt. `None`: nothing of it can be removed.
    pub fn new(detail: &str, stdout: &[u8], stderr: &[u8]) -> Option<Self> {
        let has_outputs = !stdout.is_empty() || !stderr.is_empty();
        if !has_outputs && !quote::may_quote(detail) {
            return None;
        }
        // Without random bytes the attempt is recorded all the same.
        let salt = || clock::random_id().unwrap_or_default();
        let mut salts = salt().to_vec();
        if has_outputs {
            salts.extend_from_slice(&salt());
        }
        Some(Self::with_salt(salts, detail, stdout, stderr))
    }

    /// Returns the seal of an attempt with its stored salt.
    pub fn with_salt(salt: Vec<u8>, detail: &str, stdout: &[u8], stderr: &[u8]) -> Self {
        let (detail_salt, output_salt) = salt.split_at(salt.len().min(SALT_BYTES));
        let mut hasher = ValueHasher::new("detail");
        hasher.bytes(detail_salt).bytes(detail.as_bytes());
        let detail = hasher.digest();
        let outputs = match output_salt {
            [] => NO_OUTPUTS,
            salt => outputs_digest(salt, stdout, stderr),
        };
        Self { salt, detail, outputs }
    }

    pub(super) fn has_outputs(&self) -> bool {
        self.salt.len() > SALT_BYTES
    }

    pub(in crate::store) fn content(&self) -> AttemptContent<'static> {
        AttemptContent::Removable { detail: self.detail, outputs: self.outputs }
    }

    /// Returns the `content_digest` of an attempt whose detail is removed. `outputs`: the digest of its outputs, if it
    /// had some, which are removed already.
    pub(in crate::store) fn removed_digest(
        salt: Vec<u8>,
        detail: &str,
        outputs: Option<&[u8]>,
    ) -> Vec<u8> {
        let detail = Self::with_salt(salt, detail, &[], &[]).detail;
        [outputs.unwrap_or(&NO_OUTPUTS), &detail].concat()
    }
}

fn outputs_digest(salt: &[u8], stdout: &[u8], stderr: &[u8]) -> Digest {
    let mut hasher = ValueHasher::new("outputs");
    hasher.bytes(salt).bytes(stdout).bytes(stderr);
    hasher.digest()
}

/// The columns of a rejection.
#[derive(Clone, Copy, Debug)]
pub struct RejectionFields<'a> {
    pub at_ms: i64,
    pub source: Option<&'a str>,
    pub method: &'a str,
    pub path: &'a str,
    pub ip: &'a str,
    pub status: i64,
    pub reason: &'a str,
    pub bytes: i64,
}

pub fn rejection_digest(fields: &RejectionFields<'_>) -> Digest {
    let mut hasher = ValueHasher::new("rejection");
    hasher
        .number(fields.at_ms)
        .optional_bytes(fields.source.map(str::as_bytes))
        .bytes(fields.method.as_bytes())
        .bytes(fields.path.as_bytes())
        .bytes(fields.ip.as_bytes())
        .number(fields.status)
        .bytes(fields.reason.as_bytes())
        .number(fields.bytes);
    hasher.digest()
}

/// Returns the digest of the final count of a rejection.
pub fn count_digest(rejection: i64, count: i64) -> Digest {
    let mut hasher = ValueHasher::new("count");
    hasher.number(rejection).number(count);
    hasher.digest()
}

/// Adds the SQL functions by which statements put a digest in the place of what they remove.
///
/// # Errors
/// SQLite has no memory.
pub fn register_functions(conn: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    conn.create_scalar_function("event_content_digest", 4, flags, |context| {
        let values = [0, 1, 2, 3].map(|index| context.get_raw(index).as_bytes_or_null());
        let [salt, query, headers, body] = values;
        let (salt, query, headers, body) = (salt?, query?, headers?, body?);
        let present = Option::unwrap_or_default;
        Ok(event_content_digest(present(salt), query, present(headers), present(body)))
    })?;
    conn.create_scalar_function("attempt_outputs_digest", 3, flags, |context| {
        let values = [0, 1, 2].map(|index| context.get_raw(index).as_bytes_or_null());
        let [salt, stdout, stderr] = values;
        let salt = salt?.unwrap_or_default().get(SALT_BYTES..).unwrap_or_default();
        Ok(outputs_digest(salt, stdout?.unwrap_or_default(), stderr?.unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_values_cannot_take_bytes_from_each_other() {
        let digest =
            |query, headers: &[u8], body: &[u8]| event_content_digest(b"s", query, headers, body);
        let different = [
            digest(None, b"ab", b"c"),
            digest(None, b"a", b"bc"),
            digest(Some(b"".as_slice()), b"ab", b"c"),
            digest(Some(b"a".as_slice()), b"b", b"c"),
        ];
        for (index, one) in different.iter().enumerate() {
            assert!(!different[index + 1..].contains(one), "{index}");
        }
    }

    #[test]
    fn a_client_an_origin_key_and_both_have_different_digests() {
        let digest = |client, origin_key| {
            let fields = EventFields {
                uid: &[7; 16],
                source: "a",
                received_at_ms: 1,
                method: "POST",
                path: "/hooks/a",
                ip: "",
                client,
                origin_key,
                body_bytes: 2,
            };
            event_digest(&fields, b"content")
        };
        let different = [
            digest(None, None),
            digest(Some("x"), None),
            digest(None, Some("x")),
            digest(Some("x"), Some("x")),
            digest(Some(""), Some("x")),
            digest(Some("x"), Some("")),
            digest(Some(""), None),
            digest(None, Some("")),
        ];
        for (index, one) in different.iter().enumerate() {
            assert!(!different[index + 1..].contains(one), "{index}");
        }
    }

    #[test]
    fn an_attempt_has_a_salt_if_something_of_it_can_be_removed() {
        assert_eq!(AttemptSeal::new("exit 0", b"", b""), None);
        let salt_bytes =
            |detail, stdout| AttemptSeal::new(detail, stdout, b"").map(|seal| seal.salt.len());
        assert_eq!(salt_bytes("exit 1: bob is unknown", b""), Some(16));
        assert_eq!(salt_bytes("exit 0", b"ok"), Some(32));
    }

    #[test]
    fn sql_functions_make_the_same_digests() {
        let conn = Connection::open_in_memory().unwrap();
        register_functions(&conn).unwrap();
        let content: Digest = conn
            .query_row("SELECT event_content_digest(x'07', 'q', x'01', x'')", [], |row| row.get(0))
            .unwrap();
        assert_eq!(content, event_content_digest(&[7], Some(b"q"), &[1], b""));
        let seal = AttemptSeal::with_salt(vec![9; 32], "exit 0", b"out", b"");
        let outputs: Digest = conn
            .query_row("SELECT attempt_outputs_digest(?1, x'6f7574', NULL)", [&seal.salt], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(outputs, seal.outputs);
    }
}
