//! Simple expressions that are asked of one event, evaluated together.

use std::borrow::Cow;
use std::cmp::Ordering;

use jaq_core::ops::Cmp;

use super::extract::{ExtractedValue, PathTree};
use super::{Literal, Node, Value, Variable};
use crate::expression::EventContext;
use crate::expression::input::{self, Kind};
use crate::json::without_mark;

/// Left to jaq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::expression) struct Odd;

/// Expressions whose places are found together.
#[derive(Clone, Debug, Default)]
pub(in crate::expression) struct InlinePlan {
    nodes: Vec<Option<Node<PathRef>>>,
    places: PathTree,
}

/// Where a path's place is found.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::expression) struct PathRef {
    slot: usize,
    /// For each part of the path, whether a fault at it is nothing.
    optional: Vec<bool>,
}

/// What an expression came to.
enum InlineResult<'a> {
    Value(Value<'a>),
    Nothing,
    Fault,
}

/// An event whose places were found.
pub(in crate::expression) struct ExtractedEvent<'a> {
    plan: &'a InlinePlan,
    scene: &'a EventContext<'a>,
    /// `None`: the body is not plain JSON.
    found: Option<Vec<ExtractedValue<'a>>>,
}

impl InlinePlan {
    /// In the order of `all`, of which `None` are not simple.
    pub fn new<'a>(all: impl IntoIterator<Item = Option<&'a Node>>) -> Self {
        let mut places = PathTree::default();
        let nodes: Vec<_> = all
            .into_iter()
            .map(|node| {
                node.map(|node| {
                    node.map(&mut |steps| PathRef {
                        slot: places.add(steps),
                        optional: steps.iter().map(|step| step.optional).collect(),
                    })
                })
            })
            .collect();
        places.number();
        let slot = &mut |spot: &PathRef| PathRef { slot: places.slot(spot.slot), ..spot.clone() };
        let nodes = nodes.iter().map(|node| Some(node.as_ref()?.map(slot))).collect();
        Self { nodes, places }
    }

    pub fn extract<'a>(&'a self, scene: &'a EventContext<'a>) -> ExtractedEvent<'a> {
        let found = match input::kind(scene.content_type) {
            _ if self.places.is_empty() => None,
            Kind::Json | Kind::MaybeJson => self.places.find(without_mark(scene.body)),
            Kind::Form | Kind::Multipart | Kind::Text => None,
        };
        ExtractedEvent { plan: self, scene, found }
    }
}

impl<P> Node<P> {
    fn map<Q>(&self, place: &mut impl FnMut(&P) -> Q) -> Node<Q> {
        fn all<P, Q, const N: usize>(
            nodes: &[Node<P>; N],
            place: &mut impl FnMut(&P) -> Q,
        ) -> Box<[Node<Q>; N]> {
            Box::new(nodes.each_ref().map(|node| node.map(place)))
        }
        match self {
            Self::Literal(literal) => Node::Literal(literal.clone()),
            Self::Body(at) => Node::Body(place(at)),
            Self::Variable(variable) => Node::Variable(variable.clone()),
            Self::Input => Node::Input,
            Self::Compare(op, nodes) => Node::Compare(*op, all(nodes, place)),
            Self::And(nodes) => Node::And(all(nodes, place)),
            Self::Or(nodes) => Node::Or(all(nodes, place)),
            Self::Else(nodes) => Node::Else(all(nodes, place)),
            Self::Not(node) => Node::Not(Box::new(node.map(place))),
            Self::If(nodes) => Node::If(all(nodes, place)),
            Self::Try(node) => Node::Try(Box::new(node.map(place))),
            Self::Pipe(nodes) => Node::Pipe(all(nodes, place)),
            Self::Array(nodes) => Node::Array(nodes.iter().map(|node| node.map(place)).collect()),
            Self::Object(members) => {
                let members = members.iter().map(|(key, node)| (key.clone(), node.map(place)));
                Node::Object(members.collect())
            }
        }
    }
}

impl<'a> ExtractedEvent<'a> {
    /// What the expression of this number gives, if anything.
    ///
    /// # Errors
    /// It is not simple, or the result is left to jaq.
    pub fn result(&'a self, at: usize) -> Result<Option<Value<'a>>, Odd> {
        let node = self.plan.nodes.get(at).and_then(Option::as_ref).ok_or(Odd)?;
        match self.out(node, None)? {
            InlineResult::Value(value) => Ok(Some(value)),
            InlineResult::Nothing => Ok(None),
            // jaq says what is wrong.
            InlineResult::Fault => Err(Odd),
        }
    }

    fn out(
        &'a self,
        node: &'a Node<PathRef>,
        input: Option<&Value<'a>>,
    ) -> Result<InlineResult<'a>, Odd> {
        Ok(InlineResult::Value(match node {
            Node::Literal(literal) => match literal {
                Literal::Null => Value::Null,
                Literal::Bool(value) => Value::Bool(*value),
                Literal::Number(number) => Value::Number(number.clone()),
                Literal::Text(text) => Value::Text(Cow::Borrowed(text)),
            },
            Node::Body(spot) => match self.found.as_ref().ok_or(Odd)?[spot.slot] {
                ExtractedValue::Null => Value::Null,
                ExtractedValue::Raw(raw) => Value::of_body(raw)?,
                ExtractedValue::Fault(at) if spot.optional[at] => return Ok(InlineResult::Nothing),
                ExtractedValue::Fault(_) => return Ok(InlineResult::Fault),
            },
            Node::Variable(variable) => self.variable(variable)?,
            Node::Input => input.cloned().ok_or(Odd)?,
            Node::Not(node) => match self.out(node, input)? {
                InlineResult::Value(value) => Value::Bool(!value.is_true()),
                other => return Ok(other),
            },
            Node::Compare(op, nodes) => match self.both(nodes, input)? {
                Ok([one, other]) => Value::Bool(compare(*op, one.compare(&other)?)),
                Err(other) => return Ok(other),
            },
            Node::And(nodes) => return self.logic(nodes, input, false),
            Node::Or(nodes) => return self.logic(nodes, input, true),
            Node::Else(nodes) => match self.out(&nodes[0], input)? {
                InlineResult::Value(value) if value.is_true() => value,
                InlineResult::Fault => return Ok(InlineResult::Fault),
                InlineResult::Value(_) | InlineResult::Nothing => {
                    return self.out(&nodes[1], input);
                }
            },
            Node::If(nodes) => match self.out(&nodes[0], input)? {
                InlineResult::Value(value) if value.is_true() => return self.out(&nodes[1], input),
                InlineResult::Value(_) => return self.out(&nodes[2], input),
                other => return Ok(other),
            },
            Node::Try(node) => match self.out(node, input)? {
                InlineResult::Fault => return Ok(InlineResult::Nothing),
                other => return Ok(other),
            },
            Node::Pipe(nodes) => match self.out(&nodes[0], input)? {
                InlineResult::Value(value) => return self.out(&nodes[1], Some(&value)),
                other => return Ok(other),
            },
            Node::Array(nodes) => return self.array(nodes, input),
            Node::Object(members) => return self.object(members, input),
        }))
    }

    /// The first one's outputs come first; where the second gives nothing, so do both.
    fn both(
        &'a self,
        [one, other]: &'a [Node<PathRef>; 2],
        input: Option<&Value<'a>>,
    ) -> Result<Result<[Value<'a>; 2], InlineResult<'a>>, Odd> {
        let one = match self.out(one, input)? {
            InlineResult::Nothing => return Ok(Err(InlineResult::Nothing)),
            one => one,
        };
        Ok(match (one, self.out(other, input)?) {
            (InlineResult::Value(one), InlineResult::Value(other)) => Ok([one, other]),
            (_, InlineResult::Nothing) => Err(InlineResult::Nothing),
            _ => Err(InlineResult::Fault),
        })
    }

    /// `and`, `or`: the second is asked only where the first is not `decides`.
    fn logic(
        &'a self,
        [first, second]: &'a [Node<PathRef>; 2],
        input: Option<&Value<'a>>,
        decides: bool,
    ) -> Result<InlineResult<'a>, Odd> {
        let first = match self.out(first, input)? {
            InlineResult::Value(value) if value.is_true() == decides => Value::Bool(decides),
            InlineResult::Value(_) => match self.out(second, input)? {
                InlineResult::Value(value) => Value::Bool(value.is_true()),
                other => return Ok(other),
            },
            other => return Ok(other),
        };
        Ok(InlineResult::Value(first))
    }

    fn array(
        &'a self,
        nodes: &'a [Node<PathRef>],
        input: Option<&Value<'a>>,
    ) -> Result<InlineResult<'a>, Odd> {
        let mut all = Vec::with_capacity(nodes.len());
        for node in nodes {
            match self.out(node, input)? {
                InlineResult::Value(value) => all.push(value),
                InlineResult::Nothing => {}
                InlineResult::Fault => return Ok(InlineResult::Fault),
            }
        }
        Ok(InlineResult::Value(Value::Array(all)))
    }

    /// jaq adds objects of one member each, from the right: a member that gives nothing makes the
    /// whole nothing, even where one before it has a fault.
    fn object(
        &'a self,
        members: &'a [(std::sync::Arc<str>, Node<PathRef>)],
        input: Option<&Value<'a>>,
    ) -> Result<InlineResult<'a>, Odd> {
        let mut all: Vec<(Cow<'_, str>, Value<'_>)> = Vec::with_capacity(members.len());
        let mut is_fault = false;
        for (key, node) in members {
            match self.out(node, input)? {
                InlineResult::Value(value) => {
                    match all.iter_mut().find(|(known, _)| **known == **key) {
                        Some((_, known)) => *known = value,
                        None => all.push((Cow::Borrowed(key), value)),
                    }
                }
                InlineResult::Nothing => return Ok(InlineResult::Nothing),
                InlineResult::Fault => is_fault = true,
            }
        }
        Ok(if is_fault { InlineResult::Fault } else { InlineResult::Value(Value::Object(all)) })
    }

    fn variable(&self, variable: &'a Variable) -> Result<Value<'a>, Odd> {
        let text = |text: &'a str| Value::Text(Cow::Borrowed(text));
        Ok(match variable {
            Variable::Source => text(self.scene.source),
            Variable::Path => text(self.scene.path),
            Variable::Ip if self.scene.ip.is_empty() => Value::Null,
            Variable::Ip => text(self.scene.ip),
            Variable::ReceivedAt => Value::Text(input::received_at(self.scene).into()),
            // Like the place in a sentence where it stands: jaq knows how to write it.
            Variable::Event => match self.scene.event {
                None => Value::Null,
                Some(_) => return Err(Odd),
            },
            Variable::Header(name) => {
                input::header(self.scene, name).map_or(Value::Null, |it| Value::Text(it.into()))
            }
            Variable::Param(name) => {
                // Of a name given twice the last counts.
                let mut params = self.scene.params.iter().rev();
                params.find(|(key, _)| *key == **name).map_or(Value::Null, |(_, it)| text(it))
            }
            Variable::Query(name) => match input::query(self.scene) {
                jaq_json::Val::Obj(all) => match all.get(&jaq_json::Val::from(name.to_string())) {
                    None => Value::Null,
                    Some(jaq_json::Val::TStr(it)) => {
                        Value::Text(String::from_utf8_lossy(it).into_owned().into())
                    }
                    Some(_) => return Err(Odd),
                },
                _ => return Err(Odd),
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
