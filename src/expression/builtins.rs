//! Functions in place of jaq's own, where those would trust what comes from outside.

use jaq_core::native::{Filter, Fun, bome, run, v};
use jaq_core::{Error, RunPtr};
use jaq_json::Val;

use super::compiler::JaqData;
use super::json;

/// `fromjson`: jaq's own reader has no limit of depth.
pub(super) fn all() -> impl Iterator<Item = Fun<JaqData>> {
    let from_json: Filter<RunPtr<JaqData>> = ("fromjson", v(0), |cv| bome(from_json(&cv.1)));
    [run::<JaqData>(from_json)].into_iter()
}

pub(super) fn replaces(name: &str) -> bool {
    name == "fromjson"
}

fn from_json(text: &Val) -> Result<Val, Error<Val>> {
    let Val::TStr(bytes) = text else { return Err(Error::typ(text.clone(), "string")) };
    json::read(bytes).map_err(|wrong| Error::str(format!("fromjson: {wrong}")))
}
