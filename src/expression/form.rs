//! Reads forms as objects: `a[b]` and `a[]` nest as in PHP's `$_POST` (`php_register_variable_ex`
//! in main/php_variables.c), to 64 levels. A repeated field is an array, where PHP keeps the last
//! value. Names stay as they are, where PHP replaces dots and spaces by `_`.

use jaq_json::{Map, Val};

use crate::urlencoded;

/// A form with more fields is not parsed.
pub(super) const MAX_FIELDS: usize = 10_000;

/// PHP's `max_input_nesting_level`: a deeper field is left out.
const MAX_NESTING: usize = 64;

/// Parses an urlencoded form or query; `None`: it has too many fields.
pub(super) fn read(text: &[u8]) -> Option<Val> {
    let mut form = Form::default();
    for (name, value) in urlencoded::fields(text) {
        let value = String::from_utf8_lossy(&value).into_owned();
        form.add(&String::from_utf8_lossy(&name), Val::from(value))?;
    }
    Some(form.finish())
}

/// Builds the object of a form.
#[derive(Default)]
pub(super) struct Form {
    top: FormNode,
    fields: usize,
}

#[derive(Default)]
struct FormNode {
    /// Keys are text, or whole numbers where the text of a key is one.
    all: Map<Val, FormValue>,
    /// The number of the next `[]`.
    next_index: isize,
}

enum FormValue {
    /// More than one value if the field is repeated.
    Fields(Vec<Val>),
    Nested(FormNode),
}

impl Form {
    /// Adds a field; `None`: the form has too many.
    pub(super) fn add(&mut self, name: &str, value: Val) -> Option<()> {
        self.fields += 1;
        let (first, keys) = split_name(name);
        if keys.len() <= MAX_NESTING {
            let first = Val::from(first.to_owned());
            self.top.add(first, &keys, value);
        }
        (self.fields <= MAX_FIELDS).then_some(())
    }

    pub(super) fn finish(self) -> Val {
        Val::obj(self.top.all.into_iter().map(|(key, node)| (key, node.finish())).collect())
    }
}

impl FormNode {
    /// A nested field replaces a plain one and the other way round, as in PHP.
    fn add(&mut self, mut key: Val, keys: &[Option<&str>], value: Val) {
        let mut node = self;
        for next_key in keys {
            let child =
                node.all.entry(key).or_insert_with(|| FormValue::Nested(FormNode::default()));
            if let FormValue::Fields(_) = child {
                *child = FormValue::Nested(FormNode::default());
            }
            let FormValue::Nested(inner) = child else { return };
            key = inner.key(*next_key);
            node = inner;
        }
        match node.all.get_mut(&key) {
            Some(FormValue::Fields(values)) => values.push(value),
            _ => drop(node.all.insert(key, FormValue::Fields(vec![value]))),
        }
    }

    fn key(&mut self, key: Option<&str>) -> Val {
        let number = key.map_or(Some(self.next_index), parse_whole_number);
        if let Some(number) = number {
            self.next_index = self.next_index.max(number.saturating_add(1));
        }
        number.map_or_else(|| Val::from(key.unwrap_or_default().to_owned()), Val::from)
    }
}

impl FormValue {
    fn finish(self) -> Val {
        match self {
            Self::Fields(mut values) if values.len() == 1 => values.pop().unwrap_or_default(),
            Self::Fields(values) => values.into_iter().collect(),
            Self::Nested(node) if node.is_list() => {
                node.all.into_values().map(Self::finish).collect()
            }
            Self::Nested(node) => {
                let text = |key| match key {
                    key @ Val::TStr(_) => key,
                    key => Val::from(key.to_string()),
                };
                let all = node.all.into_iter().map(|(key, node)| (text(key), node.finish()));
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

/// Splits a name: `a[b][]` is `a`, then `b`, then the next number. Text after the last bracket is
/// ignored. A bracket that is not closed, or that comes first, is part of the name.
fn split_name(name: &str) -> (&str, Vec<Option<&str>>) {
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

/// Parses a key that PHP takes for a number: one in its canonical form.
fn parse_whole_number(key: &str) -> Option<isize> {
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
    fn invalid_escapes_stay_as_they_are() {
        check("a=%&b=%4&c=%zz&d=%4g1", r#"{"a":"%","b":"%4","c":"%zz","d":"%4g1"}"#);
        check("a=%ff", "{\"a\":\"\u{fffd}\"}");
    }

    #[test]
    fn a_repeated_field_is_an_array() {
        check("a=1&a=2&a=3", r#"{"a":["1","2","3"]}"#);
        check("a[b]=1&a[b]=2", r#"{"a":{"b":["1","2"]}}"#);
    }

    #[test]
    fn brackets_nest_as_in_php() {
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
    fn unmatched_brackets_are_read_as_in_php() {
        check("a[b=1&[a]=2&a]=3", r#"{"a[b":"1","[a]":"2","a]":"3"}"#);
        check("a[b]c=1", r#"{"a":{"b":"1"}}"#);
        check("a[b][c=1", r#"{"a":{"b":"1"}}"#);
        check("a[[b]=1", r#"{"a":{"[b":"1"}}"#);
        check("a=1&a[b]=2", r#"{"a":{"b":"2"}}"#);
        check("a[b]=1&a=2", r#"{"a":"2"}"#);
    }

    #[test]
    fn a_field_nested_too_deep_is_left_out() {
        let nested = |levels: usize| format!("a{}=1&b=2", "[x]".repeat(levels));
        let read = |form: String| read(form.as_bytes()).unwrap().to_string();
        assert_eq!(read(nested(64)).matches("\"x\"").count(), 64);
        assert_eq!(read(nested(65)), r#"{"b":"2"}"#);
    }

    #[test]
    fn a_form_with_too_many_fields_is_not_parsed() {
        assert!(read("a[]=1&".repeat(10_000).as_bytes()).is_some());
        assert!(read("a[]=1&".repeat(10_001).as_bytes()).is_none());
    }
}
