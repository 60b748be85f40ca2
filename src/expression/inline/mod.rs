//! Simple expressions, evaluated inline: literals, paths of literal keys, comparisons, `and`, `or`,
//! `not`, `//`, `if`, `?` and constructors. They always end, so the server evaluates them without a
//! process. One pass over the body skips everything that no path leads to.
//!
//! The result is jaq's, or there is none. An error, a comparison of two objects or a number beyond
//! 64 bits is left to jaq. The tests compare both.

use std::sync::Arc;

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Term};
use jaq_core::ops::Cmp;
use jaq_core::path::{Opt, Part};

mod extract;
mod plan;
#[cfg(test)]
mod tests;
mod value;

pub(super) use plan::{ExtractedEvent, InlinePlan, NotInlineable};
pub(super) use value::InlineValue;

use value::InlineNumber;

/// Maximum nesting of an inline expression: threads with small stacks walk its tree.
const MAX_DEPTH: usize = 64;

/// An inline expression. `P` is the type of a path in the body.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum InlineNode<P = Vec<PathStep>> {
    Literal(Literal),
    Body(P),
    Variable(Variable),
    /// The input, if it is not a place in the body.
    Input,
    Compare(Cmp, Box<[InlineNode<P>; 2]>),
    And(Box<[InlineNode<P>; 2]>),
    Or(Box<[InlineNode<P>; 2]>),
    Alternative(Box<[InlineNode<P>; 2]>),
    Not(Box<InlineNode<P>>),
    If(Box<[InlineNode<P>; 3]>),
    Try(Box<InlineNode<P>>),
    /// The second with the output of the first as its input.
    Pipe(Box<[InlineNode<P>; 2]>),
    Array(Vec<InlineNode<P>>),
    Object(Vec<(Arc<str>, InlineNode<P>)>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Number(InlineNumber<'static>),
    Text(Arc<str>),
}

/// One part of a path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PathStep {
    pub key: PathKey,
    /// Whether `?` follows it.
    pub is_optional: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum PathKey {
    Text(Arc<str>),
    Index(usize),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Variable {
    Source,
    Path,
    Ip,
    ReceivedAt,
    Event,
    Header(Arc<str>),
    Query(Arc<str>),
    Param(Arc<str>),
}

/// The input of an expression, which is the meaning of `.` in it.
enum Input {
    Body(Vec<PathStep>),
    Other,
}

/// Parses an expression; `None`: it is not simple. Needs as much stack as the compiler.
pub(super) fn parse_inlineable(text: &str) -> Option<InlineNode> {
    let term = jaq_core::load::parse(text, |parser| parser.term())?;
    parse_node(&term, &Input::Body(Vec::new()), 0)
}

fn parse_node(term: &Term<&str>, input: &Input, depth: usize) -> Option<InlineNode> {
    if depth > MAX_DEPTH {
        return None;
    }
    let inner = |term: &Term<&str>| parse_node(term, input, depth + 1);
    Some(match term {
        Term::Id => input_node(input),
        Term::Num(digits) => {
            InlineNode::Literal(Literal::Number(InlineNumber::from_literal(digits)?))
        }
        Term::Neg(term) => match &**term {
            Term::Num(digits) => {
                InlineNode::Literal(Literal::Number(InlineNumber::from_literal(digits)?.negate()))
            }
            _ => return None,
        },
        Term::Str(None, parts) => InlineNode::Literal(Literal::Text(plain_text(parts)?.into())),
        Term::Arr(None) => InlineNode::Array(Vec::new()),
        Term::Arr(Some(term)) => {
            let mut all = Vec::new();
            parse_elements(term, input, depth + 1, &mut all)?;
            InlineNode::Array(all)
        }
        Term::Obj(members) => {
            let member =
                |(key, value): &(_, Option<_>)| parse_member(key, value.as_ref(), input, depth);
            InlineNode::Object(members.iter().map(member).collect::<Option<_>>()?)
        }
        Term::BinOp(left, op, right) => parse_operation(left, op, right, input, depth)?,
        Term::TryCatch(term, None) => InlineNode::Try(Box::new(inner(term)?)),
        Term::IfThenElse(cases, last) => {
            let last = last.as_ref().map_or_else(|| Some(input_node(input)), |last| inner(last))?;
            let case = |last, (when, then): &(_, _)| {
                Some(InlineNode::If(Box::new([inner(when)?, inner(then)?, last])))
            };
            if cases.len() > MAX_DEPTH {
                return None;
            }
            cases.iter().rev().try_fold(last, case)?
        }
        Term::Call(name, arguments) if arguments.is_empty() => match *name {
            "null" => InlineNode::Literal(Literal::Null),
            "true" => InlineNode::Literal(Literal::Bool(true)),
            "false" => InlineNode::Literal(Literal::Bool(false)),
            "not" => InlineNode::Not(Box::new(input_node(input))),
            _ => return None,
        },
        Term::Var(name) => InlineNode::Variable(match *name {
            "$source" => Variable::Source,
            "$path" => Variable::Path,
            "$ip" => Variable::Ip,
            "$received_at" => Variable::ReceivedAt,
            "$event" => Variable::Event,
            _ => return None,
        }),
        Term::Path(from, path) => parse_path(from, path, input, depth)?,
        _ => return None,
    })
}

fn input_node(input: &Input) -> InlineNode {
    match input {
        Input::Body(steps) => InlineNode::Body(steps.clone()),
        Input::Other => InlineNode::Input,
    }
}

fn parse_operation(
    left: &Term<&str>,
    op: &BinaryOp<&str>,
    right: &Term<&str>,
    input: &Input,
    depth: usize,
) -> Option<InlineNode> {
    let left = parse_node(left, input, depth + 1)?;
    if let BinaryOp::Pipe(pattern) = op {
        let input = match &left {
            InlineNode::Body(steps) => Input::Body(steps.clone()),
            _ => Input::Other,
        };
        let right = parse_node(right, &input, depth + 1).filter(|_| pattern.is_none())?;
        return Some(InlineNode::Pipe(Box::new([left, right])));
    }
    let both = Box::new([left, parse_node(right, input, depth + 1)?]);
    Some(match op {
        BinaryOp::Cmp(cmp) => InlineNode::Compare(*cmp, both),
        BinaryOp::And => InlineNode::And(both),
        BinaryOp::Or => InlineNode::Or(both),
        BinaryOp::Alt => InlineNode::Alternative(both),
        _ => return None,
    })
}

/// Collects the elements of an array, separated by commas.
fn parse_elements(
    term: &Term<&str>,
    input: &Input,
    depth: usize,
    all: &mut Vec<InlineNode>,
) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    match term {
        Term::BinOp(left, BinaryOp::Comma, right) => {
            parse_elements(left, input, depth + 1, all)?;
            parse_elements(right, input, depth + 1, all)
        }
        term => {
            all.push(parse_node(term, input, depth + 1)?);
            Some(())
        }
    }
}

fn parse_member(
    key: &Term<&str>,
    value: Option<&Term<&str>>,
    input: &Input,
    depth: usize,
) -> Option<(Arc<str>, InlineNode)> {
    Some(match (key, value) {
        (Term::Var(name), None) => {
            (name.strip_prefix('$')?.into(), parse_node(key, input, depth + 1)?)
        }
        (Term::Str(None, parts), value) => {
            let name: Arc<str> = plain_text(parts)?.into();
            let value = match value {
                Some(value) => parse_node(value, input, depth + 1)?,
                None => extend_path(input_node(input), PathKey::Text(Arc::clone(&name)), false)?,
            };
            (name, value)
        }
        _ => return None,
    })
}

fn parse_path(
    from: &Term<&str>,
    path: &jaq_core::path::Path<Term<&str>>,
    input: &Input,
    depth: usize,
) -> Option<InlineNode> {
    let parts = path.0.iter().map(|(part, opt)| {
        let Part::Index(index) = part else { return None };
        let key = match index {
            Term::Str(None, parts) => PathKey::Text(plain_text(parts)?.into()),
            Term::Num(digits) => PathKey::Index(digits.parse().ok()?),
            _ => return None,
        };
        Some((key, matches!(opt, Opt::Optional)))
    });
    let parts = parts.collect::<Option<Vec<_>>>()?;
    if let (Term::Var(name), [(PathKey::Text(key), _)]) = (from, &parts[..]) {
        return Some(InlineNode::Variable(match *name {
            "$headers" => Variable::Header(Arc::clone(key)),
            "$query" => Variable::Query(Arc::clone(key)),
            "$params" => Variable::Param(Arc::clone(key)),
            _ => return None,
        }));
    }
    let from = parse_node(from, input, depth + 1)?;
    parts.into_iter().try_fold(from, |from, (key, is_optional)| extend_path(from, key, is_optional))
}

fn extend_path(from: InlineNode, key: PathKey, is_optional: bool) -> Option<InlineNode> {
    let InlineNode::Body(mut steps) = from else { return None };
    if steps.len() >= MAX_DEPTH {
        return None;
    }
    steps.push(PathStep { key, is_optional });
    Some(InlineNode::Body(steps))
}

fn plain_text(parts: &[StrPart<&str, Term<&str>>]) -> Option<String> {
    let mut text = String::new();
    for part in parts {
        match part {
            StrPart::Str(part) => text.push_str(part),
            StrPart::Char(part) => text.push(*part),
            StrPart::Term(_) => return None,
        }
    }
    Some(text)
}
