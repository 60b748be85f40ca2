//! Simple expressions that are asked of one event, evaluated together.

use std::borrow::Cow;
use std::cmp::Ordering;

use jaq_core::ops::Cmp;

use super::extract::{ExtractedValue, PathTree};
use super::{InlineNode, InlineValue, Literal, Variable};
use crate::expression::EventContext;
use crate::expression::input::{self, BodyFormat};
use crate::json::without_mark;

/// Left to jaq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::expression) struct NotInlineable;

/// Expressions whose places are found together.
#[derive(Clone, Debug, Default)]
pub(in crate::expression) struct InlinePlan {
    nodes: Vec<Option<InlineNode<PathRef>>>,
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
    Value(InlineValue<'a>),
    Empty,
    Error,
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
    pub fn new<'a>(all: impl IntoIterator<Item = Option<&'a InlineNode>>) -> Self {
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
        let found = match input::body_format(scene.content_type) {
            _ if self.places.is_empty() => None,
            BodyFormat::Json | BodyFormat::MaybeJson => self.places.find(without_mark(scene.body)),
            BodyFormat::Form | BodyFormat::Multipart | BodyFormat::Text => None,
        };
        ExtractedEvent { plan: self, scene, found }
    }
}

impl<P> InlineNode<P> {
    fn map<Q>(&self, place: &mut impl FnMut(&P) -> Q) -> InlineNode<Q> {
        fn all<P, Q, const N: usize>(
            nodes: &[InlineNode<P>; N],
            place: &mut impl FnMut(&P) -> Q,
        ) -> Box<[InlineNode<Q>; N]> {
            Box::new(nodes.each_ref().map(|node| node.map(place)))
        }
        match self {
            Self::Literal(literal) => InlineNode::Literal(literal.clone()),
            Self::Body(at) => InlineNode::Body(place(at)),
            Self::Variable(variable) => InlineNode::Variable(variable.clone()),
            Self::Input => InlineNode::Input,
            Self::Compare(op, nodes) => InlineNode::Compare(*op, all(nodes, place)),
            Self::And(nodes) => InlineNode::And(all(nodes, place)),
            Self::Or(nodes) => InlineNode::Or(all(nodes, place)),
            Self::Alternative(nodes) => InlineNode::Alternative(all(nodes, place)),
            Self::Not(node) => InlineNode::Not(Box::new(node.map(place))),
            Self::If(nodes) => InlineNode::If(all(nodes, place)),
            Self::Try(node) => InlineNode::Try(Box::new(node.map(place))),
            Self::Pipe(nodes) => InlineNode::Pipe(all(nodes, place)),
            Self::Array(nodes) => {
                InlineNode::Array(nodes.iter().map(|node| node.map(place)).collect())
            }
            Self::Object(members) => {
                let members = members.iter().map(|(key, node)| (key.clone(), node.map(place)));
                InlineNode::Object(members.collect())
            }
        }
    }
}

impl<'a> ExtractedEvent<'a> {
    /// What the expression of this number gives, if anything.
    ///
    /// # Errors
    /// It is not simple, or the result is left to jaq.
    pub fn result(&'a self, at: usize) -> Result<Option<InlineValue<'a>>, NotInlineable> {
        let node = self.plan.nodes.get(at).and_then(Option::as_ref).ok_or(NotInlineable)?;
        match self.out(node, None)? {
            InlineResult::Value(value) => Ok(Some(value)),
            InlineResult::Empty => Ok(None),
            // jaq says what is wrong.
            InlineResult::Error => Err(NotInlineable),
        }
    }

    fn out(
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
            InlineNode::Body(spot) => match self.found.as_ref().ok_or(NotInlineable)?[spot.slot] {
                ExtractedValue::Null => InlineValue::Null,
                ExtractedValue::Raw(raw) => InlineValue::of_body(raw)?,
                ExtractedValue::NotIndexable(at) if spot.optional[at] => {
                    return Ok(InlineResult::Empty);
                }
                ExtractedValue::NotIndexable(_) => return Ok(InlineResult::Error),
            },
            InlineNode::Variable(variable) => self.variable(variable)?,
            InlineNode::Input => input.cloned().ok_or(NotInlineable)?,
            InlineNode::Not(node) => match self.out(node, input)? {
                InlineResult::Value(value) => InlineValue::Bool(!value.is_true()),
                other => return Ok(other),
            },
            InlineNode::Compare(op, nodes) => match self.both(nodes, input)? {
                Ok([one, other]) => InlineValue::Bool(compare(*op, one.compare(&other)?)),
                Err(other) => return Ok(other),
            },
            InlineNode::And(nodes) => return self.logic(nodes, input, false),
            InlineNode::Or(nodes) => return self.logic(nodes, input, true),
            InlineNode::Alternative(nodes) => match self.out(&nodes[0], input)? {
                InlineResult::Value(value) if value.is_true() => value,
                InlineResult::Error => return Ok(InlineResult::Error),
                InlineResult::Value(_) | InlineResult::Empty => {
                    return self.out(&nodes[1], input);
                }
            },
            InlineNode::If(nodes) => match self.out(&nodes[0], input)? {
                InlineResult::Value(value) if value.is_true() => return self.out(&nodes[1], input),
                InlineResult::Value(_) => return self.out(&nodes[2], input),
                other => return Ok(other),
            },
            InlineNode::Try(node) => match self.out(node, input)? {
                InlineResult::Error => return Ok(InlineResult::Empty),
                other => return Ok(other),
            },
            InlineNode::Pipe(nodes) => match self.out(&nodes[0], input)? {
                InlineResult::Value(value) => return self.out(&nodes[1], Some(&value)),
                other => return Ok(other),
            },
            InlineNode::Array(nodes) => return self.array(nodes, input),
            InlineNode::Object(members) => return self.object(members, input),
        }))
    }

    /// The first one's outputs come first; where the second gives nothing, so do both.
    fn both(
        &'a self,
        [one, other]: &'a [InlineNode<PathRef>; 2],
        input: Option<&InlineValue<'a>>,
    ) -> Result<Result<[InlineValue<'a>; 2], InlineResult<'a>>, NotInlineable> {
        let one = match self.out(one, input)? {
            InlineResult::Empty => return Ok(Err(InlineResult::Empty)),
            one => one,
        };
        Ok(match (one, self.out(other, input)?) {
            (InlineResult::Value(one), InlineResult::Value(other)) => Ok([one, other]),
            (_, InlineResult::Empty) => Err(InlineResult::Empty),
            _ => Err(InlineResult::Error),
        })
    }

    /// `and`, `or`: the second is asked only where the first is not `decides`.
    fn logic(
        &'a self,
        [first, second]: &'a [InlineNode<PathRef>; 2],
        input: Option<&InlineValue<'a>>,
        decides: bool,
    ) -> Result<InlineResult<'a>, NotInlineable> {
        let first = match self.out(first, input)? {
            InlineResult::Value(value) if value.is_true() == decides => InlineValue::Bool(decides),
            InlineResult::Value(_) => match self.out(second, input)? {
                InlineResult::Value(value) => InlineValue::Bool(value.is_true()),
                other => return Ok(other),
            },
            other => return Ok(other),
        };
        Ok(InlineResult::Value(first))
    }

    fn array(
        &'a self,
        nodes: &'a [InlineNode<PathRef>],
        input: Option<&InlineValue<'a>>,
    ) -> Result<InlineResult<'a>, NotInlineable> {
        let mut all = Vec::with_capacity(nodes.len());
        for node in nodes {
            match self.out(node, input)? {
                InlineResult::Value(value) => all.push(value),
                InlineResult::Empty => {}
                InlineResult::Error => return Ok(InlineResult::Error),
            }
        }
        Ok(InlineResult::Value(InlineValue::Array(all)))
    }

    /// jaq adds objects of one member each, from the right: a member that gives nothing makes the
    /// whole nothing, even where one before it has a fault.
    fn object(
        &'a self,
        members: &'a [(std::sync::Arc<str>, InlineNode<PathRef>)],
        input: Option<&InlineValue<'a>>,
    ) -> Result<InlineResult<'a>, NotInlineable> {
        let mut all: Vec<(Cow<'_, str>, InlineValue<'_>)> = Vec::with_capacity(members.len());
        let mut is_fault = false;
        for (key, node) in members {
            match self.out(node, input)? {
                InlineResult::Value(value) => {
                    match all.iter_mut().find(|(known, _)| **known == **key) {
                        Some((_, known)) => *known = value,
                        None => all.push((Cow::Borrowed(key), value)),
                    }
                }
                InlineResult::Empty => return Ok(InlineResult::Empty),
                InlineResult::Error => is_fault = true,
            }
        }
        Ok(if is_fault {
            InlineResult::Error
        } else {
            InlineResult::Value(InlineValue::Object(all))
        })
    }

    fn variable(&self, variable: &'a Variable) -> Result<InlineValue<'a>, NotInlineable> {
        let text = |text: &'a str| InlineValue::Text(Cow::Borrowed(text));
        Ok(match variable {
            Variable::Source => text(self.scene.source),
            Variable::Path => text(self.scene.path),
            Variable::Ip if self.scene.ip.is_empty() => InlineValue::Null,
            Variable::Ip => text(self.scene.ip),
            Variable::ReceivedAt => InlineValue::Text(input::received_at(self.scene).into()),
            // Like the place in a sentence where it stands: jaq knows how to write it.
            Variable::Event => match self.scene.event_id {
                None => InlineValue::Null,
                Some(_) => return Err(NotInlineable),
            },
            Variable::Header(name) => input::header(self.scene, name)
                .map_or(InlineValue::Null, |it| InlineValue::Text(it.into())),
            Variable::Param(name) => {
                // Of a name given twice the last counts.
                let mut params = self.scene.params.iter().rev();
                params.find(|(key, _)| *key == **name).map_or(InlineValue::Null, |(_, it)| text(it))
            }
            Variable::Query(name) => match input::query(self.scene) {
                jaq_json::Val::Obj(all) => match all.get(&jaq_json::Val::from(name.to_string())) {
                    None => InlineValue::Null,
                    Some(jaq_json::Val::TStr(it)) => {
                        InlineValue::Text(String::from_utf8_lossy(it).into_owned().into())
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
