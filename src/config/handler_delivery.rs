//! A handler's keys for what it gets and when: expressions, `rate`, batches and the breaker.

use super::expression;
use super::parse::{self, DAY, GRACE, POSITIVE};
use super::server::reject_rest;
use super::toml_reader::{TomlTable, TomlValue};
use super::{Breaker, Handler, Mode, Once};

const ONCE: &str = r#"expected a table such as { jq = ".id", window = "7d" }"#;
const BREAKER: &str = r#"expected a table such as { threshold = 20, cooldown = "1m" }"#;
const MODES: [(&str, Mode); 4] =
    [("each", Mode::Each), ("stream", Mode::Stream), ("batch", Mode::Batch), ("cgi", Mode::Cgi)];

/// `default` with what of these keys is written.
pub(super) fn read(table: &TomlTable<'_>, default: Handler) -> Handler {
    let mode = table.choice("mode", &MODES, default.mode);
    let settle = table.optional_duration("debounce", POSITIVE);
    let batch_size = table.integer("batch_size", default.batch_size as i64, 1..=10_000);
    let handler = Handler {
        mode,
        when: expression::read(table, "when"),
        split: expression::read(table, "split"),
        transform: expression::read(table, "transform"),
        ordering_key: expression::read(table, "ordering_key"),
        version_by: expression::read(table, "version_by"),
        unique_by: table.get("unique_by").and_then(|value| read_once(&value)),
        debounce_by: expression::read(table, "debounce_by"),
        settle,
        rate: table.parsed("rate_limit", parse::RATE, parse::rate),
        batch_size: batch_size as usize,
        batch_wait: table.duration("batch_wait", default.batch_wait, GRACE),
        breaker: table.get("breaker").and_then(|value| read_breaker(&value)).unwrap_or_default(),
        ..default
    };
    for (key, other) in [("version_by", "ordering_key"), ("debounce", "debounce_by")] {
        if table.has(key) && !table.has(other) {
            table.missing(format!("has {key} without {other}: expected both, or neither"));
        }
    }
    if mode != Mode::Batch && !table.has("url") {
        for value in ["batch_size", "batch_wait"].iter().filter_map(|key| table.get(key)) {
            value.warn(r#"has no effect: expected mode = "batch" beside it"#);
        }
    }
    handler
}

fn read_once(value: &TomlValue<'_>) -> Option<Once> {
    let table = value.table(ONCE)?;
    if !table.has("jq") {
        table.missing(format!("has no jq: {ONCE}"));
    }
    let jq = expression::read(&table, "jq");
    let window = table.duration("window", 7 * DAY, POSITIVE);
    reject_rest(table, &[]);
    Some(Once { jq: jq?, window })
}

fn read_breaker(value: &TomlValue<'_>) -> Option<Breaker> {
    let table = value.table(BREAKER)?;
    let default = Breaker::default();
    let failures = table.integer("threshold", i64::from(default.failures), 0..=1_000_000);
    let breaker = Breaker {
        failures: u32::try_from(failures).unwrap_or(default.failures),
        pause: table.duration("cooldown", default.pause, POSITIVE),
    };
    reject_rest(table, &[]);
    Some(breaker)
}
