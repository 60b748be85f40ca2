//! Keys of pre-release builds and their successors, for the error about an unknown key.

/// Each former key, and its successor in the same table.
const FORMER_KEYS: &[(&str, &str)] = &[
    ("accept_rate", "rate_limit"),
    ("attempts_max", "max_attempts"),
    ("batch_jobs_max", "batch_size"),
    ("bodies_bytes_max", "max_inflight_size"),
    ("body_bytes_max", "max_body_size"),
    ("collapse_by", "debounce_by"),
    ("factor", "multiplier"),
    ("failures", "threshold"),
    ("first", "initial_delay"),
    ("free_bytes_min", "min_free_space"),
    ("give_up_after", "max_age"),
    ("longest", "max_delay"),
    ("newest_by", "version_by"),
    ("once_by", "unique_by"),
    ("order_by", "ordering_key"),
    ("output_bytes_max", "max_output_size"),
    ("pause", "cooldown"),
    ("queued_max", "max_queued"),
    ("rate", "rate_limit"),
    ("segment", "path_token"),
    ("settle", "debounce"),
    ("silent_after", "alert_if_silent_for"),
];

/// The current name of a former key.
pub(super) fn find_successor(key: &str) -> Option<&'static str> {
    FORMER_KEYS.iter().find(|(former, _)| *former == key).map(|(_, successor)| *successor)
}
