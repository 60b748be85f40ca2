//! Finds the values at paths in a JSON text. It builds no value, so that all bytes outside of the found ones
//! stay as they are: the digits of numbers, the order of keys, repeated keys.

use std::ops::Range;

use memchr::{memchr, memchr2};

use super::path::{RedactPath, RedactPathStep};

/// Several paths as one tree of steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RedactPathTree {
    nodes: Vec<RedactPathNode>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct RedactPathNode {
    /// The nodes below this one, except for `..`.
    children: Vec<(RedactPathStep, usize)>,
    /// The node of a `..` that follows.
    descend: Option<usize>,
    /// This node is a `..`, so it applies to all values below too.
    is_descend: bool,
    /// A path ends here.
    is_end: bool,
}

impl RedactPathTree {
    pub fn new(paths: &[RedactPath]) -> Self {
        let mut tree = Self { nodes: vec![RedactPathNode::default()] };
        for path in paths {
            let mut node = 0;
            for step in path.steps() {
                node = tree.child(node, step);
            }
            tree.nodes[node].is_end = true;
        }
        tree
    }

    /// Returns the node that a step leads to, new or known.
    fn child(&mut self, parent: usize, step: &RedactPathStep) -> usize {
        let node = &self.nodes[parent];
        let known = match step {
            RedactPathStep::Descend => node.descend,
            step => node.children.iter().find(|(known, _)| known == step).map(|(_, child)| *child),
        };
        if let Some(known) = known {
            return known;
        }
        let child = self.nodes.len();
        let is_descend = *step == RedactPathStep::Descend;
        self.nodes.push(RedactPathNode { is_descend, ..RedactPathNode::default() });
        match is_descend {
            true => self.nodes[parent].descend = Some(child),
            false => self.nodes[parent].children.push((step.clone(), child)),
        }
        child
    }

    /// Returns the ranges of the values at the paths, in their order. A value in another one has no range.
    ///
    /// `json` is valid and nested at most [`crate::json::MAX_DEPTH`] deep, as this recurses for each level.
    pub fn find(&self, json: &[u8]) -> Vec<Range<usize>> {
        let mut finder =
            ValueFinder { tree: self, json, at: 0, active: Vec::new(), found: Vec::new() };
        finder.activate(0, 0);
        finder.read_value(0);
        finder.found
    }
}

/// The key of a value in its object or array.
#[derive(Clone, Copy)]
enum ValueKey<'j> {
    /// A string as it is written, with its quotes.
    Name(&'j [u8]),
    Index(usize),
}

struct ValueFinder<'j> {
    tree: &'j RedactPathTree,
    json: &'j [u8],
    /// The next byte.
    at: usize,
    /// A stack of the nodes that apply to each value on the way to this one.
    active: Vec<usize>,
    found: Vec<Range<usize>>,
}

impl ValueFinder<'_> {
    /// Adds a node to those from `start`, once, with the `..` that follows it.
    fn activate(&mut self, node: usize, start: usize) {
        if self.active[start..].contains(&node) {
            return;
        }
        self.active.push(node);
        if let Some(descend) = self.tree.nodes[node].descend {
            self.activate(descend, start);
        }
    }

    /// Adds the nodes that apply to a value in the value of the nodes from `start`.
    fn activate_children(&mut self, start: usize, key: ValueKey<'_>) -> usize {
        let end = self.active.len();
        let tree = self.tree;
        let mut decoded = None;
        for at in start..end {
            let node = self.active[at];
            if tree.nodes[node].is_descend {
                self.activate(node, end);
            }
            for (step, child) in &tree.nodes[node].children {
                let is_match = match (step, key) {
                    (RedactPathStep::Each, _) => true,
                    (RedactPathStep::Index(index), ValueKey::Index(found)) => *index == found,
                    (RedactPathStep::Field(name), ValueKey::Name(raw)) => {
                        let found = decoded.get_or_insert_with(|| DecodedName::new(raw));
                        found.is(name)
                    }
                    _ => false,
                };
                if is_match {
                    self.activate(*child, end);
                }
            }
        }
        end
    }

    /// Reads a value to which the nodes from `start` apply.
    fn read_value(&mut self, start: usize) {
        self.skip_space();
        let first = self.at;
        if self.active[start..].iter().any(|node| self.tree.nodes[*node].is_end) {
            self.skip_value();
            self.found.push(first..self.at);
            return;
        }
        let is_object = match self.json.get(self.at) {
            Some(b'{') => true,
            Some(b'[') => false,
            _ => return self.skip_value(),
        };
        if self.active.len() == start {
            return self.skip_value();
        }
        self.at += 1;
        let mut index = 0;
        loop {
            self.skip_space();
            let key = match self.json.get(self.at) {
                None => return,
                Some(b'}' | b']') => break self.at += 1,
                Some(b',') => {
                    self.at += 1;
                    continue;
                }
                Some(_) if is_object => {
                    let name = self.at;
                    self.skip_string();
                    let name = ValueKey::Name(&self.json[name..self.at]);
                    self.skip_space();
                    // The colon.
                    self.at += 1;
                    name
                }
                Some(_) => ValueKey::Index(index),
            };
            index += 1;
            let children = self.activate_children(start, key);
            self.read_value(children);
            self.active.truncate(children);
        }
    }

    fn skip_space(&mut self) {
        while matches!(self.json.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(offset) =
            self.json.get(self.at..).and_then(|rest| memchr2(b'"', b'\\', rest))
        {
            self.at += offset;
            if self.json[self.at] == b'"' {
                self.at += 1;
                return;
            }
            self.at += 2;
        }
        self.at = self.json.len();
    }

    fn skip_value(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.json.get(self.at) {
            match byte {
                b'"' => {
                    self.skip_string();
                    if depth == 0 {
                        return;
                    }
                    continue;
                }
                b'[' | b'{' => depth += 1,
                b']' | b'}' if depth <= 1 => {
                    // The end of this value, or of the one around a number.
                    self.at += depth;
                    return;
                }
                b']' | b'}' => depth -= 1,
                b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }
}

/// A key without its quotes and escapes.
enum DecodedName<'j> {
    Plain(&'j [u8]),
    Decoded(String),
    /// A lone surrogate. No path has one.
    NotText,
}

impl<'j> DecodedName<'j> {
    fn new(raw: &'j [u8]) -> Self {
        if memchr(b'\\', raw).is_none() {
            return Self::Plain(raw.get(1..raw.len() - 1).unwrap_or_default());
        }
        serde_json::from_slice(raw).map_or(Self::NotText, Self::Decoded)
    }

    fn is(&self, name: &str) -> bool {
        match self {
            Self::Plain(found) => *found == name.as_bytes(),
            Self::Decoded(found) => found == name,
            Self::NotText => false,
        }
    }
}
