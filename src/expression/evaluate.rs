//! Evaluates what is asked of an event, by jaq. Called in a process that may not end well: see
//! `servant`. Nothing here bounds time or memory; output is bounded while it is made.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use jaq_core::{Ctx, ValT, Vars};
use jaq_json::{Num, Val};

use super::compiler::{self, JaqData, JaqFilter, VARIABLES};
use super::output::{
    BoundedWriter, HandlerOutput, HandlerResult, ITEMS_MAX, KeyErrors, OUTPUT_BYTES_MAX,
    PackedStrings,
};
use super::protocol::{EvaluatorRequest, EvaluatorResponse, RequestedExpressions};
use super::request::{EXPRESSION_KEYS, RawJobKeys};
use super::{EventContext, input, json, output};

/// So many expressions are kept compiled; then it begins anew.
const KEPT_MAX: usize = 512;

/// Where an evaluation is: this, then the number of an expression in what is asked.
pub(super) const STAGE_EXPRESSION: u32 = 2;
pub(super) const STAGE_INPUT: u32 = 1;

/// Keeps what it has compiled.
#[derive(Default)]
pub(super) struct Evaluator {
    cache: HashMap<String, Rc<CompiledExpression>>,
}

struct CompiledExpression {
    filter: JaqFilter,
    /// Which variables it names.
    uses: [bool; VARIABLES.len()],
}

/// An event, of which only what is used is made.
struct EvaluationState<'a> {
    scene: &'a EventContext<'a>,
    input: OnceCell<Val>,
    variables: [OnceCell<Val>; VARIABLES.len()],
    /// Hears where the evaluation is.
    stage: &'a dyn Fn(u32),
    /// The expression that it is at.
    at: Cell<u32>,
    /// Bytes that may still be put out.
    left: usize,
}

impl Evaluator {
    pub fn answer(
        &mut self,
        asked: &EvaluatorRequest,
        scene: &EventContext<'_>,
        stage: &dyn Fn(u32),
    ) -> EvaluatorResponse {
        let mut event = EvaluationState {
            scene,
            input: OnceCell::new(),
            variables: Default::default(),
            stage,
            at: Cell::new(0),
            left: OUTPUT_BYTES_MAX,
        };
        match asked {
            EvaluatorRequest::Outputs { text, max } => {
                EvaluatorResponse::Outputs(self.outputs(text, *max, &mut event))
            }
            EvaluatorRequest::Expressions(asked) => self.questions(asked, &mut event),
        }
    }

    fn questions(
        &mut self,
        asked: &RequestedExpressions,
        event: &mut EvaluationState<'_>,
    ) -> EvaluatorResponse {
        let dedupe = match &asked.dedupe {
            None => Ok(None),
            Some(text) => event.run_guarded(
                0,
                || self.compiled(text),
                |event, compiled| {
                    output::key_text(&event.first(compiled, event.input())?.unwrap_or_default())
                },
            ),
        };
        let mut number = 1;
        let mut takers = Vec::with_capacity(asked.handlers.len());
        for taker in &asked.handlers {
            takers.push(self.taker(taker, number, event));
            number += EXPRESSION_KEYS.len() as u32;
        }
        EvaluatorResponse::Expressions { dedupe, handlers: takers }
    }

    fn taker(
        &mut self,
        taker: &[Option<String>; 6],
        number: u32,
        event: &mut EvaluationState<'_>,
    ) -> HandlerResult {
        let [when, split, keys @ ..] = taker;
        if let Some(when) = when {
            let wanted =
                event.run_guarded(number, || self.compiled(when), |event, when| event.when(when));
            match wanted {
                Ok(true) => {}
                Ok(false) => return HandlerResult::Skip,
                Err(reason) => return HandlerResult::Failed { which: 0, reason },
            }
        }
        let mut by =
            KeyExpressions { number: number + 2, all: Vec::new(), faults: KeyErrors::default() };
        for (kind, text) in keys.iter().enumerate() {
            let Some(text) = text else { continue };
            match self.compiled(text) {
                Ok(compiled) => by.all.push((kind, compiled)),
                Err(reason) => by.faults.note(kind, None, reason),
            }
        }
        let has_keys = keys.iter().any(Option::is_some);
        let mut made = HandlerOutput {
            items: None,
            keys: has_keys.then(PackedStrings::default),
            faults: Vec::new(),
        };
        let done = match split {
            None => event.keys(&mut by, None, made.keys.as_mut()),
            Some(split) => {
                let split = self.compiled(split);
                let items = PackedStrings::default();
                event.split(split, number + 1, &mut by, items, made.keys.as_mut()).map(|items| {
                    made.items = Some(items);
                })
            }
        };
        made.faults = by.faults.lines();
        match done {
            Ok(()) => HandlerResult::Run(made),
            Err(reason) => HandlerResult::Failed { which: 1, reason },
        }
    }

    fn outputs(
        &mut self,
        text: &str,
        max: u32,
        event: &mut EvaluationState<'_>,
    ) -> Result<PackedStrings, String> {
        event.run_guarded(
            0,
            || self.compiled(text),
            |event, compiled| {
                let mut packed = PackedStrings::default();
                for output in event.run(compiled, event.input()).take(max as usize) {
                    event.pack(&output?, &mut packed)?;
                }
                Ok(packed)
            },
        )
    }

    fn compiled(&mut self, text: &str) -> Result<Rc<CompiledExpression>, String> {
        if let Some(compiled) = self.cache.get(text) {
            return Ok(Rc::clone(compiled));
        }
        if self.cache.len() >= KEPT_MAX {
            self.cache.clear();
        }
        let filter = compiler::compile(text).map_err(|wrong| wrong.text)?;
        let uses = VARIABLES.map(|name| text.contains(name));
        let compiled = Rc::new(CompiledExpression { filter, uses });
        self.cache.insert(text.to_owned(), Rc::clone(&compiled));
        Ok(compiled)
    }
}

/// The `…_by` of a handler that compile.
struct KeyExpressions {
    /// Of the first of them in what is asked.
    number: u32,
    all: Vec<(usize, Rc<CompiledExpression>)>,
    faults: KeyErrors,
}

impl EvaluationState<'_> {
    /// Evaluates expression `number`, whatever jaq does.
    fn run_guarded<T>(
        &mut self,
        number: u32,
        compile: impl FnOnce() -> Result<Rc<CompiledExpression>, String>,
        evaluate: impl FnOnce(&mut Self, &CompiledExpression) -> Result<T, String>,
    ) -> Result<T, String> {
        self.enter_stage(number);
        let done = catch_unwind(AssertUnwindSafe(|| evaluate(self, &*compile()?)));
        done.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(output::reason(&format!("jaq gave up: {}", text.unwrap_or("no reason given"))))
        })
    }

    fn enter_stage(&self, number: u32) {
        self.at.set(number);
        (self.stage)(STAGE_EXPRESSION + number);
    }

    fn run<'c>(
        &self,
        compiled: &'c CompiledExpression,
        input: Val,
    ) -> impl Iterator<Item = Result<Val, String>> + 'c {
        let variables = compiled.uses.iter().enumerate();
        let variables =
            variables.map(|(at, uses)| if *uses { self.variable(at) } else { Val::Null });
        let context = Ctx::<JaqData>::new(&compiled.filter.lut, Vars::new(variables));
        let outputs = compiled.filter.id.run((context, input));
        outputs.map(|output| output.map_err(output::fault))
    }

    fn first(&self, compiled: &CompiledExpression, input: Val) -> Result<Option<Val>, String> {
        self.run(compiled, input).next().transpose()
    }

    /// Any output that is neither false nor null.
    fn when(&self, compiled: &CompiledExpression) -> Result<bool, String> {
        for output in self.run(compiled, self.input()) {
            if output?.as_bool() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn split(
        &mut self,
        split: Result<Rc<CompiledExpression>, String>,
        number: u32,
        by: &mut KeyExpressions,
        mut items: PackedStrings,
        mut keys: Option<&mut PackedStrings>,
    ) -> Result<PackedStrings, String> {
        self.run_guarded(
            number,
            || split,
            |event, compiled| {
                for output in event.run(compiled, event.input()) {
                    let item = output?;
                    if items.len() >= ITEMS_MAX {
                        return Err("more than 100,000 items".to_owned());
                    }
                    event.pack(&item, &mut items)?;
                    event.keys(by, Some((&item, items.len())), keys.as_deref_mut())?;
                    event.enter_stage(number);
                }
                Ok(items)
            },
        )
    }

    /// The keys of an item with its number, or of the event.
    fn keys(
        &mut self,
        by: &mut KeyExpressions,
        item: Option<(&Val, usize)>,
        to: Option<&mut PackedStrings>,
    ) -> Result<(), String> {
        let Some(to) = to else { return Ok(()) };
        let mut keys = RawJobKeys::default();
        for (kind, compiled) in &by.all {
            let first = by.number + u32::try_from(*kind).unwrap_or(0);
            let value = self.run_guarded(
                first,
                || Ok(Rc::clone(compiled)),
                |event, compiled| {
                    event.first(
                        compiled,
                        item.map_or_else(|| event.input(), |(item, _)| item.clone()),
                    )
                },
            );
            if let Err(reason) = value.and_then(|value| set(&mut keys, *kind, value.as_ref())) {
                by.faults.note(*kind, item.map(|(_, number)| number), reason);
            }
        }
        keys.encode(&mut to.bytes);
        let size = to.end();
        self.left = self.left.checked_sub(size).ok_or_else(output::too_much)?;
        Ok(())
    }

    fn pack(&mut self, value: &Val, to: &mut PackedStrings) -> Result<(), String> {
        let mut bounded = BoundedWriter { to: &mut to.bytes, left: &mut self.left };
        json::write(value, &mut bounded).map_err(|e| e.to_string())?;
        to.end();
        Ok(())
    }

    fn input(&self) -> Val {
        let read = || {
            (self.stage)(STAGE_INPUT);
            let input = input::body(self.scene);
            self.enter_stage(self.at.get());
            input
        };
        self.input.get_or_init(read).clone()
    }

    fn variable(&self, at: usize) -> Val {
        let scene = self.scene;
        let text = |text: &str| Val::from(text.to_owned());
        let make = || match VARIABLES[at] {
            "$source" => text(scene.source),
            "$headers" => input::headers(scene),
            "$query" => input::query(scene),
            "$path" => text(scene.path),
            "$params" => input::params(scene),
            "$ip" if scene.ip.is_empty() => Val::Null,
            "$ip" => text(scene.ip),
            "$received_at" => Val::from(input::received_at(scene)),
            "$event" => scene.event_id.map_or(Val::Null, |id| Val::Num(Num::from_integral(id))),
            _ => Val::Null,
        };
        self.variables[at].get_or_init(make).clone()
    }
}

/// `kind`: of the `…_by`.
fn set(keys: &mut RawJobKeys, kind: usize, value: Option<&Val>) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    match kind {
        0 => keys.ordering_key = output::key_text(value)?,
        1 => keys.version = output::version_value(value)?,
        2 => keys.unique_key = output::key_text(value)?,
        _ => keys.debounce_key = output::key_text(value)?,
    }
    Ok(())
}
