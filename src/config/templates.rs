//! The configuration that ships with the program, for `hooktrail init` to write.

/// config.toml at the repository's top.
pub const EMBEDDED: &str = include_str!("../../config.toml");

/// What config.toml names beside itself, be it in a comment: path relative to it, text. All are to be executable.
pub const EMBEDDED_HANDLERS: &[(&str, &str)] = &[
    ("handlers/show-form", include_str!("../../handlers/show-form")),
    ("handlers/show-contact", include_str!("../../handlers/show-contact")),
    ("handlers/alert", include_str!("../../handlers/alert")),
];
