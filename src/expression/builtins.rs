//! Builtins that replace jaq's own, where those trust input from outside.

use jaq_core::native::{Filter, Fun, bome, run, v};
use jaq_core::{Error, RunPtr};
use jaq_json::Val;

use super::compiler::JaqData;
use super::json;

/// `fromjson`: jaq's own parser has no limit of depth.
pub(super) fn functions() -> impl Iterator<Item = Fun<JaqData>> {
    let from_json: Filter<RunPtr<JaqData>> = ("fromjson", v(0), |cv| bome(from_json(&cv.1)));
    [run::<JaqData>(from_json)].into_iter()
}

pub(super) fn is_replaced(name: &str) -> bool {
    name == "fromjson"
}

fn from_json(text: &Val) -> Result<Val, Error<Val>> {
    let Val::TStr(bytes) = text else { return Err(Error::typ(text.clone(), "string")) };
    json::read(bytes).map_err(|error| Error::str(format!("fromjson: {error}")))
}
