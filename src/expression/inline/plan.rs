//! The inline expressions of one event, evaluated together.

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Ordering;

use jaq_core::ops::Cmp;

use super::extract::{ExtractedValue, PathTree};
use super::{InlineNode, InlineValue, Literal, TextFunction, Variable};
use crate::expression::EventContext;
use crate::expression::input;
use crate::json::without_mark;
use crate::media_type::BodyFormat;

/// Limit of the work for one event, on a thread of the intake: bytes of text that a function reads or
/// that are copied, and for a regular expression their number times its size.
const MAX_WORK: usize = 4 << 20;

/// An expression or result that is left to jaq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::expression) struct NotInlineable;

/// Expressions whose paths are extracted together.
#[derive(Clone, Debug, Default)]
pub(in crate::expression) struct InlinePlan {
    nodes: Vec<Option<InlineNode<PathRef>>>,
    paths: PathTree,
}

/// A path of an expression, as a slot of the extracted values.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::expression) struct PathRef {
    slot: usize,
    /// For each part of the path, whether `?` follows it.
    is_optional: Vec<bool>,
}

/// The result of an inline expression: one value at most, or an error.
enum InlineResult<'a> {
    Value(InlineValue<'a>),
    Empty,
    Error,
}

/// An event with its extracted values.
pub(in crate::expression) struct ExtractedEvent<'a> {
    plan: &'a InlinePlan,
    event: &'a EventContext<'a>,
    /// `None`: the body is not plain JSON.
    values: Option<Vec<ExtractedValue<'a>>>,
    /// See [`MAX_WORK`].
    work_left: Cell<usize>,
}

impl InlinePlan {
    /// Builds a plan in the order of `all`; `None` stands for expressions that are not simple.
    pub fn new<'a>(all: impl IntoIterator<Item = Option<&'a InlineNode>>) -> Self {
        let mut paths = PathTree::default();
        let nodes: Vec<_> = all
            .into_iter()
            .map(|node| {
                node.map(|node| {
                    node.map(&mut |steps| PathRef {
                        slot: paths.add(steps),
                        is_optional: steps.iter().map(|step| step.is_optional).collect(),
                    })
                })
            })
            .collect();
        paths.assign_slots();
        let slot = &mut |path: &PathRef| PathRef { slot: paths.slot(path.slot), ..path.clone() };
        let nodes = nodes.iter().map(|node| Some(node.as_ref()?.map(slot))).collect();
        Self { nodes, paths }
    }

    pub fn extract<'a>(&'a self, event: &'a EventContext<'a>) -> ExtractedEvent<'a> {
        let values = match event.body_format() {
            _ if self.paths.is_empty() => None,
            BodyFormat::Json | BodyFormat::MaybeJson => {
                self.paths.extract(without_mark(event.body))
            }
            BodyFormat::Form | BodyFormat::Multipart | BodyFormat::Text => None,
        };
        ExtractedEvent { plan: self, event, values, work_left: Cell::new(MAX_WORK) }
    }
}

impl<P> InlineNode<P> {
    fn map<Q>(&self, map_path: &mut impl FnMut(&P) -> Q) -> InlineNode<Q> {
        fn map_all<P, Q, const N: usize>(
            nodes: &[InlineNode<P>; N],
            map_path: &mut impl FnMut(&P) -> Q,
        ) -> Box<[InlineNode<Q>; N]> {
            Box::new(nodes.each_ref().map(|node| node.map(map_path)))
        }
        match self {
            Self::Literal(literal) => InlineNode::Literal(literal.clone()),
            Self::Body(path) => InlineNode::Body(map_path(path)),
            Self::Variable(variable) => InlineNode::Variable(variable.clone()),
            Self::Input => InlineNode::Input,
            Self::Compare(op, nodes) => InlineNode::Compare(*op, map_all(nodes, map_path)),
            Self::And(nodes) => InlineNode::And(map_all(nodes, map_path)),
            Self::Or(nodes) => InlineNode::Or(map_all(nodes, map_path)),
            Self::Alternative(nodes) => InlineNode::Alternative(map_all(nodes, map_path)),
            Self::Not(node) => InlineNode::Not(Box::new(node.map(map_path))),
            Self::If(nodes) => InlineNode::If(map_all(nodes, map_path)),
            Self::Try(node) => InlineNode::Try(Box::new(node.map(map_path))),
            Self::Pipe(nodes) => InlineNode::Pipe(map_all(nodes, map_path)),
            Self::Array(nodes) => {
                InlineNode::Array(nodes.iter().map(|node| node.map(map_path)).collect())
            }
            Self::Object(members) => {
                let members = members.iter().map(|(key, node)| (key.clone(), node.map(map_path)));
                InlineNode::Object(members.collect())
            }
            Self::Text(function, node) => {
                InlineNode::Text(function.clone(), Box::new(node.map(map_path)))
            }
            Self::Items(node, is_optional) => {
                InlineNode::Items(Box::new(node.map(map_path)), *is_optional)
            }
            Self::Empty => InlineNode::Empty,
            Self::NotSimple => InlineNode::NotSimple,
        }
    }
}

impl<'a> ExtractedEvent<'a> {
    /// Evaluates the expression with this number; its output, if there is one.
    ///
    /// # Errors
    /// The expression is not simple, or the result is left to jaq.
    pub fn result(&'a self, index: usize) -> Result<Option<InlineValue<'a>>, NotInlineable> {
        let node = self.plan.nodes.get(index).and_then(Option::as_ref).ok_or(NotInlineable)?;
        match self.evaluate_node(node, None)? {
            InlineResult::Value(value) => Ok(Some(value)),
            InlineResult::Empty => Ok(None),
            // jaq gives the message of the error.
            InlineResult::Error => Err(NotInlineable),
        }
    }

    fn evaluate_node(
        &'a self,
        node: &'a InlineNode<PathRef>,
        input: Option<&InlineValue<'a>>,
    ) -> Result<InlineResult<'a>, NotInlineable> {
        Ok(InlineResult::Value(match node {
            InlineNode::Literal(literal) => match literal {
                Literal::Null => InlineValue::Null,
                Literal::Bool(value) => InlineValue::Bool(*value),
                Literal::Number(number) => InlineValue::Number(number.clone()),
                Literal::Text(text) => InlineValue::Text(Cow::Borrowed(text)),
            },
            InlineNode::Body(path) => match self.values.as_ref().ok_or(NotInlineable)?[path.slot] {
                ExtractedValue::Null => InlineValue::Null,
                ExtractedValue::Raw(raw) => {
                    let value = InlineValue::from_json(raw)?;
                    self.charge(value.copied_bytes())?;
                    value
                }
                ExtractedValue::NotIndexable(at) if path.is_optional[at] => {
                    return Ok(InlineResult::Empty);
                }
                ExtractedValue::NotIndexable(_) => return Ok(InlineResult::Error),
            },
            InlineNode::Variable(variable) => self.variable_value(variable)?,
            InlineNode::Input => {
                let input = input.ok_or(NotInlineable)?;
                // Each `[., .]` of a pipe doubles it.
                self.charge(input.copied_bytes())?;
                input.clone()
            }
            InlineNode::Not(node) => match self.evaluate_node(node, input)? {
                InlineResult::Value(value) => InlineValue::Bool(!value.is_true()),
                other => return Ok(other),
            },
            InlineNode::Compare(op, nodes) => match self.evaluate_both(nodes, input)? {
                Ok([one, other]) => InlineValue::Bool(compare(*op, one.compare(&other)?)),
                Err(other) => return Ok(other),
            },
            InlineNode::And(nodes) => return self.evaluate_logic(nodes, input, false),
            InlineNode::Or(nodes) => return self.evaluate_logic(nodes, input, true),
            InlineNode::Alternative(nodes) => match self.evaluate_node(&nodes[0], input)? {
                InlineResult::Value(value) if value.is_true() => value,
                InlineResult::Error => return Ok(InlineResult::Error),
                InlineResult::Value(_) | InlineResult::Empty => {
                    return self.evaluate_node(&nodes[1], input);
                }
            },
            InlineNode::If(nodes) => match self.evaluate_node(&nodes[0], input)? {
                InlineResult::Value(value) if value.is_true() => {
                    return self.evaluate_node(&nodes[1], input);
                }
                InlineResult::Value(_) => return self.evaluate_node(&nodes[2], input),
                other => return Ok(other),
            },
            InlineNode::Try(node) => match self.evaluate_node(node, input)? {
                InlineResult::Error => return Ok(InlineResult::Empty),
                other => return Ok(other),
            },
            InlineNode::Pipe(nodes) => match self.evaluate_node(&nodes[0], input)? {
                InlineResult::Value(value) => return self.evaluate_node(&nodes[1], Some(&value)),
                other => return Ok(other),
            },
            InlineNode::Array(nodes) => return self.evaluate_array(nodes, input),
            InlineNode::Object(members) => return self.evaluate_object(members, input),
            InlineNode::Text(function, node) => match self.evaluate_node(node, input)? {
                InlineResult::Value(InlineValue::Text(text)) => self.call(function, text)?,
                // jaq compares other values too.
                InlineResult::Value(_) if matches!(function, TextFunction::Contains(_)) => {
                    return Err(NotInlineable);
                }
                InlineResult::Value(_) => return Ok(InlineResult::Error),
                other => return Ok(other),
            },
            InlineNode::Items(node, is_optional) => {
                return match self.evaluate_node(node, input)? {
                    InlineResult::Value(value) => match value.has_items() {
                        Some(true) => Err(NotInlineable),
                        Some(false) => Ok(InlineResult::Empty),
                        None if *is_optional => Ok(InlineResult::Empty),
                        None => Ok(InlineResult::Error),
                    },
                    other => Ok(other),
                };
            }
            InlineNode::Empty => return Ok(InlineResult::Empty),
            InlineNode::NotSimple => return Err(NotInlineable),
        }))
    }

    fn charge(&self, work: usize) -> Result<(), NotInlineable> {
        self.work_left.set(self.work_left.get().checked_sub(work).ok_or(NotInlineable)?);
        Ok(())
    }

    fn call(
        &self,
        function: &TextFunction,
        text: Cow<'a, str>,
    ) -> Result<InlineValue<'a>, NotInlineable> {
        let work = match function {
            TextFunction::Test(regex) => regex.work(&text),
            _ => text.len(),
        };
        self.charge(work)?;
        Ok(match function {
            TextFunction::Test(regex) => InlineValue::Bool(regex.is_match(&text)?),
            TextFunction::StartsWith(start) => InlineValue::Bool(text.starts_with(&**start)),
            TextFunction::EndsWith(end) => InlineValue::Bool(text.ends_with(&**end)),
            TextFunction::Contains(part) => InlineValue::Bool(text.contains(&**part)),
            TextFunction::Lowercase => InlineValue::Text(text.to_ascii_lowercase().into()),
            TextFunction::Uppercase => InlineValue::Text(text.to_ascii_uppercase().into()),
        })
    }

    /// Evaluates both operands. The outputs of the first come first; where the second has none,
    /// both have none.
    fn evaluate_both(
        &'a self,
        [one, other]: &'a [InlineNode<PathRef>; 2],
        input: Option<&InlineValue<'a>>,
    ) -> Result<Result<[InlineValue<'a>; 2], InlineResult<'a>>, NotInlineable> {
        let one = match self.evaluate_node(one, input)? {
            InlineResult::Empty => return Ok(Err(InlineResult::Empty)),
            one => one,
        };
        Ok(match (one, self.evaluate_node(other, input)?) {
            (InlineResult::Value(one), InlineResult::Value(other)) => Ok([one, other]),
            (_, InlineResult::Empty) => Err(InlineResult::Empty),
            _ => Err(InlineResult::Error),
        })
    }

    /// Evaluates `and` or `or`: the second operand only if the first is not `decides`.
    fn evaluate_logic(
        &'a self,
        [first, second]: &'a [InlineNode<PathRef>; 2],
        input: Option<&InlineValue<'a>>,
        deciding_value: bool,
    ) -> Result<InlineResult<'a>, NotInlineable> {
        let first = match self.evaluate_node(first, input)? {
            InlineResult::Value(value) if value.is_true() == deciding_value => {
                InlineValue::Bool(deciding_value)
            }
            InlineResult::Value(_) => match self.evaluate_node(second, input)? {
                InlineResult::Value(value) => InlineValue::Bool(value.is_true()),
                other => return Ok(other),
            },
            other => return Ok(other),
        };
        Ok(InlineResult::Value(first))
    }

    fn evaluate_array(
        &'a self,
        nodes: &'a [InlineNode<PathRef>],
        input: Option<&InlineValue<'a>>,
    ) -> Result<InlineResult<'a>, NotInlineable> {
        let mut all = Vec::with_capacity(nodes.len());
        for node in nodes {
            match self.evaluate_node(node, input)? {
                InlineResult::Value(value) => all.push(value),
                InlineResult::Empty => {}
                InlineResult::Error => return Ok(InlineResult::Error),
            }
        }
        Ok(InlineResult::Value(InlineValue::Array(all)))
    }

    /// Builds an object as jaq does, which adds objects of one member each, from the right. A
    /// member without output makes the whole empty, even if an earlier one has an error.
    fn evaluate_object(
        &'a self,
        members: &'a [(std::sync::Arc<str>, InlineNode<PathRef>)],
        input: Option<&InlineValue<'a>>,
    ) -> Result<InlineResult<'a>, NotInlineable> {
        let mut all: Vec<(Cow<'_, str>, InlineValue<'_>)> = Vec::with_capacity(members.len());
        let mut has_error = false;
        for (key, node) in members {
            match self.evaluate_node(node, input)? {
                InlineResult::Value(value) => {
                    match all.iter_mut().find(|(known, _)| **known == **key) {
                        Some((_, known)) => *known = value,
                        None => all.push((Cow::Borrowed(key), value)),
                    }
                }
                InlineResult::Empty => return Ok(InlineResult::Empty),
                InlineResult::Error => has_error = true,
            }
        }
        Ok(if has_error {
            InlineResult::Error
        } else {
            InlineResult::Value(InlineValue::Object(all))
        })
    }

    fn variable_value(&self, variable: &'a Variable) -> Result<InlineValue<'a>, NotInlineable> {
        let text = |text: &'a str| InlineValue::Text(Cow::Borrowed(text));
        Ok(match variable {
            Variable::Source => text(self.event.source),
            Variable::Path => text(self.event.path),
            Variable::Ip if self.event.ip.is_empty() => InlineValue::Null,
            Variable::Ip => text(self.event.ip),
            Variable::Client => self.event.client.map_or(InlineValue::Null, text),
            Variable::ReceivedAt => InlineValue::Text(input::received_at(self.event).into()),
            // Only jaq knows how to write a number.
            Variable::Event => match self.event.event_id {
                None => InlineValue::Null,
                Some(_) => return Err(NotInlineable),
            },
            Variable::Header(name) => input::header(self.event, name)
                .map_or(InlineValue::Null, |header| InlineValue::Text(header.into())),
            Variable::Param(name) => {
                // The last value of a repeated name counts.
                let mut params = self.event.params.iter().rev();
                params
                    .find(|(key, _)| *key == **name)
                    .map_or(InlineValue::Null, |(_, value)| text(value))
            }
            Variable::Query(name) => match input::query(self.event) {
                jaq_json::Val::Obj(all) => match all.get(&jaq_json::Val::from(name.to_string())) {
                    None => InlineValue::Null,
                    Some(jaq_json::Val::TStr(text)) => {
                        InlineValue::Text(String::from_utf8_lossy(text).into_owned().into())
                    }
                    Some(_) => return Err(NotInlineable),
                },
                _ => return Err(NotInlineable),
            },
        })
    }
}

fn compare(op: Cmp, order: Ordering) -> bool {
    match op {
        Cmp::Lt => order.is_lt(),
        Cmp::Le => order.is_le(),
        Cmp::Gt => order.is_gt(),
        Cmp::Ge => order.is_ge(),
        Cmp::Eq => order.is_eq(),
        Cmp::Ne => order.is_ne(),
    }
}
