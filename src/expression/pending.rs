//! Questions on their way: what is still open of them, as answers come and processes end.

use super::evaluate::STAGE_EXPRESSION;
use super::protocol::Encoder;
use super::request::{
    EXPRESSION_KEYS, EvaluationResult, HandlerDecision, HandlerExpressions, HandlerMatch,
    InlineResults, KeySet, RawJobKeys,
};
use super::{EventContext, Expression, ExpressionSet, Items};

/// What is asked of one event, less what is answered.
pub(super) struct PendingRequest {
    dedupe: Option<Expression>,
    /// With their places among the answers.
    handlers: Vec<(usize, HandlerExpressions)>,
    known: KnownResults,
}

struct KnownResults {
    dedupe: Result<Option<String>, String>,
    handlers: Vec<Option<HandlerDecision>>,
    /// `…_by` that were taken away, by the taker's place.
    faults: Vec<(usize, String)>,
}

/// A handler's answer, its items received.
pub(super) enum ReceivedResult {
    Skip,
    Failed { which: u8, reason: String },
    Run { items: Option<Items>, keys: Option<Items>, faults: Vec<String> },
}

impl PendingRequest {
    /// What can be had in place is answered already.
    pub fn new(questions: &ExpressionSet, scene: &EventContext<'_>) -> Self {
        let InlineResults { dedupe, handlers: takers } = questions.evaluate_partly(scene);
        let open = takers.iter().zip(questions.handlers()).enumerate();
        let open = open.filter(|(_, (answer, _))| answer.is_none());
        Self {
            handlers: open.map(|(at, (_, taker))| (at, taker.clone())).collect(),
            known: KnownResults {
                dedupe: Ok(dedupe.clone().flatten()),
                handlers: takers,
                faults: Vec::new(),
            },
            dedupe: questions.dedupe().filter(|_| dedupe.is_none()).cloned(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.dedupe.is_none() && self.handlers.is_empty()
    }

    pub fn encode(&self, to: &mut Encoder) {
        let dedupe = self.dedupe.as_ref().map(Expression::text);
        to.questions(dedupe, self.handlers.iter().map(|(_, taker)| taker));
    }

    /// A process ended at this stage: the expression that it was at has failed.
    pub fn fail(&mut self, stage: u32, reason: &str) {
        let number = stage.checked_sub(STAGE_EXPRESSION).map(|number| number as usize);
        match number {
            Some(0) if self.dedupe.is_some() => {
                self.dedupe = None;
                self.known.dedupe = Err(reason.to_owned());
            }
            Some(number @ 1..) if (number - 1) / EXPRESSION_KEYS.len() < self.handlers.len() => {
                self.fail_expression(
                    (number - 1) / EXPRESSION_KEYS.len(),
                    (number - 1) % EXPRESSION_KEYS.len(),
                    reason,
                );
            }
            // Reading the body ended it: that would happen again.
            _ => self.fail_all(reason),
        }
    }

    fn fail_expression(&mut self, taker: usize, kind: usize, reason: &str) {
        let place = self.handlers[taker].0;
        if kind < 2 {
            let failed = HandlerDecision::Failed {
                expression: EXPRESSION_KEYS[kind],
                reason: reason.to_owned(),
            };
            self.known.handlers[place] = Some(failed);
            self.handlers.remove(taker);
        } else {
            self.handlers[taker].1.remove(kind);
            self.known.faults.push((place, format!("{}: {reason}", EXPRESSION_KEYS[kind])));
        }
    }

    /// Nothing more of it is asked.
    pub fn fail_all(&mut self, reason: &str) {
        if self.dedupe.take().is_some() {
            self.known.dedupe = Err(reason.to_owned());
        }
        while let Some((place, taker)) = self.handlers.last() {
            let (place, parts) = (*place, taker.parts());
            match parts.iter().position(Option::is_some) {
                Some(kind) => self.fail_expression(self.handlers.len() - 1, kind, reason),
                None => {
                    self.known.handlers[place] =
                        Some(HandlerDecision::Run(HandlerMatch::default()));
                    self.handlers.pop();
                }
            }
        }
    }

    /// `None`: it answers something else than what was asked.
    pub fn answer(
        &mut self,
        dedupe: Result<Option<String>, String>,
        takers: Vec<ReceivedResult>,
    ) -> Option<()> {
        if takers.len() != self.handlers.len() {
            return None;
        }
        if self.dedupe.take().is_some() {
            self.known.dedupe = dedupe;
        }
        for ((place, taker), received) in std::mem::take(&mut self.handlers).into_iter().zip(takers)
        {
            self.known.handlers[place] = Some(match received {
                ReceivedResult::Skip => HandlerDecision::Skip,
                ReceivedResult::Failed { which, reason } => HandlerDecision::Failed {
                    expression: EXPRESSION_KEYS.get(usize::from(which))?,
                    reason,
                },
                ReceivedResult::Run { items, keys, faults } => HandlerDecision::Run(HandlerMatch {
                    keys: match keys {
                        None => KeySet::None,
                        Some(keys) if taker.split.is_none() => KeySet::One(only(&keys)?),
                        Some(keys) => KeySet::Many(keys),
                    },
                    items,
                    key_errors: faults,
                }),
            });
        }
        Some(())
    }

    /// All answers; `None`: something is still open.
    pub fn finish(self) -> Option<EvaluationResult> {
        let KnownResults { dedupe, handlers: takers, faults } = self.known;
        let mut takers = takers.into_iter().collect::<Option<Vec<_>>>()?;
        for (place, fault) in faults {
            if let Some(HandlerDecision::Run(wanted)) = takers.get_mut(place) {
                wanted.key_errors.push(fault);
            }
        }
        Some(EvaluationResult { dedupe, handlers: takers })
    }
}

fn only(keys: &Items) -> Option<RawJobKeys> {
    let mut bytes = Vec::new();
    keys.get(0, &mut bytes).ok()?;
    RawJobKeys::decode(&bytes)
}
