//! Evaluates the expressions of an event by jaq, in a sandboxed process that may not end well (see
//! [`crate::process::SandboxedProcess`]). This module bounds neither time nor memory. It bounds
//! output while jaq produces it.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use jaq_core::{Ctx, ValT, Vars};
use jaq_json::{Num, Val};

use super::compiler::{self, JaqData, JaqFilter, VARIABLES};
use super::output::{BoundedWriter, KeyErrors, MAX_ITEMS, MAX_OUTPUT_BYTES};
use super::protocol::EvaluationRequest;
use super::request::{EvaluationResult, HandlerDecision, HandlerMatch, KeySet, RawJobKeys};
use super::{EXPRESSION_KEYS, EventContext, Items, input, json, output};

/// Maximum number of compiled expressions in the cache. A full cache is emptied.
const MAX_CACHED_FILTERS: usize = 512;

/// The stage of an evaluation: this plus the number of the expression in the request.
pub(super) const STAGE_EXPRESSION: u32 = 2;
pub(super) const STAGE_INPUT: u32 = 1;

/// Evaluates requests and caches compiled expressions.
#[derive(Default)]
pub(super) struct Evaluator {
    cache: HashMap<String, Rc<CompiledExpression>>,
}

struct CompiledExpression {
    filter: JaqFilter,
    /// Which of [`VARIABLES`] the text names.
    uses: [bool; VARIABLES.len()],
}

/// The state of one request. It builds the input and each variable when an expression first uses
/// it.
struct EvaluationState<'a> {
    event: &'a EventContext<'a>,
    input: OnceCell<Val>,
    variables: [OnceCell<Val>; VARIABLES.len()],
    /// Called with each stage of the evaluation.
    on_stage: &'a dyn Fn(u32),
    /// Number of the current expression.
    current: Cell<u32>,
    /// Bytes of output still allowed.
    bytes_left: usize,
    /// See [`EvaluationRequest`].
    max_items: Option<u32>,
}

impl Evaluator {
    pub fn evaluate(
        &mut self,
        request: &EvaluationRequest<'_>,
        event: &EventContext<'_>,
        stage: &dyn Fn(u32),
    ) -> EvaluationResult {
        let mut evaluation = EvaluationState {
            event,
            input: OnceCell::new(),
            variables: Default::default(),
            on_stage: stage,
            current: Cell::new(0),
            bytes_left: MAX_OUTPUT_BYTES,
            max_items: request.max_items,
        };
        let dedupe = match request.dedupe {
            None => Ok(None),
            Some(text) => evaluation.run_guarded(
                0,
                || self.compile(text),
                |evaluation, compiled| {
                    output::key_text(
                        &evaluation.first_output(compiled, evaluation.input())?.unwrap_or_default(),
                    )
                },
            ),
        };
        let numbers = (1..).step_by(EXPRESSION_KEYS.len());
        let handlers = request.handlers.iter().zip(numbers);
        let handlers = handlers
            .map(|(handler, number)| self.evaluate_handler(handler, number, &mut evaluation))
            .collect();
        EvaluationResult { dedupe, handlers }
    }

    fn evaluate_handler(
        &mut self,
        handler: &[Option<&str>; EXPRESSION_KEYS.len()],
        number: u32,
        evaluation: &mut EvaluationState<'_>,
    ) -> HandlerDecision {
        let [when, split, keys @ ..] = handler;
        if let Some(when) = when {
            let is_match = evaluation.run_guarded(
                number,
                || self.compile(when),
                |evaluation, when| evaluation.matches(when),
            );
            match is_match {
                Ok(true) => {}
                Ok(false) => return HandlerDecision::Skip,
                Err(reason) => return HandlerDecision::failed(0, reason),
            }
        }
        let mut key_expressions =
            KeyExpressions { number: number + 2, all: Vec::new(), errors: KeyErrors::default() };
        for (index, text) in keys.iter().enumerate() {
            let Some(text) = text else { continue };
            match self.compile(text) {
                Ok(compiled) => key_expressions.all.push((index, compiled)),
                Err(reason) => key_expressions.errors.record(index, None, reason),
            }
        }
        let mut handler_match = HandlerMatch::default();
        if let Some(split) = split {
            let split = self.compile(split);
            match evaluation.split_items(split, number + 1, &mut key_expressions) {
                Ok((items, keys)) => {
                    (handler_match.items, handler_match.keys) = (Some(items), keys);
                }
                Err(reason) => return HandlerDecision::failed(1, reason),
            }
        } else if !key_expressions.all.is_empty() {
            handler_match.keys = KeySet::One(evaluation.evaluate_keys(&mut key_expressions, None));
        }
        handler_match.key_errors = key_expressions.errors.to_lines();
        HandlerDecision::Run(handler_match)
    }

    fn compile(&mut self, text: &str) -> Result<Rc<CompiledExpression>, String> {
        if let Some(compiled) = self.cache.get(text) {
            return Ok(Rc::clone(compiled));
        }
        if self.cache.len() >= MAX_CACHED_FILTERS {
            self.cache.clear();
        }
        let filter = compiler::compile(text).map_err(|error| error.text)?;
        let uses = VARIABLES.map(|name| text.contains(name));
        let compiled = Rc::new(CompiledExpression { filter, uses });
        self.cache.insert(text.to_owned(), Rc::clone(&compiled));
        Ok(compiled)
    }
}

/// The expressions for keys of a handler that compile.
struct KeyExpressions {
    /// Number of the first key expression in the request.
    number: u32,
    all: Vec<(usize, Rc<CompiledExpression>)>,
    errors: KeyErrors,
}

impl EvaluationState<'_> {
    /// Evaluates expression `number` and turns a panic of jaq into an error.
    fn run_guarded<T>(
        &mut self,
        number: u32,
        compile: impl FnOnce() -> Result<Rc<CompiledExpression>, String>,
        evaluate: impl FnOnce(&mut Self, &CompiledExpression) -> Result<T, String>,
    ) -> Result<T, String> {
        self.enter_stage(number);
        let result = catch_unwind(AssertUnwindSafe(|| evaluate(self, &*compile()?)));
        result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(output::bounded_reason(&format!(
                "jaq panicked: {}",
                text.unwrap_or("no reason given")
            )))
        })
    }

    fn enter_stage(&self, number: u32) {
        self.current.set(number);
        (self.on_stage)(STAGE_EXPRESSION + number);
    }

    fn run<'c>(
        &self,
        compiled: &'c CompiledExpression,
        input: Val,
    ) -> impl Iterator<Item = Result<Val, String>> + 'c {
        let variables = compiled.uses.iter().enumerate();
        let variables =
            variables.map(|(index, uses)| if *uses { self.variable(index) } else { Val::Null });
        let context = Ctx::<JaqData>::new(&compiled.filter.lut, Vars::new(variables));
        let outputs = compiled.filter.id.run((context, input));
        outputs.map(|output| output.map_err(output::error_reason))
    }

    fn first_output(
        &self,
        compiled: &CompiledExpression,
        input: Val,
    ) -> Result<Option<Val>, String> {
        self.run(compiled, input).next().transpose()
    }

    /// Whether any output is neither false nor null.
    fn matches(&self, compiled: &CompiledExpression) -> Result<bool, String> {
        for output in self.run(compiled, self.input()) {
            if output?.as_bool() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn split_items(
        &mut self,
        split: Result<Rc<CompiledExpression>, String>,
        number: u32,
        key_expressions: &mut KeyExpressions,
    ) -> Result<(Items, KeySet), String> {
        let has_keys = !key_expressions.all.is_empty();
        let max_items = self.max_items.map_or(usize::MAX, |max| max as usize);
        let (mut items, mut all_keys) = (Items::default(), Items::default());
        self.run_guarded(
            number,
            || split,
            |evaluation, compiled| {
                for output in evaluation.run(compiled, evaluation.input()).take(max_items) {
                    let item = output?;
                    if items.len() >= MAX_ITEMS {
                        return Err("more than 100,000 items".to_owned());
                    }
                    evaluation.add_item(&item, &mut items)?;
                    if has_keys {
                        let item = Some((&item, items.len()));
                        let keys = evaluation.evaluate_keys(key_expressions, item);
                        let bytes_left =
                            evaluation.bytes_left.checked_sub(keys.add_to(&mut all_keys));
                        evaluation.bytes_left = bytes_left.ok_or_else(output::too_much_output)?;
                        evaluation.enter_stage(number);
                    }
                }
                Ok(())
            },
        )?;
        Ok((items, if has_keys { KeySet::Many(all_keys) } else { KeySet::None }))
    }

    /// Evaluates the keys of an item, given with its number, or of the event.
    fn evaluate_keys(
        &mut self,
        key_expressions: &mut KeyExpressions,
        item: Option<(&Val, usize)>,
    ) -> RawJobKeys {
        let mut keys = RawJobKeys::default();
        for (index, compiled) in &key_expressions.all {
            let number = key_expressions.number + u32::try_from(*index).unwrap_or(0);
            let value = self.run_guarded(
                number,
                || Ok(Rc::clone(compiled)),
                |evaluation, compiled| {
                    evaluation.first_output(
                        compiled,
                        item.map_or_else(|| evaluation.input(), |(item, _)| item.clone()),
                    )
                },
            );
            if let Err(reason) = value.and_then(|value| set_key(&mut keys, *index, value.as_ref()))
            {
                key_expressions.errors.record(*index, item.map(|(_, number)| number), reason);
            }
        }
        keys
    }

    fn add_item(&mut self, value: &Val, to: &mut Items) -> Result<(), String> {
        let mut bounded = BoundedWriter { to: &mut to.memory, bytes_left: &mut self.bytes_left };
        json::write(value, &mut bounded).map_err(|e| e.to_string())?;
        to.finish_item();
        Ok(())
    }

    fn input(&self) -> Val {
        let read = || {
            (self.on_stage)(STAGE_INPUT);
            let input = input::body(self.event);
            self.enter_stage(self.current.get());
            input
        };
        self.input.get_or_init(read).clone()
    }

    fn variable(&self, index: usize) -> Val {
        let event = self.event;
        let text = |text: &str| Val::from(text.to_owned());
        let make = || match VARIABLES[index] {
            "$source" => text(event.source),
            "$headers" => input::headers(event),
            "$query" => input::query(event),
            "$path" => text(event.path),
            "$params" => input::params(event),
            "$ip" if event.ip.is_empty() => Val::Null,
            "$ip" => text(event.ip),
            "$client" => event.client.map_or(Val::Null, text),
            "$received_at" => Val::from(input::received_at(event)),
            "$event" => event.event_id.map_or(Val::Null, |id| Val::Num(Num::from_integral(id))),
            _ => Val::Null,
        };
        self.variables[index].get_or_init(make).clone()
    }
}

/// Sets one key of a job. `index`: its place among the key expressions.
fn set_key(keys: &mut RawJobKeys, index: usize, value: Option<&Val>) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    match index {
        0 => keys.ordering_key = output::key_text(value)?,
        1 => keys.version = output::version_value(value)?,
        2 => keys.unique_key = output::key_text(value)?,
        _ => keys.debounce_key = output::key_text(value)?,
    }
    Ok(())
}
