//! A reader over parsed TOML with the location of every value.
//!
//! A [`TomlTable`] remembers each key that the program asks for. Every other key is then unknown,
//! so no second list of valid keys exists. A [`TomlValue`] that is invalid records an error and
//! returns nothing, and the caller goes on with its default.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::error::{Diagnostics, Location};
use super::former_keys;
use super::parse::{self, DurationRange};

/// A file: its number, its text, and the ends of its lines, from which locations are computed.
pub(super) struct TomlFile {
    pub text: String,
    number: usize,
    line_ends: Vec<usize>,
}

impl TomlFile {
    pub fn new(number: usize, text: String) -> Self {
        let line_ends = text.match_indices('\n').map(|(offset, _)| offset).collect();
        Self { text, number, line_ends }
    }

    /// The location of an offset.
    pub fn locate(&self, offset: usize) -> Location {
        let line = 1 + self.line_ends.partition_point(|end| *end < offset);
        Location { file: self.number, line }
    }
}

/// A table, which may be absent if it is optional.
pub(super) struct TomlTable<'a> {
    /// `handlers.crm`; empty for a file's root.
    pub key: String,
    pub at: Location,
    pub log: &'a Diagnostics,
    file: Option<&'a TomlFile>,
    entries: Option<&'a DeTable<'a>>,
    known_keys: RefCell<Vec<&'static str>>,
}

/// A value and its key.
#[derive(Clone)]
pub(super) struct TomlValue<'a> {
    pub key: String,
    pub at: Location,
    pub log: &'a Diagnostics,
    file: &'a TomlFile,
    key_at: Location,
    /// The offset of the value in the file.
    start: usize,
    value: &'a DeValue<'a>,
}

impl<'a> TomlTable<'a> {
    pub fn root(file: &'a TomlFile, entries: &'a DeTable<'a>, log: &'a Diagnostics) -> Self {
        let at = file.locate(0);
        let known_keys = RefCell::default();
        Self { key: String::new(), at, log, file: Some(file), entries: Some(entries), known_keys }
    }

    /// An absent table: every key has its default.
    pub fn absent(key: &str, log: &'a Diagnostics) -> Self {
        let at = Location { file: 0, line: 0 };
        Self {
            key: key.to_owned(),
            at,
            log,
            file: None,
            entries: None,
            known_keys: RefCell::default(),
        }
    }

    fn key_of(&self, name: &str) -> String {
        let is_bare_key_char = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let name = match !name.is_empty() && name.chars().all(is_bare_key_char) {
            true => name.to_owned(),
            false => parse::quote(name),
        };
        if self.key.is_empty() { name } else { format!("{}.{name}", self.key) }
    }

    fn value(&self, name: &str) -> Option<TomlValue<'a>> {
        let (file, entries) = (self.file?, self.entries?);
        let (key, inner) = entries.get_key_value(name)?;
        let start = inner.span().start;
        let (key_at, at) = (file.locate(key.span().start), file.locate(start));
        let at = if inner.get_ref().is_table() { key_at } else { at };
        let (key, value) = (self.key_of(name), inner.get_ref());
        Some(TomlValue { key, at, log: self.log, file, key_at, start, value })
    }

    pub fn get(&self, name: &'static str) -> Option<TomlValue<'a>> {
        let mut known_keys = self.known_keys.borrow_mut();
        if !known_keys.contains(&name) {
            known_keys.push(name);
        }
        self.value(name)
    }

    /// Whether the file has the key, without making it a known key.
    pub fn has(&self, name: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(name))
    }

    /// All entries in the order of the file, for tables whose keys are names.
    pub fn entries_in_order(&self) -> Vec<(&'a str, TomlValue<'a>)> {
        let Some(entries) = self.entries else { return Vec::new() };
        let mut keys: Vec<_> = entries.keys().collect();
        keys.sort_by_key(|key| key.span().start);
        let entry = |name: &'a str| Some((name, self.value(name)?));
        keys.into_iter().filter_map(|key| entry(key.get_ref().as_ref())).collect()
    }

    /// Rejects every key that the program did not ask for.
    pub fn reject_unknown(self) {
        let known_keys = self.known_keys.borrow();
        for (name, value) in self.entries_in_order() {
            if !known_keys.contains(&name) {
                let is_known = |key: &&str| known_keys.contains(key);
                let hint = match former_keys::find_successor(name).filter(is_known) {
                    Some(key) => format!("its name is now {key}"),
                    None => parse::suggest(name, &known_keys, |known| known.to_owned()),
                };
                self.log.error(value.key_at, format!("{} is unknown: {hint}", value.key));
            }
        }
    }

    /// Records an error of the table as a whole.
    pub fn error(&self, text: impl Display) {
        self.log.error(self.at, format!("{} {text}", self.key));
    }

    /// Records a warning about the table as a whole.
    pub fn warn(&self, text: impl Display) {
        self.log.warn(self.at, format!("{} {text}", self.key));
    }

    /// Records that a required key is missing.
    pub fn missing_error(&self, text: impl Display) {
        self.log.missing_error(self.at, format!("{} {text}", self.key));
    }

    pub fn flag(&self, name: &'static str, default: bool) -> bool {
        let Some(value) = self.get(name) else { return default };
        value.flag().unwrap_or(default)
    }

    pub fn parse_with<T>(
        &self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.get(name)?.parse_with(expected, parse)
    }

    pub fn choice<T: Copy>(&self, name: &'static str, choices: &[(&str, T)], default: T) -> T {
        let names: Vec<&str> = choices.iter().map(|choice| choice.0).collect();
        let parse = |text: &str| {
            let found = choices.iter().find(|choice| choice.0 == text);
            found.map(|choice| choice.1).ok_or_else(|| parse::expected_one_of(text, &names))
        };
        self.parse_with(name, &parse::expected_one_of("", &names), parse).unwrap_or(default)
    }

    pub fn duration(
        &self,
        name: &'static str,
        default: Duration,
        range: DurationRange,
    ) -> Duration {
        self.optional_duration(name, range).unwrap_or(default)
    }

    /// A duration that has no default.
    pub fn optional_duration(&self, name: &'static str, range: DurationRange) -> Option<Duration> {
        self.parse_with(name, parse::DURATION, |text| parse::parse_duration_in(text, range))
    }

    pub fn size(&self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let parse_value = |value: TomlValue<'a>| {
            let size = match value.value {
                DeValue::String(text) => parse::parse_size(text),
                _ => value.integer().and_then(|n| u64::try_from(n).ok()),
            };
            let Some(size) = size else { return value.invalid(parse::SIZE) };
            if !range.contains(&size) {
                return value.invalid(parse::size_range(&range));
            }
            Some(size)
        };
        self.get(name).and_then(parse_value).unwrap_or(default)
    }

    pub fn integer(&self, name: &'static str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let parse_value = |value: TomlValue<'a>| {
            let number = value.integer().filter(|n| range.contains(n));
            let expected = || parse::integer_range(&range);
            number.or_else(|| value.invalid(expected()))
        };
        self.get(name).and_then(parse_value).unwrap_or(default)
    }

    pub fn number(
        &self,
        name: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
        expected: &str,
    ) -> f64 {
        let parse_value = |value: TomlValue<'a>| {
            let number = match value.value {
                DeValue::Float(float) => float.as_str().parse().ok(),
                _ => value.integer().map(|n| n as f64),
            };
            let number = number.filter(|n: &f64| n.is_finite() && range.contains(n));
            number.or_else(|| value.invalid(expected))
        };
        self.get(name).and_then(parse_value).unwrap_or(default)
    }

    /// Reads a list of texts and parses each. Invalid ones are left out. `None` if the key is
    /// missing.
    pub fn texts<T>(
        &self,
        name: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let items = self.get(name)?.list(expected).unwrap_or_default();
        Some(items.iter().filter_map(|item| item.parse_with(expected, &parse)).collect())
    }
}

impl<'a> TomlValue<'a> {
    /// Records that the value is invalid; returns `None` for the caller's convenience.
    pub fn invalid<T>(&self, expected: impl Display) -> Option<T> {
        self.error(format!("is {}: {expected}", parse::display_value(self.value)));
        None
    }

    /// Like `invalid`, for values that may be secret: it shows only their type.
    pub fn invalid_redacted<T>(&self, expected: impl Display) -> Option<T> {
        self.error(format!("is {}: {expected}", parse::type_name(self.value)));
        None
    }

    pub fn error(&self, text: impl Display) {
        self.log.error(self.at, format!("{} {text}", self.key));
    }

    pub fn warn(&self, text: impl Display) {
        self.log.warn(self.at, format!("{} {text}", self.key));
    }

    /// The file from the start of the value: the value as written, and what follows.
    pub fn source_text(&self) -> &'a str {
        self.file.text.get(self.start..).unwrap_or_default()
    }

    /// The location at an offset within `source_text`.
    pub fn locate_within(&self, bytes: usize) -> Location {
        self.file.locate(self.start + bytes)
    }

    pub fn is_list(&self) -> bool {
        self.value.is_array()
    }

    pub fn is_empty_list(&self) -> bool {
        self.value.as_array().is_some_and(|items| items.is_empty())
    }

    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub fn as_flag(&self) -> Option<bool> {
        self.value.as_bool()
    }

    pub fn flag(&self) -> Option<bool> {
        self.as_flag().or_else(|| self.invalid("expected true or false"))
    }

    /// Reads text without NUL, which neither paths, arguments nor headers can contain.
    pub fn text(&self, expected: &str) -> Option<&'a str> {
        let Some(text) = self.value.as_str() else { return self.invalid(expected) };
        if text.contains('\0') { self.invalid("expected text without a NUL") } else { Some(text) }
    }

    pub fn raw_text(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    pub fn parse_with<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(self.text(expected)?).map_or_else(|remedy| self.invalid(remedy), Some)
    }

    fn integer(&self) -> Option<i64> {
        let number = self.value.as_integer()?;
        i64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    pub fn list(&self, expected: &str) -> Option<Vec<TomlValue<'a>>> {
        let Some(items) = self.value.as_array() else { return self.invalid(expected) };
        let item = |item: &'a toml::Spanned<DeValue<'a>>| TomlValue {
            at: self.file.locate(item.span().start),
            start: item.span().start,
            value: item.get_ref(),
            ..self.clone()
        };
        Some(items.iter().map(item).collect())
    }

    pub fn table(&self, expected: &str) -> Option<TomlTable<'a>> {
        let Some(entries) = self.value.as_table() else { return self.invalid(expected) };
        Some(TomlTable {
            key: self.key.clone(),
            at: self.at,
            log: self.log,
            file: Some(self.file),
            entries: Some(entries),
            known_keys: RefCell::default(),
        })
    }
}
