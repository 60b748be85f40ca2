//! The object of a form without its values, for code that looks for the fields at a path.

use jaq_json::Val;

use super::form::Form;
use super::{json, multipart};

/// The name of a form's field.
#[derive(Clone, Copy, Debug)]
pub struct FieldName<'a> {
    pub text: &'a str,
    /// Whether the field's value is a file of a multipart body.
    pub is_file: bool,
}

/// Returns the object of a form as JSON. The value of each field is the field's index in `names`, and a file has
/// this value three times. `None`: the form has too many fields.
pub fn number_form_fields(names: &[FieldName<'_>]) -> Option<Vec<u8>> {
    let mut form = Form::default();
    for (index, name) in (0_isize..).zip(names) {
        let index = Val::from(index);
        let value = match name.is_file {
            true => multipart::file_object(index.clone(), index.clone(), index),
            false => index,
        };
        form.add(name.text, value)?;
    }
    let mut object = Vec::new();
    json::write(&form.finish(), &mut object).ok()?;
    Some(object)
}
