//! Reads `retention` of `[store]` and of a source.

use super::parse::{self, DURATION, POSITIVE_DURATION};
use super::toml_reader::TomlTable;
use crate::domain::retention::Retention;

const RETENTION_EXPECTED: &str =
    r#"expected a table such as { bodies = "30d", events = "365d", dead_jobs = "forever" }"#;

/// Reads `retention` of a table. A part that is not set is that of `default`.
pub(super) fn read_retention(table: &TomlTable<'_>, default: Retention) -> Retention {
    let Some(value) = table.get("retention") else { return default };
    let Some(table) = value.table(RETENTION_EXPECTED) else { return default };
    let part = |name, default| {
        let parse = |text: &str| match text {
            "forever" => Ok(None),
            text => parse::parse_duration_in(text, POSITIVE_DURATION).map(Some).map_err(|remedy| {
                if remedy == DURATION { EXPECTED_PART.to_owned() } else { remedy }
            }),
        };
        table.parse_with(name, EXPECTED_PART, parse).unwrap_or(default)
    };
    let retention = Retention {
        bodies: part("bodies", default.bodies),
        events: part("events", default.events),
        dead_jobs: part("dead_jobs", default.dead_jobs),
    };
    table.reject_unknown();
    retention
}

const EXPECTED_PART: &str = r#"expected a duration such as "30d", or "forever""#;
