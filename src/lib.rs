//! Hooktrail: a webhook receiver that keeps a trail.
//!
//! ARCHITECTURE.md is the map; `domain` has the words.

pub mod config;
pub mod domain;
