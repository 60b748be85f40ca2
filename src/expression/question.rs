//! What is asked of one event at intake, all at once, and what comes back.

use std::io;

use super::{Expression, Items, Scene};
use crate::domain::stamp::Stamp;

/// What one handler asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taker {
    pub when: Option<Expression>,
    pub split: Option<Expression>,
    pub order_by: Option<Expression>,
    pub newest_by: Option<Expression>,
    pub once_by: Option<Expression>,
    pub collapse_by: Option<Expression>,
}

/// What is asked of an event: made once for each source.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    dedupe: Option<Expression>,
    takers: Vec<Taker>,
}

impl Questions {
    /// `takers`: the source's handlers, in the order in which answers are wanted.
    pub fn new(dedupe: Option<Expression>, takers: Vec<Taker>) -> Self {
        Self { dedupe, takers }
    }

    /// Whether there is nothing to be asked.
    pub fn is_empty(&self) -> bool {
        self.dedupe.is_none() && self.takers.iter().all(|taker| *taker == Taker::default())
    }

    pub fn dedupe(&self) -> Option<&Expression> {
        self.dedupe.as_ref()
    }

    pub fn takers(&self) -> &[Taker] {
        &self.takers
    }

    /// Answers in place, where everything that matters is simple and the body plain JSON, with the
    /// result that the pool would give; `None`: ask the pool.
    pub fn at_once(&self, _scene: &Scene<'_>) -> Option<Answers> {
        self.is_empty().then(|| Answers {
            dedupe: Ok(None),
            takers: self.takers.iter().map(|_| Taken::Yes(Wanted::default())).collect(),
        })
    }
}

/// What the questions came to.
#[derive(Debug)]
pub struct Answers {
    /// The key, if any; else the reason why it could not be had.
    pub dedupe: Result<Option<String>, String>,
    /// In the order of the questions' takers.
    pub takers: Vec<Taken>,
}

/// What a handler makes of an event.
#[derive(Debug)]
pub enum Taken {
    No,
    /// The expression `which` (`when` or `split`) failed.
    Failed {
        which: &'static str,
        reason: String,
    },
    Yes(Wanted),
}

/// An event that a handler takes.
#[derive(Debug, Default)]
pub struct Wanted {
    /// With `split`: its outputs, each a job.
    pub items: Option<Items>,
    pub keys: Keyring,
    /// `order_by: reason`: a `…_by` that failed is no key. One line for each of them.
    pub faults: Vec<String>,
}

/// The keys of a handler's jobs.
#[derive(Debug, Default)]
pub enum Keyring {
    /// The handler has no `…_by`.
    #[default]
    None,
    /// Without `split`.
    One(Keys),
    /// With `split`: those of each item, kept as the items are.
    Many(Items),
}

impl Keyring {
    /// The keys of the item at `at`, from 0; without `split` the job's, whatever `at` is.
    ///
    /// # Errors
    /// The file that they are in can't be read.
    pub fn get(&self, at: usize) -> io::Result<Keys> {
        match self {
            Self::None => Ok(Keys::default()),
            Self::One(keys) => Ok(keys.clone()),
            Self::Many(items) => {
                let mut bytes = Vec::new();
                items.get(at, &mut bytes)?;
                Keys::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
        }
    }
}

/// The keys of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    pub order: Option<String>,
    pub newest: Option<Stamp>,
    pub once: Option<String>,
    pub collapse: Option<String>,
}

/// One byte says which field comes, four how long it is; what is not there is left out.
impl Keys {
    pub fn encode(&self, to: &mut Vec<u8>) {
        let (number, text) = match &self.newest {
            None => (None, None),
            Some(Stamp::Number(digits)) => (Some(digits), None),
            Some(Stamp::Text(text)) => (None, Some(text)),
        };
        let fields =
            [self.order.as_ref(), number, text, self.once.as_ref(), self.collapse.as_ref()];
        for (kind, value) in (0_u8..).zip(fields) {
            let Some(value) = value else { continue };
            to.push(kind);
            to.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            to.extend_from_slice(value.as_bytes());
        }
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut keys = Self::default();
        while let Some((&kind, rest)) = bytes.split_first() {
            let (length, rest) = rest.split_first_chunk()?;
            let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let value = String::from_utf8(value.to_vec()).ok()?;
            match kind {
                0 => keys.order = Some(value),
                1 => keys.newest = Some(Stamp::Number(value)),
                2 => keys.newest = Some(Stamp::Text(value)),
                3 => keys.once = Some(value),
                4 => keys.collapse = Some(value),
                _ => return None,
            }
            bytes = rest;
        }
        Some(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_after_they_were_kept() {
        let text = |text: &str| Some(text.to_owned());
        let all = [
            Keys::default(),
            Keys { order: text("a"), once: text(""), ..Keys::default() },
            Keys { newest: Some(Stamp::Number("1e999".to_owned())), ..Keys::default() },
            Keys {
                newest: Some(Stamp::Text("ü".to_owned())),
                collapse: text("b"),
                ..Keys::default()
            },
        ];
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for keys in &all {
            keys.encode(&mut bytes);
            ends.push(bytes.len() as u64);
        }
        let ring = Keyring::Many(Items::new(bytes, ends));
        for (at, keys) in all.iter().enumerate() {
            assert_eq!(ring.get(at).unwrap(), *keys);
        }
        assert!(ring.get(4).is_err());
    }

    #[test]
    fn without_a_split_there_is_one_set_of_keys() {
        let keys = Keys { order: Some("a".to_owned()), ..Keys::default() };
        assert_eq!(Keyring::One(keys.clone()).get(7).unwrap(), keys);
        assert_eq!(Keyring::None.get(0).unwrap(), Keys::default());
    }
}
