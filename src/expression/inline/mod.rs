//! Simple expressions, evaluated inline: literals, paths of literal keys, comparisons, `and`, `or`,
//! `not`, `//`, `if`, `?`, `select`, constructors, and tests of text. They always end, so the server
//! evaluates them without a process. One pass over the body skips everything that no path leads to.
//!
//! The result is jaq's, or there is none. An error, a comparison of two objects, a number beyond
//! 64 bits or the items of a list are left to jaq, and so is any part of an expression that is not
//! simple, if it has to be evaluated. The tests compare both.

use std::sync::Arc;

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Term};
use jaq_core::ops::Cmp;
use jaq_core::path::{Opt, Part};

mod extract;
mod plan;
mod regex;
#[cfg(test)]
mod tests;
mod value;

pub(super) use plan::{ExtractedEvent, InlinePlan, NotInlineable};
pub(super) use value::InlineValue;

use regex::InlineRegex;
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
    /// A function of text.
    Text(TextFunction, Box<InlineNode<P>>),
    /// `[]`, and what the path does with the items. Its outputs are known if there are no items.
    /// The flag: whether `?` follows it.
    Items(Box<InlineNode<P>>, bool),
    Empty,
    /// A part that is not simple, which leaves the expression to jaq when it is reached.
    NotSimple,
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

/// A function whose input is text. jaq rejects other values, except those of `contains`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TextFunction {
    Test(InlineRegex),
    StartsWith(Arc<str>),
    EndsWith(Arc<str>),
    Contains(Arc<str>),
    Lowercase,
    Uppercase,
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
    Client,
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
        Term::Call(name, arguments) => parse_call(name, arguments, input, depth)?,
        Term::Var(name) => InlineNode::Variable(match *name {
            "$source" => Variable::Source,
            "$path" => Variable::Path,
            "$ip" => Variable::Ip,
            "$client" => Variable::Client,
            "$received_at" => Variable::ReceivedAt,
            "$event" => Variable::Event,
            _ => return None,
        }),
        Term::Path(from, path) => parse_path(from, path, input, depth)?,
        _ => return None,
    })
}

fn parse_call(
    name: &str,
    arguments: &[Term<&str>],
    input: &Input,
    depth: usize,
) -> Option<InlineNode> {
    let literal = |term: &Term<&str>| match term {
        Term::Str(None, parts) => Some(Arc::<str>::from(plain_text(parts)?)),
        _ => None,
    };
    let function = match (name, arguments) {
        ("null", []) => return Some(InlineNode::Literal(Literal::Null)),
        ("true", []) => return Some(InlineNode::Literal(Literal::Bool(true))),
        ("false", []) => return Some(InlineNode::Literal(Literal::Bool(false))),
        ("not", []) => return Some(InlineNode::Not(Box::new(input_node(input)))),
        ("empty", []) => return Some(InlineNode::Empty),
        ("select", [when]) => {
            let when = parse_node(when, input, depth + 1)?;
            return Some(InlineNode::If(Box::new([when, input_node(input), InlineNode::Empty])));
        }
        // An inline expression has one output at most.
        ("first", [term]) => return parse_node(term, input, depth + 1),
        ("test", [regex]) => TextFunction::Test(InlineRegex::new(&literal(regex)?, "")?),
        ("test", [regex, flags]) => {
            TextFunction::Test(InlineRegex::new(&literal(regex)?, &literal(flags)?)?)
        }
        ("startswith", [text]) => TextFunction::StartsWith(literal(text)?),
        ("endswith", [text]) => TextFunction::EndsWith(literal(text)?),
        ("contains", [text]) => TextFunction::Contains(literal(text)?),
        ("ascii_downcase", []) => TextFunction::Lowercase,
        ("ascii_upcase", []) => TextFunction::Uppercase,
        _ => return None,
    };
    Some(InlineNode::Text(function, Box::new(input_node(input))))
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
        let input = match output_path(&left) {
            Some(steps) => Input::Body(steps.to_vec()),
            None => Input::Other,
        };
        let right = match parse_node(right, &input, depth + 1).filter(|_| pattern.is_none()) {
            Some(right) => right,
            None if can_be_empty(&left) => InlineNode::NotSimple,
            None => return None,
        };
        return Some(InlineNode::Pipe(Box::new([left, right])));
    }
    let right = parse_node(right, input, depth + 1);
    let or_not_simple = |right: Option<_>| right.unwrap_or(InlineNode::NotSimple);
    Some(match op {
        BinaryOp::Cmp(cmp) => InlineNode::Compare(*cmp, Box::new([left, right?])),
        BinaryOp::And => InlineNode::And(Box::new([left, or_not_simple(right)])),
        BinaryOp::Or => InlineNode::Or(Box::new([left, or_not_simple(right)])),
        BinaryOp::Alt => InlineNode::Alternative(Box::new([left, or_not_simple(right)])),
        _ => return None,
    })
}

/// The path in the body of each output.
fn output_path(node: &InlineNode) -> Option<&[PathStep]> {
    match node {
        InlineNode::Body(steps) => Some(steps),
        InlineNode::If(nodes) => match &**nodes {
            [_, then, InlineNode::Empty] => output_path(then),
            _ => None,
        },
        _ => None,
    }
}

/// Whether bodies are likely for which the node has no output. Then the rest of a pipe matters little.
fn can_be_empty(node: &InlineNode) -> bool {
    match node {
        InlineNode::Items(..) | InlineNode::Empty => true,
        InlineNode::If(nodes) => nodes.iter().any(can_be_empty),
        InlineNode::Pipe(nodes) => nodes.iter().any(can_be_empty),
        _ => false,
    }
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
    // `None` stands for `[]`. jaq evaluates the keys of a path first, which can't fail for literals.
    let parts = path.0.iter().map(|(part, opt)| {
        let key = match part {
            Part::Index(Term::Str(None, parts)) => Some(PathKey::Text(plain_text(parts)?.into())),
            Part::Index(Term::Num(digits)) => Some(PathKey::Index(digits.parse().ok()?)),
            Part::Range(None, None) => None,
            _ => return None,
        };
        Some((key, matches!(opt, Opt::Optional)))
    });
    let parts = parts.collect::<Option<Vec<_>>>()?;
    if let (Term::Var(name), [(Some(PathKey::Text(key)), _)]) = (from, &parts[..]) {
        return Some(InlineNode::Variable(match *name {
            "$headers" => Variable::Header(Arc::clone(key)),
            "$query" => Variable::Query(Arc::clone(key)),
            "$params" => Variable::Param(Arc::clone(key)),
            _ => return None,
        }));
    }
    let mut node = parse_node(from, input, depth + 1)?;
    for (key, is_optional) in parts {
        node = match key {
            Some(key) => extend_path(node, key, is_optional)?,
            None => return Some(InlineNode::Items(Box::new(node), is_optional)),
        };
    }
    Some(node)
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
