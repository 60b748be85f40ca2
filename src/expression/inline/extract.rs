//! Finds places in a JSON body in one pass. What no path leads to is skipped, not read.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{PathKey, PathStep};
use crate::json;

/// Up to here nothing that reads the body gives up. Beyond, it is left to jaq.
const DEPTH_MAX: usize = 120;

/// What is at a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ExtractedValue<'a> {
    /// Null, or nothing at all.
    Null,
    /// The value's text.
    Raw(&'a str),
    /// The path's part of this number can't be taken: what is there has no such keys.
    NotIndexable(usize),
}

/// The places to be found, as a tree of keys.
#[derive(Clone, Debug)]
pub(super) struct PathTree {
    nodes: Vec<PathNode>,
    count: usize,
}

#[derive(Clone, Debug, Default)]
struct PathNode {
    /// Parts of the path that lead here.
    depth: usize,
    /// Below it.
    children: Vec<(PathKey, usize)>,
    /// Where it is found, if it is asked for itself.
    slot: Option<usize>,
    /// Its own slot and those of all below it.
    slots: Range<usize>,
}

impl Default for PathTree {
    fn default() -> Self {
        Self { nodes: vec![PathNode::default()], count: 0 }
    }
}

impl PathTree {
    /// The number of a place, new or known; not yet its slot.
    pub fn add(&mut self, steps: &[PathStep]) -> usize {
        let mut at = 0;
        for step in steps {
            let known = self.nodes[at].children.iter().find(|(key, _)| *key == step.key);
            at = match known {
                Some((_, child)) => *child,
                None => {
                    let child = self.nodes.len();
                    let depth = self.nodes[at].depth + 1;
                    self.nodes.push(PathNode { depth, ..PathNode::default() });
                    self.nodes[at].children.push((step.key.clone(), child));
                    child
                }
            };
        }
        self.nodes[at].slot = Some(0);
        at
    }

    /// Numbers the slots so that those below a place follow its own.
    pub fn number(&mut self) {
        self.count = self.number_from(0, 0);
    }

    /// No path has more parts than are simple.
    fn number_from(&mut self, at: usize, start: usize) -> usize {
        let mut next = start;
        if self.nodes[at].slot.is_some() {
            self.nodes[at].slot = Some(next);
            next += 1;
        }
        for (_, child) in self.nodes[at].children.clone() {
            next = self.number_from(child, next);
        }
        self.nodes[at].slots = start..next;
        next
    }

    /// The slot of a place that was added.
    pub fn slot(&self, place: usize) -> usize {
        self.nodes[place].slot.unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What is at each place, by slot; `None`: the body is not plain.
    pub fn find<'de>(&self, body: &'de [u8]) -> Option<Vec<ExtractedValue<'de>>> {
        let text = std::str::from_utf8(body).ok()?;
        if !is_plain(body) {
            return None;
        }
        let mut found = vec![ExtractedValue::Null; self.count];
        let mut json = serde_json::Deserializer::from_str(text);
        ExtractVisitor { places: self, at: 0, found: &mut found }.deserialize(&mut json).ok()?;
        json.end().ok()?;
        Some(found)
    }
}

/// What is skipped is not looked into, neither for depth nor for halves of surrogate pairs.
fn is_plain(body: &[u8]) -> bool {
    let opens = body.iter().filter(|&&byte| matches!(byte, b'[' | b'{')).count();
    let pairs = memchr::memchr_iter(b'\\', body)
        .any(|at| matches!(body.get(at + 1..at + 3), Some([b'u', b'd' | b'D'])));
    !pairs && (opens <= DEPTH_MAX || json::depth(body) <= DEPTH_MAX)
}

struct ExtractVisitor<'p, 'f, 'de> {
    places: &'p PathTree,
    at: usize,
    found: &'f mut [ExtractedValue<'de>],
}

impl<'p, 'de> ExtractVisitor<'p, '_, 'de> {
    fn place(&self) -> &'p PathNode {
        &self.places.nodes[self.at]
    }

    fn fill(&mut self, place: usize, with: ExtractedValue<'de>) {
        self.found[self.places.nodes[place].slots.clone()].fill(with);
    }

    /// Places below what has no keys of one kind or of both.
    fn fault(&mut self, is_wrong: impl Fn(&PathKey) -> bool) {
        let place = self.place();
        for (key, child) in &place.children {
            let found = if is_wrong(key) {
                ExtractedValue::NotIndexable(place.depth)
            } else {
                ExtractedValue::Null
            };
            self.fill(*child, found);
        }
    }

    fn below(&mut self, child: usize) -> ExtractVisitor<'p, '_, 'de> {
        ExtractVisitor { places: self.places, at: child, found: self.found }
    }
}

impl<'de> DeserializeSeed<'de> for ExtractVisitor<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        let place = self.place();
        let Some(slot) = place.slot else { return json.deserialize_any(self) };
        let raw = <&RawValue>::deserialize(json)?.get();
        self.found[slot] =
            if raw == "null" { ExtractedValue::Null } else { ExtractedValue::Raw(raw) };
        if place.children.is_empty() {
            return Ok(());
        }
        let again = serde_json::Deserializer::from_str(raw).deserialize_any(self);
        again.map_err(serde::de::Error::custom)
    }
}

impl<'de> Visitor<'de> for ExtractVisitor<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.fault(|_| false);
        while let Some(child) = map.next_key_seed(ChildKeySeed(&self.place().children))? {
            match child {
                Some(child) => {
                    // Of a key given twice the last counts.
                    self.fill(child, ExtractedValue::Null);
                    map.next_value_seed(self.below(child))?;
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.fault(|key| matches!(key, PathKey::Text(_)));
        let children = &self.place().children;
        for at in 0.. {
            let child = children.iter().find(|(key, _)| *key == PathKey::Index(at));
            let more = match child {
                Some((_, child)) => seq.next_element_seed(self.below(*child))?.is_some(),
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_unit<E>(mut self) -> Result<(), E> {
        self.fault(|_| false);
        Ok(())
    }

    fn visit_bool<E>(mut self, _: bool) -> Result<(), E> {
        self.fault(|_| true);
        Ok(())
    }

    fn visit_i64<E>(mut self, _: i64) -> Result<(), E> {
        self.fault(|_| true);
        Ok(())
    }

    fn visit_u64<E>(mut self, _: u64) -> Result<(), E> {
        self.fault(|_| true);
        Ok(())
    }

    fn visit_f64<E>(mut self, _: f64) -> Result<(), E> {
        self.fault(|_| true);
        Ok(())
    }

    fn visit_str<E>(mut self, _: &str) -> Result<(), E> {
        self.fault(|_| true);
        Ok(())
    }
}

/// Which of the children a key leads to.
struct ChildKeySeed<'p>(&'p [(PathKey, usize)]);

impl<'de> DeserializeSeed<'de> for ChildKeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Self::Value, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for ChildKeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, found: &str) -> Result<Self::Value, E> {
        let is = |key: &PathKey| matches!(key, PathKey::Text(key) if **key == *found);
        Ok(self.0.iter().find(|(key, _)| is(key)).map(|(_, child)| *child))
    }
}
