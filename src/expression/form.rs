//! Forms as objects: `a[b]` and `a[]` nest as PHP's `$_POST` does it (`php_register_variable_ex` in
//! main/php_variables.c), to 64 levels. A field given twice is an array, where PHP keeps the last.
//! Names are kept as they are, where PHP makes `_` of dots and spaces.

use jaq_json::{Map, Val};
use percent_encoding::percent_decode;

/// A form of more fields is not read.
pub(super) const FIELDS_MAX: usize = 10_000;

/// PHP's `max_input_nesting_level`: a field nested deeper is left out.
const NESTED_MAX: usize = 64;

/// An urlencoded form or query; `None`: it has too many fields.
pub(super) fn read(text: &[u8]) -> Option<Val> {
    let mut form = Form::default();
    for pair in text.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|&byte| byte == b'=');
        let (name, value) = at.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
        form.add(&decoded(name), Val::from(decoded(value)))?;
    }
    Some(form.finish())
}

/// What is no escape stays as it is.
fn decoded(text: &[u8]) -> String {
    let spaced: Vec<u8> = text.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect();
    percent_decode(&spaced).decode_utf8_lossy().into_owned()
}

/// A form in the making.
#[derive(Default)]
pub(super) struct Form {
    top: FormNode,
    fields: usize,
}

#[derive(Default)]
struct FormNode {
    /// By text, or by whole number where a key reads as one.
    all: Map<Val, FormValue>,
    /// The number that `[]` gets.
    next: isize,
}

enum FormValue {
    /// More than one where the field was given more than once.
    Fields(Vec<Val>),
    Nested(FormNode),
}

impl Form {
    /// `None`: it is one too many.
    pub(super) fn add(&mut self, name: &str, value: Val) -> Option<()> {
        self.fields += 1;
        let (first, keys) = split(name);
        if keys.len() <= NESTED_MAX {
            let first = Val::from(first.to_owned());
            self.top.add(first, &keys, value);
        }
        (self.fields <= FIELDS_MAX).then_some(())
    }

    pub(super) fn finish(self) -> Val {
        Val::obj(self.top.all.into_iter().map(|(key, node)| (key, node.finish())).collect())
    }
}

impl FormNode {
    /// What is nested replaces what is not, and the other way round, as in PHP.
    fn add(&mut self, mut key: Val, keys: &[Option<&str>], value: Val) {
        let mut nest = self;
        for next in keys {
            let node =
                nest.all.entry(key).or_insert_with(|| FormValue::Nested(FormNode::default()));
            if let FormValue::Fields(_) = node {
                *node = FormValue::Nested(FormNode::default());
            }
            let FormValue::Nested(inner) = node else { return };
            key = inner.key(*next);
            nest = inner;
        }
        match nest.all.get_mut(&key) {
            Some(FormValue::Fields(values)) => values.push(value),
            _ => drop(nest.all.insert(key, FormValue::Fields(vec![value]))),
        }
    }

    fn key(&mut self, key: Option<&str>) -> Val {
        let number = key.map_or(Some(self.next), whole);
        if let Some(number) = number {
            self.next = self.next.max(number.saturating_add(1));
        }
        number.map_or_else(|| Val::from(key.unwrap_or_default().to_owned()), Val::from)
    }
}

impl FormValue {
    fn finish(self) -> Val {
        match self {
            Self::Fields(mut values) if values.len() == 1 => values.pop().unwrap_or_default(),
            Self::Fields(values) => values.into_iter().collect(),
            Self::Nested(nest) if nest.is_list() => {
                nest.all.into_values().map(Self::finish).collect()
            }
            Self::Nested(nest) => {
                let text = |key| match key {
                    key @ Val::TStr(_) => key,
                    key => Val::from(key.to_string()),
                };
                let all = nest.all.into_iter().map(|(key, node)| (text(key), node.finish()));
                Val::obj(all.collect())
            }
        }
    }
}

impl FormNode {
    fn is_list(&self) -> bool {
        self.all.keys().zip(0_isize..).all(|(key, at)| *key == Val::from(at))
    }
}

/// `a[b][]` is `a`, then `b`, then the next number. What comes after the last bracket is ignored;
/// a bracket that is not closed, or comes first, is part of the name.
fn split(name: &str) -> (&str, Vec<Option<&str>>) {
    let Some(open @ 1..) = name.find('[') else { return (name, Vec::new()) };
    let (mut keys, mut rest) = (Vec::new(), &name[open..]);
    while let Some(inner) = rest.strip_prefix('[') {
        let Some((key, after)) = inner.split_once(']') else { break };
        let is_blank = key.is_empty() || (key.len() == 1 && key.trim_ascii().is_empty());
        keys.push((!is_blank).then_some(key));
        rest = after;
    }
    if keys.is_empty() { (name, keys) } else { (&name[..open], keys) }
}

/// A key that PHP takes for a number: written as it would be.
fn whole(key: &str) -> Option<isize> {
    let number: isize = key.parse().ok()?;
    (number.to_string() == key).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(form: &str, expected: &str) {
        assert_eq!(read(form.as_bytes()).unwrap().to_string(), expected, "{form}");
    }

    #[test]
    fn fields_are_decoded() {
        check("", "{}");
        check("a=1&b=x+y%20z&&c", r#"{"a":"1","b":"x y z","c":""}"#);
        check("%C3%A4=%e2%82%AC&a.b=1&a%2fb=2", r#"{"ä":"€","a.b":"1","a/b":"2"}"#);
        check("a=b=c&=d", r#"{"a":"b=c","":"d"}"#);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        check("a=%&b=%4&c=%zz&d=%4g1", r#"{"a":"%","b":"%4","c":"%zz","d":"%4g1"}"#);
        check("a=%ff", "{\"a\":\"\u{fffd}\"}");
    }

    #[test]
    fn a_field_given_twice_is_an_array() {
        check("a=1&a=2&a=3", r#"{"a":["1","2","3"]}"#);
        check("a[b]=1&a[b]=2", r#"{"a":{"b":["1","2"]}}"#);
    }

    #[test]
    fn brackets_nest_as_php_does_it() {
        check("a[]=1&a[]=2", r#"{"a":["1","2"]}"#);
        check("a[b]=1&a[c][d]=2", r#"{"a":{"b":"1","c":{"d":"2"}}}"#);
        check("a[0]=x&a[1]=y", r#"{"a":["x","y"]}"#);
        check("a[1]=x&a[0]=y", r#"{"a":{"1":"x","0":"y"}}"#);
        check("a[5]=x&a[]=y", r#"{"a":{"5":"x","6":"y"}}"#);
        check("a[01]=x&a[-1]=y&a[]=z", r#"{"a":{"01":"x","-1":"y","0":"z"}}"#);
        check("a[][b]=1&a[][b]=2", r#"{"a":[{"b":"1"},{"b":"2"}]}"#);
        check("a[ ]=1&a[ b]=2", r#"{"a":{"0":"1"," b":"2"}}"#);
        check("a%5Bb%5D=1", r#"{"a":{"b":"1"}}"#);
    }

    #[test]
    fn odd_brackets_are_taken_as_php_takes_them() {
        check("a[b=1&[a]=2&a]=3", r#"{"a[b":"1","[a]":"2","a]":"3"}"#);
        check("a[b]c=1", r#"{"a":{"b":"1"}}"#);
        check("a[b][c=1", r#"{"a":{"b":"1"}}"#);
        check("a[[b]=1", r#"{"a":{"[b":"1"}}"#);
        check("a=1&a[b]=2", r#"{"a":{"b":"2"}}"#);
        check("a[b]=1&a=2", r#"{"a":"2"}"#);
    }

    #[test]
    fn what_is_nested_too_deep_is_left_out() {
        let nested = |levels: usize| format!("a{}=1&b=2", "[x]".repeat(levels));
        let read = |form: String| read(form.as_bytes()).unwrap().to_string();
        assert_eq!(read(nested(64)).matches("\"x\"").count(), 64);
        assert_eq!(read(nested(65)), r#"{"b":"2"}"#);
    }

    #[test]
    fn too_many_fields_are_not_read() {
        assert!(read("a[]=1&".repeat(10_000).as_bytes()).is_some());
        assert!(read("a[]=1&".repeat(10_001).as_bytes()).is_none());
    }
}
