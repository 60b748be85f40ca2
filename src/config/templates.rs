//! The configuration in the program, which `hooktrail init` writes.

/// config.toml in the root of the repository.
pub const EMBEDDED: &str = include_str!("../../config.toml");

/// The programs that config.toml names, including those in comments: relative path and text. All
/// are executable.
pub const EMBEDDED_HANDLERS: &[(&str, &str)] = &[
    ("handlers/show-form", include_str!("../../handlers/show-form")),
    ("handlers/show-contact", include_str!("../../handlers/show-contact")),
    ("handlers/alert", include_str!("../../handlers/alert")),
];
