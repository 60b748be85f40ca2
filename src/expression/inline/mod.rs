//! Simple expressions: nothing but literals, paths of literal keys, comparisons, `and`, `or`, `not`,
//! `//`, `if`, `?` and constructors. They end by themselves, so the server evaluates them in place,
//! in one pass over the body that skips what no path leads to.
//!
//! The result is what jaq gives, or there is none: whatever is not plain here (a fault, a comparison
//! of two objects, a number beyond 64 bits) is left to jaq. `tests` holds both against each other.

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

pub(super) use plan::{ExtractedEvent, InlinePlan, Odd};
pub(super) use value::Value;

use value::Number;

/// Nested deeper, an expression is not simple: its tree is walked on threads with small stacks.
const DEPTH_MAX: usize = 64;

/// A simple expression; `P` is how it names a place in the body.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node<P = Vec<Step>> {
    Literal(Literal),
    Body(P),
    Variable(Variable),
    /// The input, where that is no place in the body.
    Input,
    Compare(Cmp, Box<[Node<P>; 2]>),
    And(Box<[Node<P>; 2]>),
    Or(Box<[Node<P>; 2]>),
    Else(Box<[Node<P>; 2]>),
    Not(Box<Node<P>>),
    If(Box<[Node<P>; 3]>),
    Try(Box<Node<P>>),
    /// The second where the first gives something, which is its input.
    Pipe(Box<[Node<P>; 2]>),
    Array(Vec<Node<P>>),
    Object(Vec<(Arc<str>, Node<P>)>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Number(Number<'static>),
    Text(Arc<str>),
}

/// One part of a path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub key: Key,
    /// Followed by `?`.
    pub optional: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Key {
    Text(Arc<str>),
    At(usize),
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

/// What an expression's input is, and so what `.` means in it.
enum Input {
    Body(Vec<Step>),
    Other,
}

/// The expression, if it is simple. Needs as much stack as to compile it.
pub(super) fn parse_inlineable(text: &str) -> Option<Node> {
    let term = jaq_core::load::parse(text, |parser| parser.term())?;
    node(&term, &Input::Body(Vec::new()), 0)
}

fn node(term: &Term<&str>, input: &Input, depth: usize) -> Option<Node> {
    if depth > DEPTH_MAX {
        return None;
    }
    let inner = |term: &Term<&str>| node(term, input, depth + 1);
    Some(match term {
        Term::Id => input_of(input),
        Term::Num(digits) => Node::Literal(Literal::Number(Number::literal(digits)?)),
        Term::Neg(term) => match &**term {
            Term::Num(digits) => Node::Literal(Literal::Number(Number::literal(digits)?.negated())),
            _ => return None,
        },
        Term::Str(None, parts) => Node::Literal(Literal::Text(text_of(parts)?.into())),
        Term::Arr(None) => Node::Array(Vec::new()),
        Term::Arr(Some(term)) => {
            let mut all = Vec::new();
            elements(term, input, depth + 1, &mut all)?;
            Node::Array(all)
        }
        Term::Obj(members) => {
            let member = |(key, value): &(_, Option<_>)| member(key, value.as_ref(), input, depth);
            Node::Object(members.iter().map(member).collect::<Option<_>>()?)
        }
        Term::BinOp(left, op, right) => operation(left, op, right, input, depth)?,
        Term::TryCatch(term, None) => Node::Try(Box::new(inner(term)?)),
        Term::IfThenElse(cases, last) => {
            let last = last.as_ref().map_or_else(|| Some(input_of(input)), |last| inner(last))?;
            let case = |last, (when, then): &(_, _)| {
                Some(Node::If(Box::new([inner(when)?, inner(then)?, last])))
            };
            if cases.len() > DEPTH_MAX {
                return None;
            }
            cases.iter().rev().try_fold(last, case)?
        }
        Term::Call(name, arguments) if arguments.is_empty() => match *name {
            "null" => Node::Literal(Literal::Null),
            "true" => Node::Literal(Literal::Bool(true)),
            "false" => Node::Literal(Literal::Bool(false)),
            "not" => Node::Not(Box::new(input_of(input))),
            _ => return None,
        },
        Term::Var(name) => Node::Variable(match *name {
            "$source" => Variable::Source,
            "$path" => Variable::Path,
            "$ip" => Variable::Ip,
            "$received_at" => Variable::ReceivedAt,
            "$event" => Variable::Event,
            _ => return None,
        }),
        Term::Path(from, path) => path_of(from, path, input, depth)?,
        _ => return None,
    })
}

fn input_of(input: &Input) -> Node {
    match input {
        Input::Body(steps) => Node::Body(steps.clone()),
        Input::Other => Node::Input,
    }
}

fn operation(
    left: &Term<&str>,
    op: &BinaryOp<&str>,
    right: &Term<&str>,
    input: &Input,
    depth: usize,
) -> Option<Node> {
    let left = node(left, input, depth + 1)?;
    if let BinaryOp::Pipe(pattern) = op {
        let input = match &left {
            Node::Body(steps) => Input::Body(steps.clone()),
            _ => Input::Other,
        };
        let right = node(right, &input, depth + 1).filter(|_| pattern.is_none())?;
        return Some(Node::Pipe(Box::new([left, right])));
    }
    let both = Box::new([left, node(right, input, depth + 1)?]);
    Some(match op {
        BinaryOp::Cmp(cmp) => Node::Compare(*cmp, both),
        BinaryOp::And => Node::And(both),
        BinaryOp::Or => Node::Or(both),
        BinaryOp::Alt => Node::Else(both),
        _ => return None,
    })
}

/// What stands between commas.
fn elements(term: &Term<&str>, input: &Input, depth: usize, all: &mut Vec<Node>) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    match term {
        Term::BinOp(left, BinaryOp::Comma, right) => {
            elements(left, input, depth + 1, all)?;
            elements(right, input, depth + 1, all)
        }
        term => {
            all.push(node(term, input, depth + 1)?);
            Some(())
        }
    }
}

fn member(
    key: &Term<&str>,
    value: Option<&Term<&str>>,
    input: &Input,
    depth: usize,
) -> Option<(Arc<str>, Node)> {
    Some(match (key, value) {
        (Term::Var(name), None) => (name.strip_prefix('$')?.into(), node(key, input, depth + 1)?),
        (Term::Str(None, parts), value) => {
            let name: Arc<str> = text_of(parts)?.into();
            let value = match value {
                Some(value) => node(value, input, depth + 1)?,
                None => step_into(input_of(input), Key::Text(Arc::clone(&name)), false)?,
            };
            (name, value)
        }
        _ => return None,
    })
}

fn path_of(
    from: &Term<&str>,
    path: &jaq_core::path::Path<Term<&str>>,
    input: &Input,
    depth: usize,
) -> Option<Node> {
    let parts = path.0.iter().map(|(part, opt)| {
        let Part::Index(index) = part else { return None };
        let key = match index {
            Term::Str(None, parts) => Key::Text(text_of(parts)?.into()),
            Term::Num(digits) => Key::At(digits.parse().ok()?),
            _ => return None,
        };
        Some((key, matches!(opt, Opt::Optional)))
    });
    let parts = parts.collect::<Option<Vec<_>>>()?;
    if let (Term::Var(name), [(Key::Text(key), _)]) = (from, &parts[..]) {
        return Some(Node::Variable(match *name {
            "$headers" => Variable::Header(Arc::clone(key)),
            "$query" => Variable::Query(Arc::clone(key)),
            "$params" => Variable::Param(Arc::clone(key)),
            _ => return None,
        }));
    }
    let from = node(from, input, depth + 1)?;
    parts.into_iter().try_fold(from, |from, (key, optional)| step_into(from, key, optional))
}

fn step_into(from: Node, key: Key, optional: bool) -> Option<Node> {
    let Node::Body(mut steps) = from else { return None };
    if steps.len() >= DEPTH_MAX {
        return None;
    }
    steps.push(Step { key, optional });
    Some(Node::Body(steps))
}

fn text_of(parts: &[StrPart<&str, Term<&str>>]) -> Option<String> {
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
