//! Reads the keys of a handler for what it receives and when: expressions, `rate_limit` and the
//! circuit breaker.

use super::expression;
use super::parse::{self, DAY, POSITIVE_DURATION};
use super::server::reject_rest;
use super::toml_reader::{TomlTable, TomlValue};
use super::{Breaker, Handler, UniqueBy};

const UNIQUE_BY_EXPECTED: &str = r#"expected a table such as { jq = ".id", window = "7d" }"#;
const BREAKER_EXPECTED: &str = r#"expected a table such as { threshold = 20, cooldown = "1m" }"#;

/// Reads these keys over `default`.
pub(super) fn read_delivery(table: &TomlTable<'_>, default: Handler) -> Handler {
    let handler = Handler {
        when: expression::read_expression(table, "when"),
        split: expression::read_expression(table, "split"),
        transform: expression::read_expression(table, "transform"),
        ordering_key: expression::read_expression(table, "ordering_key"),
        version_by: expression::read_expression(table, "version_by"),
        unique_by: table.get("unique_by").and_then(|value| read_unique_by(&value)),
        debounce_by: expression::read_expression(table, "debounce_by"),
        debounce: table.optional_duration("debounce", POSITIVE_DURATION),
        rate_limit: table.parse_with("rate_limit", parse::RATE, parse::parse_rate),
        breaker: table.get("breaker").and_then(|value| read_breaker(&value)).unwrap_or_default(),
        ..default
    };
    for (key, other) in [("version_by", "ordering_key"), ("debounce", "debounce_by")] {
        if table.has(key) && !table.has(other) {
            table.missing_error(format!("has {key} without {other}: expected both, or neither"));
        }
    }
    handler
}

fn read_unique_by(value: &TomlValue<'_>) -> Option<UniqueBy> {
    let table = value.table(UNIQUE_BY_EXPECTED)?;
    if !table.has("jq") {
        table.missing_error(format!("has no jq: {UNIQUE_BY_EXPECTED}"));
    }
    let jq = expression::read_expression(&table, "jq");
    let window = table.duration("window", 7 * DAY, POSITIVE_DURATION);
    reject_rest(table, &[]);
    Some(UniqueBy { jq: jq?, window })
}

fn read_breaker(value: &TomlValue<'_>) -> Option<Breaker> {
    let table = value.table(BREAKER_EXPECTED)?;
    let default = Breaker::default();
    let failures = table.integer("threshold", i64::from(default.threshold), 0..=1_000_000);
    let breaker = Breaker {
        threshold: u32::try_from(failures).unwrap_or(default.threshold),
        cooldown: table.duration("cooldown", default.cooldown, POSITIVE_DURATION),
    };
    reject_rest(table, &[]);
    Some(breaker)
}
