//! Finds the fields of forms and of `multipart/form-data` to which paths lead. The object of a form is that of
//! expressions, with the number of each field in the place of its value.

use super::json::RedactPathTree;
use super::{Edit, REDACTED, REDACTED_FORM};
use crate::expression::{FieldName, number_form_fields};
use crate::{multipart, urlencoded};

/// Returns the edits of an urlencoded form.
pub(super) fn edit_form(tree: &RedactPathTree, text: &[u8]) -> Result<Vec<Edit>, String> {
    let fields: Vec<_> = urlencoded::locate_fields(text).collect();
    let texts: Vec<_> = fields.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    let names: Vec<FieldName<'_>> =
        texts.iter().map(|text| FieldName { text, is_file: false }).collect();
    let mut edits = Vec::new();
    for ((_, range), is_redacted) in fields.iter().zip(find_fields(tree, &names)?) {
        if is_redacted {
            // A field without a value may have no equals sign.
            let has_equals_sign = text[..range.start].ends_with(b"=");
            let equals_sign = if has_equals_sign { "" } else { "=" };
            let text = format!("{equals_sign}{REDACTED_FORM}");
            edits.push(Edit { range: range.clone(), text });
        }
    }
    Ok(edits)
}

/// Returns the edits of a multipart body. A redacted file becomes a field of the same name.
pub(super) fn edit_multipart(
    tree: &RedactPathTree,
    content_type: &str,
    body: &[u8],
) -> Result<Vec<Edit>, String> {
    let parts = multipart::locate_parts(content_type, body)
        .ok_or("body is not multipart/form-data: malformed or incomplete")?;
    // A part without a name is not a field.
    let fields: Vec<_> =
        parts.iter().filter_map(|part| Some((part, part.name.as_deref()?))).collect();
    let names: Vec<FieldName<'_>> =
        fields.iter().map(|(part, name)| FieldName { text: name, is_file: part.is_file }).collect();
    let mut edits = Vec::new();
    for ((part, name), is_redacted) in fields.iter().zip(find_fields(tree, &names)?) {
        if is_redacted && part.is_file {
            // The head has the file name.
            if name.contains(['"', '\\']) {
                return Err(
                    "body has a file to redact whose field name has a quote or a backslash"
                        .to_owned(),
                );
            }
            let text = format!("Content-Disposition: form-data; name=\"{name}\"");
            edits.push(Edit { range: part.head.clone(), text });
        }
        if is_redacted {
            edits.push(Edit { range: part.content.clone(), text: REDACTED.to_owned() });
        }
    }
    Ok(edits)
}

/// Returns whether a path leads to each field, into it, or to an object around it.
///
/// Another field may replace a field in the object, as `a=1&a[b]=2` has no `a` but `{"b":"2"}`. Its bytes are
/// in the body nevertheless, so it is redacted as if it were alone.
fn find_fields(tree: &RedactPathTree, names: &[FieldName<'_>]) -> Result<Vec<bool>, String> {
    let object = number_form_fields(names).ok_or("body is a form with too many fields")?;
    let mut is_redacted = vec![false; names.len()];
    for range in tree.find(&object) {
        mark_fields(&object[range], &mut is_redacted);
    }
    let mut is_visible = vec![false; names.len()];
    mark_fields(&object, &mut is_visible);
    for at in (0..names.len()).filter(|at| !is_visible[*at]) {
        let alone = number_form_fields(&names[at..=at]).unwrap_or_default();
        if alone == b"{}" {
            return Err("body is a form with a field nested deeper than 64".to_owned());
        }
        is_redacted[at] = !tree.find(&alone).is_empty();
    }
    Ok(is_redacted)
}

/// Marks the fields whose numbers are in a JSON text, outside of its strings.
fn mark_fields(json: &[u8], marks: &mut [bool]) {
    let mut values = vec![serde_json::from_slice(json).unwrap_or_default()];
    while let Some(value) = values.pop() {
        match value {
            serde_json::Value::Array(all) => values.extend(all),
            serde_json::Value::Object(all) => {
                values.extend(all.into_iter().map(|(_, value)| value))
            }
            value => {
                let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
                if let Some(mark) = number.and_then(|number| marks.get_mut(number)) {
                    *mark = true;
                }
            }
        }
    }
}
