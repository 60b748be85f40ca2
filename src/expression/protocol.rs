//! The codec between the server and its evaluator processes. Both are the same binary, so the
//! format may change with any version. Numbers are little-endian; a text follows its length.
//!
//! A request is its length, the expressions, and the event. A response is the length of its head,
//! the head, and for each handler with items or keys their lengths and then their texts.

use super::EventContext;
use super::output::{HandlerOutput, HandlerResult, PackedStrings};
use super::request::HandlerExpressions;

/// The message that the server sends to an evaluator.
#[derive(Debug, PartialEq)]
pub(super) enum EvaluatorRequest {
    Expressions(RequestedExpressions),
    /// The first outputs of one expression, at most `max`.
    Outputs {
        text: String,
        max: u32,
    },
}

/// The expressions of one event. Those of a handler are in the order of
/// [`super::EXPRESSION_KEYS`].
#[derive(Debug, PartialEq)]
pub(super) struct RequestedExpressions {
    pub dedupe: Option<String>,
    pub handlers: Vec<[Option<String>; 6]>,
}

/// The message that an evaluator sends back.
#[derive(Debug)]
pub(super) enum EvaluatorResponse {
    Expressions { dedupe: Result<Option<String>, String>, handlers: Vec<HandlerResult> },
    Outputs(Result<PackedStrings, String>),
}

/// The head of a response. It gives the sizes of what follows it.
#[derive(Debug)]
pub(super) enum ResponseHead {
    Expressions { dedupe: Result<Option<String>, String>, handlers: Vec<HandlerHead> },
    Outputs(Result<PackedSizes, String>),
}

#[derive(Debug)]
pub(super) enum HandlerHead {
    Skip,
    Failed { key_index: u8, reason: String },
    Run { items: Option<PackedSizes>, keys: Option<PackedSizes>, key_errors: Vec<String> },
}

/// The number of the texts that follow, and their length together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackedSizes {
    pub count: u32,
    pub bytes: u32,
}

/// Encodes requests and responses.
#[derive(Default)]
pub(super) struct Encoder(pub Vec<u8>);

impl Encoder {
    fn number(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
    }

    fn optional_text(&mut self, text: Option<&str>) {
        self.0.push(u8::from(text.is_some()));
        if let Some(text) = text {
            self.bytes(text.as_bytes());
        }
    }

    /// Encodes `dedupe` and the expressions of handlers.
    pub fn expressions<'a>(
        &mut self,
        dedupe: Option<&str>,
        handlers: impl ExactSizeIterator<Item = &'a HandlerExpressions>,
    ) {
        self.0.push(0);
        self.optional_text(dedupe);
        self.number(u32::try_from(handlers.len()).unwrap_or(0));
        for handler in handlers {
            for expression in handler.parts() {
                self.optional_text(expression.map(super::Expression::text));
            }
        }
    }

    pub fn outputs(&mut self, text: &str, max: u32) {
        self.0.push(1);
        self.bytes(text.as_bytes());
        self.number(max);
    }

    pub fn event(&mut self, event: &EventContext<'_>) {
        self.bytes(event.body);
        self.optional_text(event.content_type);
        self.bytes(event.source.as_bytes());
        self.number(u32::try_from(event.headers.len()).unwrap_or(0));
        for (name, value) in event.headers {
            self.bytes(name.as_bytes());
            self.bytes(value);
        }
        self.optional_text(event.query);
        self.bytes(event.path.as_bytes());
        self.number(u32::try_from(event.params.len()).unwrap_or(0));
        for (name, value) in event.params {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
        self.bytes(event.ip.as_bytes());
        self.0.extend_from_slice(&event.received_at_ms.to_le_bytes());
        self.0.push(u8::from(event.event_id.is_some()));
        self.0.extend_from_slice(&event.event_id.unwrap_or(0).to_le_bytes());
    }

    fn text_or_error(&mut self, result: &Result<Option<String>, String>) {
        self.0.push(u8::from(result.is_err()));
        match result {
            Ok(text) => self.optional_text(text.as_deref()),
            Err(reason) => self.bytes(reason.as_bytes()),
        }
    }

    fn sizes(&mut self, packed: Option<&PackedStrings>) {
        self.0.push(u8::from(packed.is_some()));
        if let Some(packed) = packed {
            self.number(u32::try_from(packed.len()).unwrap_or(0));
            self.number(u32::try_from(packed.bytes.len()).unwrap_or(0));
        }
    }

    fn head(&mut self, response: &EvaluatorResponse) {
        match response {
            EvaluatorResponse::Outputs(Ok(packed)) => {
                self.0.push(1);
                self.sizes(Some(packed));
            }
            EvaluatorResponse::Outputs(Err(reason)) => {
                self.0.push(2);
                self.bytes(reason.as_bytes());
            }
            EvaluatorResponse::Expressions { dedupe, handlers } => {
                self.0.push(0);
                self.text_or_error(dedupe);
                self.number(u32::try_from(handlers.len()).unwrap_or(0));
                handlers.iter().for_each(|result| self.handler_result(result));
            }
        }
    }

    fn handler_result(&mut self, result: &HandlerResult) {
        match result {
            HandlerResult::Skip => self.0.push(0),
            HandlerResult::Failed { key_index, reason } => {
                self.0.extend_from_slice(&[1, *key_index]);
                self.bytes(reason.as_bytes());
            }
            HandlerResult::Run(output) => {
                self.0.push(2);
                self.sizes(output.items.as_ref());
                self.sizes(output.keys.as_ref());
                self.number(u32::try_from(output.key_errors.len()).unwrap_or(0));
                output.key_errors.iter().for_each(|error| self.bytes(error.as_bytes()));
            }
        }
    }
}

/// Writes a response: its head, then the packed items, each with its length.
pub(super) fn write_response(
    response: &EvaluatorResponse,
    to: &mut impl std::io::Write,
) -> std::io::Result<()> {
    let mut head = Encoder::default();
    head.head(response);
    let mut all = Encoder::default();
    all.bytes(&head.0);
    let packed_lists = match response {
        EvaluatorResponse::Outputs(Ok(packed)) => vec![packed],
        EvaluatorResponse::Outputs(Err(_)) => Vec::new(),
        EvaluatorResponse::Expressions { handlers, .. } => {
            handlers.iter().flat_map(packed_lists).collect()
        }
    };
    for packed in packed_lists {
        let mut start = 0;
        for end in &packed.ends {
            all.number(end - start);
            start = *end;
        }
        to.write_all(&all.0)?;
        all.0.clear();
        to.write_all(&packed.bytes)?;
    }
    to.write_all(&all.0)
}

fn packed_lists(result: &HandlerResult) -> impl Iterator<Item = &PackedStrings> {
    let packed_lists = match result {
        HandlerResult::Run(HandlerOutput { items, keys, .. }) => [items.as_ref(), keys.as_ref()],
        HandlerResult::Skip | HandlerResult::Failed { .. } => [None, None],
    };
    packed_lists.into_iter().flatten()
}

/// Decodes requests and responses. Each method returns `None` if the bytes end too soon or are
/// invalid.
pub(super) struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    fn split_off(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.number()?;
        self.split_off(count as usize)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn optional_text(&mut self) -> Option<Option<&'a str>> {
        Some(match self.byte()? {
            0 => None,
            _ => Some(self.text()?),
        })
    }

    fn owned_text(&mut self) -> Option<String> {
        self.text().map(str::to_owned)
    }

    fn list<T>(&mut self, decode_item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        (0..self.number()?).map(|_| decode_item(self)).collect()
    }

    pub fn request(&mut self) -> Option<EvaluatorRequest> {
        let text = |decoder: &mut Self| decoder.optional_text().map(|text| text.map(str::to_owned));
        Some(match self.byte()? {
            0 => EvaluatorRequest::Expressions(RequestedExpressions {
                dedupe: text(self)?,
                handlers: self.list(|decoder| {
                    let mut handler: [Option<String>; 6] = Default::default();
                    for expression in &mut handler {
                        *expression = text(decoder)?;
                    }
                    Some(handler)
                })?,
            }),
            _ => EvaluatorRequest::Outputs { text: self.owned_text()?, max: self.number()? },
        })
    }

    /// Decodes an event and passes it to `run`.
    pub fn event<T>(&mut self, run: impl FnOnce(&EventContext<'_>) -> T) -> Option<T> {
        let (body, content_type, source) = (self.bytes()?, self.optional_text()?, self.text()?);
        let headers = self.list(|decoder| Some((decoder.text()?, decoder.bytes()?)))?;
        let (query, path) = (self.optional_text()?, self.text()?);
        let params = self.list(|decoder| Some((decoder.owned_text()?, decoder.owned_text()?)))?;
        let (ip, received_at_ms) = (self.text()?, i64::from_le_bytes(self.array()?));
        let (has_event, event) = (self.byte()?, i64::from_le_bytes(self.array()?));
        Some(run(&EventContext {
            body,
            content_type,
            source,
            headers: &headers,
            query,
            path,
            params: &params,
            ip,
            received_at_ms,
            event_id: (has_event != 0).then_some(event),
        }))
    }

    fn sizes(&mut self) -> Option<Option<PackedSizes>> {
        Some(match self.byte()? {
            0 => None,
            _ => Some(PackedSizes { count: self.number()?, bytes: self.number()? }),
        })
    }

    pub fn head(&mut self) -> Option<ResponseHead> {
        Some(match self.byte()? {
            1 => ResponseHead::Outputs(Ok(self.sizes()??)),
            2 => ResponseHead::Outputs(Err(self.owned_text()?)),
            _ => ResponseHead::Expressions {
                dedupe: match self.byte()? {
                    0 => Ok(self.optional_text()?.map(str::to_owned)),
                    _ => Err(self.owned_text()?),
                },
                handlers: self.list(|decoder| {
                    Some(match decoder.byte()? {
                        0 => HandlerHead::Skip,
                        1 => HandlerHead::Failed {
                            key_index: decoder.byte()?,
                            reason: decoder.owned_text()?,
                        },
                        _ => HandlerHead::Run {
                            items: decoder.sizes()?,
                            keys: decoder.sizes()?,
                            key_errors: decoder.list(Self::owned_text)?,
                        },
                    })
                })?,
            },
        })
    }
}
