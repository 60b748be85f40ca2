//! Values of inline expressions, compared as jaq compares them.

use std::borrow::Cow;
use std::cmp::Ordering;

use jaq_core::ValT;
use jaq_json::{Num, Rc, Val};

use super::NotInlineable;

/// The output of an inline expression. Only the type of an array or object of the body is known, if
/// it is not empty.
#[derive(Clone, Debug)]
pub(in crate::expression) enum InlineValue<'a> {
    Null,
    Bool(bool),
    Number(InlineNumber<'a>),
    Text(Cow<'a, str>),
    Array(Vec<InlineValue<'a>>),
    Object(Vec<(Cow<'a, str>, InlineValue<'a>)>),
    BodyArray,
    BodyObject,
}

/// A number with its digits.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::expression) struct InlineNumber<'a> {
    digits: Cow<'a, str>,
    value: NumberValue,
}

/// The value of a number, as jaq reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum NumberValue {
    Whole(i64),
    Float(f64),
}

impl<'a> InlineNumber<'a> {
    /// Parses a number in an expression; `None`: it is a whole number beyond 64 bits.
    pub fn from_literal(digits: &str) -> Option<InlineNumber<'static>> {
        let number = InlineNumber::new(digits)?;
        let digits = match number.value {
            // `007` is 7.
            NumberValue::Whole(whole) => whole.to_string(),
            NumberValue::Float(_) => digits.to_owned(),
        };
        Some(InlineNumber { digits: Cow::Owned(digits), value: number.value })
    }

    pub fn negate(mut self) -> Self {
        match &mut self.value {
            NumberValue::Whole(0) => {}
            NumberValue::Whole(whole) => {
                *whole = -*whole;
                self.digits = Cow::Owned(whole.to_string());
            }
            NumberValue::Float(float) => {
                *float = -*float;
                self.digits = Cow::Owned(format!("-{}", self.digits));
            }
        }
        self
    }

    /// Parses a JSON number; `None`: it is a whole number beyond 64 bits.
    pub fn new(digits: &'a str) -> Option<Self> {
        // The same rule as in `json::number`.
        let is_whole = !digits.contains(['.', 'e', 'E']) && digits != "-0";
        let value = if is_whole {
            NumberValue::Whole(digits.parse().ok()?)
        } else {
            NumberValue::Float(digits.parse().ok()?)
        };
        Some(Self { digits: Cow::Borrowed(digits), value })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let float = |value| match value {
            NumberValue::Whole(whole) => whole as f64,
            NumberValue::Float(float) => float,
        };
        match (self.value, other.value) {
            (NumberValue::Whole(one), NumberValue::Whole(other)) => one.cmp(&other),
            (one, other) => {
                let (one, other) = (float(one), float(other));
                if one == 0.0 && other == 0.0 { Ordering::Equal } else { one.total_cmp(&other) }
            }
        }
    }
}

impl<'a> InlineValue<'a> {
    /// Converts a value of JSON that is known to be valid.
    pub fn from_json(raw: &'a str) -> Result<Self, NotInlineable> {
        Ok(match raw.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'[') if is_empty(raw) => Self::Array(Vec::new()),
            Some(b'[') => Self::BodyArray,
            Some(b'{') if is_empty(raw) => Self::Object(Vec::new()),
            Some(b'{') => Self::BodyObject,
            Some(b'"') => match raw.get(1..raw.len() - 1) {
                Some(text) if !text.contains('\\') => Self::Text(Cow::Borrowed(text)),
                _ => Self::Text(
                    serde_json::from_str::<String>(raw).map_err(|_| NotInlineable)?.into(),
                ),
            },
            _ => Self::Number(InlineNumber::new(raw).ok_or(NotInlineable)?),
        })
    }

    pub fn is_true(&self) -> bool {
        !matches!(self, Self::Null | Self::Bool(false))
    }

    /// Whether it is a list or an object with items; `None`: it is neither.
    pub fn has_items(&self) -> Option<bool> {
        match self {
            Self::Array(all) => Some(!all.is_empty()),
            Self::Object(all) => Some(!all.is_empty()),
            Self::BodyArray | Self::BodyObject => Some(true),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) => None,
        }
    }

    /// The number of bytes that it holds besides those of the body.
    pub fn copied_bytes(&self) -> usize {
        let nested_bytes = match self {
            Self::Text(Cow::Owned(text)) => return text.len(),
            Self::Array(all) => all.iter().map(Self::copied_bytes).sum::<usize>(),
            Self::Object(all) => all.iter().map(|(_, value)| value.copied_bytes()).sum(),
            _ => 0,
        };
        nested_bytes + size_of::<Self>()
    }

    /// The order of the types.
    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Number(_) => 2,
            Self::Text(_) => 3,
            Self::Array(_) | Self::BodyArray => 4,
            Self::Object(_) | Self::BodyObject => 5,
        }
    }

    pub fn compare(&self, other: &Self) -> Result<Ordering, NotInlineable> {
        Ok(match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => one.cmp(other),
            (Self::Number(one), Self::Number(other)) => one.cmp(other),
            (Self::Text(one), Self::Text(other)) => one.as_bytes().cmp(other.as_bytes()),
            (Self::Array(one), Self::Array(other)) => {
                for (one, other) in one.iter().zip(other) {
                    match one.compare(other)? {
                        Ordering::Equal => {}
                        order => return Ok(order),
                    }
                }
                one.len().cmp(&other.len())
            }
            (one, other) if one.rank() != other.rank() => one.rank().cmp(&other.rank()),
            (Self::Null, Self::Null) => Ordering::Equal,
            _ => return Err(NotInlineable),
        })
    }

    /// Converts to jaq's value, which is then written like any other.
    pub fn into_val(self) -> Result<Val, NotInlineable> {
        Ok(match self {
            Self::Null => Val::Null,
            Self::Bool(value) => Val::Bool(value),
            Self::Number(number) => match number.value {
                NumberValue::Whole(_) => {
                    Val::from_num(&number.digits).map_err(|_| NotInlineable)?
                }
                NumberValue::Float(_) => Val::Num(Num::Dec(Rc::new(number.digits.into_owned()))),
            },
            Self::Text(text) => Val::from(text.into_owned()),
            Self::Array(all) => all.into_iter().map(Self::into_val).collect::<Result<_, _>>()?,
            Self::Object(all) => {
                let members = all.into_iter();
                let members = members
                    .map(|(key, value)| Ok((Val::from(key.into_owned()), value.into_val()?)));
                Val::obj(members.collect::<Result<_, NotInlineable>>()?)
            }
            Self::BodyArray | Self::BodyObject => return Err(NotInlineable),
        })
    }
}

/// Whether there is nothing between the brackets of an array or object.
fn is_empty(raw: &str) -> bool {
    raw.get(1..raw.len() - 1).is_some_and(|inside| inside.trim_ascii().is_empty())
}
