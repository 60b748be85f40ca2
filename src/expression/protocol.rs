//! How the server and the processes that evaluate talk: both are this binary, so that nothing here
//! has to last. Numbers are little-endian, texts come behind their length.
//!
//! A question is its length, what is asked, the event. An answer is the length of its head, the head,
//! and for each handler with items or keys their lengths and then themselves.

use super::EventContext;
use super::output::{HandlerOutput, HandlerResult, PackedStrings};
use super::request::HandlerExpressions;

/// What is asked.
#[derive(Debug, PartialEq)]
pub(super) enum EvaluatorRequest {
    Expressions(RequestedExpressions),
    /// The first outputs.
    Outputs {
        text: String,
        max: u32,
    },
}

/// At intake; the parts of a taker in the order of `KINDS`.
#[derive(Debug, PartialEq)]
pub(super) struct RequestedExpressions {
    pub dedupe: Option<String>,
    pub handlers: Vec<[Option<String>; 6]>,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum EvaluatorResponse {
    Expressions { dedupe: Result<Option<String>, String>, handlers: Vec<HandlerResult> },
    Outputs(Result<PackedStrings, String>),
}

/// The head of an answer: what follows it is known by its sizes.
#[derive(Debug)]
pub(super) enum ResponseHead {
    Expressions { dedupe: Result<Option<String>, String>, handlers: Vec<HandlerHead> },
    Outputs(Result<PackedSizes, String>),
}

#[derive(Debug)]
pub(super) enum HandlerHead {
    Skip,
    Failed { which: u8, reason: String },
    Run { items: Option<PackedSizes>, keys: Option<PackedSizes>, faults: Vec<String> },
}

/// Of texts that follow: how many, and how long together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackedSizes {
    pub count: u32,
    pub bytes: u32,
}

/// Bytes in the making.
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

    fn text(&mut self, text: Option<&str>) {
        self.0.push(u8::from(text.is_some()));
        if let Some(text) = text {
            self.bytes(text.as_bytes());
        }
    }

    /// `dedupe` and takers.
    pub fn questions<'a>(
        &mut self,
        dedupe: Option<&str>,
        takers: impl ExactSizeIterator<Item = &'a HandlerExpressions>,
    ) {
        self.0.push(0);
        self.text(dedupe);
        self.number(u32::try_from(takers.len()).unwrap_or(0));
        for taker in takers {
            for part in taker.parts() {
                self.text(part.map(super::Expression::text));
            }
        }
    }

    pub fn outputs(&mut self, text: &str, max: u32) {
        self.0.push(1);
        self.bytes(text.as_bytes());
        self.number(max);
    }

    pub fn scene(&mut self, scene: &EventContext<'_>) {
        self.bytes(scene.body);
        self.text(scene.content_type);
        self.bytes(scene.source.as_bytes());
        self.number(u32::try_from(scene.headers.len()).unwrap_or(0));
        for (name, value) in scene.headers {
            self.bytes(name.as_bytes());
            self.bytes(value);
        }
        self.text(scene.query);
        self.bytes(scene.path.as_bytes());
        self.number(u32::try_from(scene.params.len()).unwrap_or(0));
        for (name, value) in scene.params {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
        self.bytes(scene.ip.as_bytes());
        self.0.extend_from_slice(&scene.received_at_ms.to_le_bytes());
        self.0.push(u8::from(scene.event_id.is_some()));
        self.0.extend_from_slice(&scene.event_id.unwrap_or(0).to_le_bytes());
    }

    fn reason(&mut self, what: &Result<Option<String>, String>) {
        self.0.push(u8::from(what.is_err()));
        match what {
            Ok(text) => self.text(text.as_deref()),
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

    fn head(&mut self, came: &EvaluatorResponse) {
        match came {
            EvaluatorResponse::Outputs(Ok(packed)) => {
                self.0.push(1);
                self.sizes(Some(packed));
            }
            EvaluatorResponse::Outputs(Err(reason)) => {
                self.0.push(2);
                self.bytes(reason.as_bytes());
            }
            EvaluatorResponse::Expressions { dedupe, handlers: takers } => {
                self.0.push(0);
                self.reason(dedupe);
                self.number(u32::try_from(takers.len()).unwrap_or(0));
                takers.iter().for_each(|verdict| self.verdict(verdict));
            }
        }
    }

    fn verdict(&mut self, verdict: &HandlerResult) {
        match verdict {
            HandlerResult::Skip => self.0.push(0),
            HandlerResult::Failed { which, reason } => {
                self.0.extend_from_slice(&[1, *which]);
                self.bytes(reason.as_bytes());
            }
            HandlerResult::Run(made) => {
                self.0.push(2);
                self.sizes(made.items.as_ref());
                self.sizes(made.keys.as_ref());
                self.number(u32::try_from(made.faults.len()).unwrap_or(0));
                made.faults.iter().for_each(|fault| self.bytes(fault.as_bytes()));
            }
        }
    }
}

/// Writes an answer.
pub(super) fn write_answer(
    came: &EvaluatorResponse,
    to: &mut impl std::io::Write,
) -> std::io::Result<()> {
    let mut head = Encoder::default();
    head.head(came);
    let mut all = Encoder::default();
    all.bytes(&head.0);
    let made = match came {
        EvaluatorResponse::Outputs(Ok(packed)) => vec![packed],
        EvaluatorResponse::Outputs(Err(_)) => Vec::new(),
        EvaluatorResponse::Expressions { handlers: takers, .. } => {
            takers.iter().flat_map(made).collect()
        }
    };
    for packed in made {
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

fn made(verdict: &HandlerResult) -> impl Iterator<Item = &PackedStrings> {
    let made = match verdict {
        HandlerResult::Run(HandlerOutput { items, keys, .. }) => [items.as_ref(), keys.as_ref()],
        HandlerResult::Skip | HandlerResult::Failed { .. } => [None, None],
    };
    made.into_iter().flatten()
}

/// Bytes that are read; `None` where they end too soon, or are not what they should be.
pub(super) struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    fn some(&mut self, count: usize) -> Option<&'a [u8]> {
        let (some, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(some)
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
        self.some(count as usize)
    }

    fn str(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn text(&mut self) -> Option<Option<&'a str>> {
        Some(match self.byte()? {
            0 => None,
            _ => Some(self.str()?),
        })
    }

    fn owned(&mut self) -> Option<String> {
        self.str().map(str::to_owned)
    }

    fn list<T>(&mut self, one: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        (0..self.number()?).map(|_| one(self)).collect()
    }

    pub fn request(&mut self) -> Option<EvaluatorRequest> {
        let text = |it: &mut Self| it.text().map(|text| text.map(str::to_owned));
        Some(match self.byte()? {
            0 => EvaluatorRequest::Expressions(RequestedExpressions {
                dedupe: text(self)?,
                handlers: self.list(|it| {
                    let mut taker: [Option<String>; 6] = Default::default();
                    for part in &mut taker {
                        *part = text(it)?;
                    }
                    Some(taker)
                })?,
            }),
            _ => EvaluatorRequest::Outputs { text: self.owned()?, max: self.number()? },
        })
    }

    /// An event; `run` gets it.
    pub fn scene<T>(&mut self, run: impl FnOnce(&EventContext<'_>) -> T) -> Option<T> {
        let (body, content_type, source) = (self.bytes()?, self.text()?, self.str()?);
        let headers = self.list(|it| Some((it.str()?, it.bytes()?)))?;
        let (query, path) = (self.text()?, self.str()?);
        let params = self.list(|it| Some((it.owned()?, it.owned()?)))?;
        let (ip, received_at_ms) = (self.str()?, i64::from_le_bytes(self.array()?));
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
            2 => ResponseHead::Outputs(Err(self.owned()?)),
            _ => ResponseHead::Expressions {
                dedupe: match self.byte()? {
                    0 => Ok(self.text()?.map(str::to_owned)),
                    _ => Err(self.owned()?),
                },
                handlers: self.list(|it| {
                    Some(match it.byte()? {
                        0 => HandlerHead::Skip,
                        1 => HandlerHead::Failed { which: it.byte()?, reason: it.owned()? },
                        _ => HandlerHead::Run {
                            items: it.sizes()?,
                            keys: it.sizes()?,
                            faults: it.list(Self::owned)?,
                        },
                    })
                })?,
            },
        })
    }
}
