//! The idempotency key of a job, as handlers get it in `HOOKTRAIL_IDEMPOTENCY_KEY`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Sixteen bytes in base64.
const UID_CHARS: usize = 22;

/// The parts of an idempotency key. Its text is `UID-HANDLER-ITEM-REPLAY`, at most 100 characters. The last two
/// are always present, so that no two jobs share a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey<'a> {
    pub uid: [u8; 16],
    pub handler: &'a str,
    /// 0 without `split`.
    pub item: u32,
    /// 0 if the job was made when its event arrived.
    pub replay: u32,
}

impl<'a> IdempotencyKey<'a> {
    /// Parses a key. Returns `None` for a text that is not the key of a job.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (uid, rest) = text.split_at_checked(UID_CHARS)?;
        let uid = URL_SAFE_NO_PAD.decode(uid).ok()?.try_into().ok()?;
        let (rest, replay) = rest.strip_prefix('-')?.rsplit_once('-')?;
        let (handler, item) = rest.rsplit_once('-')?;
        let number = |text: &str| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten()
        };
        Some(Self { uid, handler, item: number(item)?, replay: number(replay)? })
    }

    /// When the event was received, in milliseconds since 1970: by the first machine that gave its jobs such keys. Any value if an
    /// earlier build made the key, or the event is of a message whose id is none of these keys.
    pub fn received_at_ms(&self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.uid;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl fmt::Display for IdempotencyKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, handler, item, replay } = self;
        write!(f, "{}-{handler}-{item}-{replay}", URL_SAFE_NO_PAD.encode(uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_parts_of_its_text() {
        for handler in ["crm", "a-1-2", "0"] {
            for uid in [[0; 16], [0xfb; 16], [0xff; 16]] {
                let key = IdempotencyKey { uid, handler, item: 3, replay: 12 };
                assert_eq!(IdempotencyKey::parse(&key.to_string()), Some(key));
            }
        }
        let text = "AZrX-wAAcACAAAAAAAAAAA-crm-0-0";
        let key = IdempotencyKey::parse(text).unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(key.received_at_ms(), 0x019a_d7fb_0000);
    }

    #[test]
    fn other_texts_are_no_keys() {
        for text in [
            "",
            "12",
            "crm-0-0",
            "AZrX-wAAcACAAAAAAAAAAA",
            "AZrX-wAAcACAAAAAAAAAAA-crm-0",
            "AZrX-wAAcACAAAAAAAAAAA-crm-0-x",
            "AZrX-wAAcACAAAAAAAAAAA-crm--1-0-",
            "AZrX-wAAcACAAAAAAAAAAA-crm-0-+1",
            "AZrX+wAAcACAAAAAAAAAAA-crm-0-0",
            "連絡連絡連絡連絡連絡連絡連絡連絡",
        ] {
            assert_eq!(IdempotencyKey::parse(text), None, "{text}");
        }
    }
}
