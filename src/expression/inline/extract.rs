//! Extracts the values at given paths of a JSON body in one pass. It skips everything that no path
//! leads to.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{PathKey, PathStep};
use crate::json;

/// Every JSON parser here accepts this depth. Deeper bodies are left to jaq.
const MAX_DEPTH: usize = 120;

/// The value at a path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ExtractedValue<'a> {
    /// Null, or no value.
    Null,
    /// The value's text.
    Raw(&'a str),
    /// The part of the path with this number does not apply: the value there has no such keys.
    NotIndexable(usize),
}

/// The paths to extract, as a tree of keys.
#[derive(Clone, Debug)]
pub(super) struct PathTree {
    nodes: Vec<PathNode>,
    count: usize,
}

#[derive(Clone, Debug, Default)]
struct PathNode {
    /// Number of path parts that lead here.
    depth: usize,
    /// The nodes below this one.
    children: Vec<(PathKey, usize)>,
    /// The slot of the value, if a path ends here.
    slot: Option<usize>,
    /// The slots of this node and of all below it.
    slots: Range<usize>,
}

impl Default for PathTree {
    fn default() -> Self {
        Self { nodes: vec![PathNode::default()], count: 0 }
    }
}

impl PathTree {
    /// Adds a path and returns the number of its node, new or known. Its slot is assigned later.
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

    /// Numbers the slots so that those below a node follow its own.
    pub fn assign_slots(&mut self) {
        self.count = self.assign_slots_from(0, 0);
    }

    /// Recurses as deep as the longest path, which is bounded.
    fn assign_slots_from(&mut self, at: usize, start: usize) -> usize {
        let mut next = start;
        if self.nodes[at].slot.is_some() {
            self.nodes[at].slot = Some(next);
            next += 1;
        }
        for (_, child) in self.nodes[at].children.clone() {
            next = self.assign_slots_from(child, next);
        }
        self.nodes[at].slots = start..next;
        next
    }

    /// The slot of an added path.
    pub fn slot(&self, node: usize) -> usize {
        self.nodes[node].slot.unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Extracts the value of each slot; `None`: the body is not plain JSON.
    pub fn extract<'de>(&self, body: &'de [u8]) -> Option<Vec<ExtractedValue<'de>>> {
        let text = std::str::from_utf8(body).ok()?;
        if !is_plain(body) {
            return None;
        }
        let mut values = vec![ExtractedValue::Null; self.count];
        let mut json = serde_json::Deserializer::from_str(text);
        ExtractVisitor { tree: self, at: 0, values: &mut values }.deserialize(&mut json).ok()?;
        json.end().ok()?;
        Some(values)
    }
}

/// Whether skipped values need no check: the parser looks into them neither for depth nor for lone
/// surrogates.
fn is_plain(body: &[u8]) -> bool {
    let brackets = body.iter().filter(|&&byte| matches!(byte, b'[' | b'{')).count();
    let has_surrogates = memchr::memchr_iter(b'\\', body)
        .any(|at| matches!(body.get(at + 1..at + 3), Some([b'u', b'd' | b'D'])));
    !has_surrogates && (brackets <= MAX_DEPTH || json::depth(body) <= MAX_DEPTH)
}

struct ExtractVisitor<'p, 'f, 'de> {
    tree: &'p PathTree,
    at: usize,
    values: &'f mut [ExtractedValue<'de>],
}

impl<'p, 'de> ExtractVisitor<'p, '_, 'de> {
    fn node(&self) -> &'p PathNode {
        &self.tree.nodes[self.at]
    }

    fn fill(&mut self, node: usize, value: ExtractedValue<'de>) {
        self.values[self.tree.nodes[node].slots.clone()].fill(value);
    }

    /// Marks the nodes below a value that has no keys of one kind, or of either.
    fn mark_not_indexable(&mut self, is_not_indexable: impl Fn(&PathKey) -> bool) {
        let node = self.node();
        for (key, child) in &node.children {
            let value = if is_not_indexable(key) {
                ExtractedValue::NotIndexable(node.depth)
            } else {
                ExtractedValue::Null
            };
            self.fill(*child, value);
        }
    }

    fn child_visitor(&mut self, child: usize) -> ExtractVisitor<'p, '_, 'de> {
        ExtractVisitor { tree: self.tree, at: child, values: self.values }
    }
}

impl<'de> DeserializeSeed<'de> for ExtractVisitor<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        let node = self.node();
        let Some(slot) = node.slot else { return json.deserialize_any(self) };
        let raw = <&RawValue>::deserialize(json)?.get();
        self.values[slot] =
            if raw == "null" { ExtractedValue::Null } else { ExtractedValue::Raw(raw) };
        if node.children.is_empty() {
            return Ok(());
        }
        let inner = serde_json::Deserializer::from_str(raw).deserialize_any(self);
        inner.map_err(serde::de::Error::custom)
    }
}

impl<'de> Visitor<'de> for ExtractVisitor<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.mark_not_indexable(|_| false);
        while let Some(child) = map.next_key_seed(ChildKeySeed(&self.node().children))? {
            match child {
                Some(child) => {
                    // The last value of a repeated key counts.
                    self.fill(child, ExtractedValue::Null);
                    map.next_value_seed(self.child_visitor(child))?;
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.mark_not_indexable(|key| matches!(key, PathKey::Text(_)));
        let children = &self.node().children;
        for at in 0.. {
            let child = children.iter().find(|(key, _)| *key == PathKey::Index(at));
            let has_more = match child {
                Some((_, child)) => seq.next_element_seed(self.child_visitor(*child))?.is_some(),
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !has_more {
                break;
            }
        }
        Ok(())
    }

    fn visit_unit<E>(mut self) -> Result<(), E> {
        self.mark_not_indexable(|_| false);
        Ok(())
    }

    fn visit_bool<E>(mut self, _: bool) -> Result<(), E> {
        self.mark_not_indexable(|_| true);
        Ok(())
    }

    fn visit_i64<E>(mut self, _: i64) -> Result<(), E> {
        self.mark_not_indexable(|_| true);
        Ok(())
    }

    fn visit_u64<E>(mut self, _: u64) -> Result<(), E> {
        self.mark_not_indexable(|_| true);
        Ok(())
    }

    fn visit_f64<E>(mut self, _: f64) -> Result<(), E> {
        self.mark_not_indexable(|_| true);
        Ok(())
    }

    fn visit_str<E>(mut self, _: &str) -> Result<(), E> {
        self.mark_not_indexable(|_| true);
        Ok(())
    }
}

/// Finds the child that a key leads to.
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
        let is_match = |key: &PathKey| matches!(key, PathKey::Text(key) if **key == *found);
        Ok(self.0.iter().find(|(key, _)| is_match(key)).map(|(_, child)| *child))
    }
}
