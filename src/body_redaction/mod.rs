//! Replaces the values at the paths of `redact.paths` in a body, before it is stored.
//!
//! A path leads to what an expression sees at that path: in JSON, in a form, in the fields of
//! `multipart/form-data`. Everything else in the body stays byte for byte. No expression is evaluated. The
//! time is proportional to the size of the body.

use std::ops::Range;

use crate::json as json_syntax;
use crate::media_type::BodyFormat;
use crate::redact::REDACTED;

mod form;
mod json;
mod path;
#[cfg(test)]
mod tests;

pub use path::RedactPath;

use json::RedactPathTree;

/// `[redacted]` as a value of JSON.
const REDACTED_JSON: &str = "\"[redacted]\"";

/// `[redacted]` as a value of an urlencoded form.
const REDACTED_FORM: &str = "%5Bredacted%5D";

/// The paths of one source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BodyRedaction {
    paths: Vec<RedactPath>,
    tree: RedactPathTree,
}

/// A new text for a range of the body.
struct Edit {
    range: Range<usize>,
    text: String,
}

impl BodyRedaction {
    pub fn new(paths: Vec<RedactPath>) -> Self {
        Self { tree: RedactPathTree::new(&paths), paths }
    }

    /// Whether there are no paths, so that each body stays as it is.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    pub fn paths(&self) -> &[RedactPath] {
        &self.paths
    }

    /// Returns the redacted body, or `None` if the body has no value at any of the paths.
    ///
    /// An empty body has no values. A byte order mark stays.
    ///
    /// # Errors
    /// Why the body cannot be read. The text quotes nothing of it.
    pub fn redact(
        &self,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, String> {
        let text = json_syntax::without_mark(body);
        if self.is_empty() || text.is_empty() {
            return Ok(None);
        }
        let content_type = content_type.unwrap_or_default();
        let redacted = match BodyFormat::from_content_type(content_type.as_bytes()) {
            BodyFormat::Json | BodyFormat::MaybeJson => {
                // Strips the mark itself, and no second one.
                validate_json(body)?;
                self.redact_json(text)
            }
            BodyFormat::Form => self.redact_form(text)?,
            BodyFormat::Multipart => {
                let edits = form::edit_multipart(&self.tree, content_type, text)?;
                apply_edits(text, &edits)
            }
            BodyFormat::Text => {
                return Err("body is no JSON, form or multipart/form-data, which redact.paths \
                            requires"
                    .to_owned());
            }
        };
        let mark = &body[..body.len() - text.len()];
        Ok(redacted.map(|redacted| [mark, &redacted].concat()))
    }

    /// Redacts valid JSON without a byte order mark.
    fn redact_json(&self, text: &[u8]) -> Option<Vec<u8>> {
        let edit = |range| Edit { range, text: REDACTED_JSON.to_owned() };
        let edits: Vec<Edit> = self.tree.find(text).into_iter().map(edit).collect();
        apply_edits(text, &edits)
    }

    /// Redacts a form. Clients such as `curl -d` also send JSON under this content type: it is redacted as JSON
    /// only, so that a captured request has the same bytes, and the same keys, under both content types.
    fn redact_form(&self, text: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match text.trim_ascii_start() {
            [b'{' | b'[', ..] => {
                validate_json(text)?;
                Ok(self.redact_json(text))
            }
            [b'-', b'-', ..] => {
                Err("body is not a form: it looks like multipart/form-data".to_owned())
            }
            _ => Ok(apply_edits(text, &form::edit_form(&self.tree, text)?)),
        }
    }
}

fn validate_json(body: &[u8]) -> Result<(), String> {
    json_syntax::validate(body).map_err(|error| format!("body is {error}"))
}

/// Returns the text with its edits, which are in the order of their ranges. `None`: there are none.
fn apply_edits(text: &[u8], edits: &[Edit]) -> Option<Vec<u8>> {
    if edits.is_empty() {
        return None;
    }
    let added: usize = edits.iter().map(|edit| edit.text.len()).sum();
    let removed: usize = edits.iter().map(|edit| edit.range.len()).sum();
    let (mut edited, mut end) = (Vec::with_capacity(text.len() + added - removed), 0);
    for edit in edits {
        edited.extend_from_slice(&text[end..edit.range.start]);
        edited.extend_from_slice(edit.text.as_bytes());
        end = edit.range.end;
    }
    edited.extend_from_slice(&text[end..]);
    Some(edited)
}
