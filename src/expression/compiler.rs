//! Compiles jq as jaq defines it, without the names that reach out of an expression, and with the
//! functions that jq 1.7 adds.
//!
//! The server compiles to find errors, the evaluator processes to evaluate. Both jaq's parser and
//! its compiler are recursive and need a large stack: [`with_large_stack`].

use jaq_core::compile::Undefined;
use jaq_core::data::JustLut;
use jaq_core::load::{self, Arena, File, Lexer, Loader, lex, parse};
use jaq_core::native::{Filter, Fun, bome, run, v};
use jaq_core::{Compiler, Error, RunPtr};
use jaq_json::Val;

use super::{CompileError, json};

/// Maximum length of the text of an expression.
const MAX_TEXT_BYTES: usize = 4 << 10;

/// Maximum length that [`super::Expression::first_in_list`] adds around a text.
const MAX_WRAPPER_BYTES: usize = 16;

/// Stack of a thread that compiles. A text of the maximum length can nest so deep that it takes 90
/// MiB in a debug build. This is address space: the system provides memory only for pages that are
/// used.
pub(super) const STACK_BYTES: usize = 256 << 20;

pub(super) type JaqData = JustLut<Val>;
pub(super) type JaqFilter = jaq_core::Filter<JaqData>;

/// The variables of every expression, in this order.
pub(super) const VARIABLES: [&str; 9] = [
    "$source",
    "$headers",
    "$query",
    "$path",
    "$params",
    "$ip",
    "$client",
    "$received_at",
    "$event",
];

/// Names that reach out of the expression, or read anything other than the event.
const FORBIDDEN_NAMES: [&str; 14] = [
    "$ENV",
    "debug",
    "env",
    "get_search_list",
    "halt",
    "halt_error",
    "import",
    "include",
    "input",
    "input_filename",
    "input_line_number",
    "inputs",
    "modulemeta",
    "stderr",
];

/// Definitions and natives that are left out. `prelude.jq` defines local time instead, and
/// [`from_json`] replaces `fromjson`.
const OMITTED_DEFINITIONS: [&str; 4] = ["debug", "halt", "halt_error", "stderr"];
const OMITTED_NATIVES: [&str; 7] =
    ["debug_empty", "env", "fromjson", "halt", "localtime", "stderr_empty", "strflocaltime"];

/// Runs `run` on a thread whose stack holds any nesting of 4 KiB of text.
///
/// # Errors
/// The system has no memory for the thread, or jaq panicked.
pub(super) fn with_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, String> {
    // The panic hook lets the server go on after a panic of a thread whose name begins with
    // `worker`: a panic in jaq is no reason for the server to end.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("worker-jq".into()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, run) {
            Ok(thread) => thread.join().map_err(|_| "jaq can't compile it".to_owned()),
            Err(e) => Err(format!("it can't be compiled now: {e}")),
        }
    })
}

/// Checks that the text is neither empty nor too long, which needs no parser.
pub(super) fn check_text(text: &str) -> Result<(), CompileError> {
    let error = |text: &str| Err(CompileError { line: 1, column: 1, text: text.to_owned() });
    if text.trim().is_empty() {
        return error("it is empty");
    }
    if text.len() > MAX_TEXT_BYTES {
        return error("it is longer than 4 KiB");
    }
    Ok(())
}

/// Compiles a text. The caller provides a large stack.
///
/// # Errors
/// The first error in the text.
pub(super) fn compile(text: &str) -> Result<JaqFilter, CompileError> {
    if text.len() > MAX_TEXT_BYTES + MAX_WRAPPER_BYTES {
        check_text(text)?;
    }
    reject_modules(text)?;
    let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let definitions =
        definitions.filter(|definition| !OMITTED_DEFINITIONS.contains(&definition.name)).chain(
            load::parse(include_str!("prelude.jq"), |parser| parser.defs()).into_iter().flatten(),
        );
    let arena = Arena::default();
    let modules =
        Loader::new(definitions).load(&arena, File { code: text, path: () }).map_err(|errors| {
            first_error(text, errors.into_iter().flat_map(|(_, error)| load_errors(error)))
        })?;
    Compiler::default().with_funs(functions()).with_global_vars(VARIABLES).compile(modules).map_err(
        |errors| {
            let all = errors.into_iter().flat_map(|(_, errors)| errors);
            first_error(text, all.map(|(name, message)| (name, undefined_message(name, &message))))
        },
    )
}

fn functions() -> impl Iterator<Item = Fun<JaqData>> {
    // jaq's own parser has no limit of depth.
    let parse: Filter<RunPtr<JaqData>> = ("fromjson", v(0), |cv| bome(from_json(&cv.1)));
    jaq_core::funs::<JaqData>()
        .chain(jaq_std::funs::<JaqData>())
        .chain(jaq_json::funs::<JaqData>())
        .filter(|definition| !OMITTED_NATIVES.contains(&definition.0))
        .chain([run::<JaqData>(parse)])
}

fn from_json(text: &Val) -> Result<Val, Error<Val>> {
    let Val::TStr(bytes) = text else { return Err(Error::typ(text.clone(), "string")) };
    json::read(bytes).map_err(|error| Error::str(format!("fromjson: {error}")))
}

/// Rejects `import` and `include`, which come before anything else, or after `module`.
fn reject_modules(text: &str) -> Result<(), CompileError> {
    let Ok(tokens) = Lexer::new(text).lex() else { return Ok(()) };
    let mut is_at_start = true;
    for token in &tokens {
        let word = token.as_str();
        if is_at_start && matches!(word, "import" | "include") {
            return Err(first_error(text, [(word, forbidden_message(word))]));
        }
        is_at_start = matches!(token.1, lex::Tok::Sym) && word == ";";
    }
    Ok(())
}

/// The error that comes first in the text.
fn first_error<'a>(
    text: &str,
    errors: impl IntoIterator<Item = (&'a str, String)>,
) -> CompileError {
    let with_offset = |(part, message): (&str, String)| {
        let start = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        (if start <= text.len() { start } else { 0 }, message)
    };
    let (offset, message) =
        errors.into_iter().map(with_offset).min_by_key(|error| error.0).unwrap_or_default();
    let before = text.get(..offset).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    CompileError {
        line: before.matches('\n').count() + 1,
        column: line.chars().count() + 1,
        text: message,
    }
}

fn load_errors(error: load::Error<&str>) -> Vec<(&str, String)> {
    match error {
        load::Error::Io(all) => {
            all.into_iter().map(|(part, _)| (part, forbidden_message("import"))).collect()
        }
        load::Error::Lex(all) => all.into_iter().map(lex_error).collect(),
        load::Error::Parse(all) => all.into_iter().map(parse_error).collect(),
    }
}

fn lex_error((expected, found): lex::Error<&str>) -> (&str, String) {
    (found, format!("expected {}, found {}", expected.as_str(), quote_start(found, 1)))
}

fn parse_error((expected, found): parse::Error<&str>) -> (&str, String) {
    let expected = match expected {
        parse::Expect::Just(word) => format!("`{word}`"),
        parse::Expect::Nothing => "an operator or the end".to_owned(),
        other => format!("a {}", other.as_str()),
    };
    (found, format!("expected {expected}, found {}", quote_start(found, 40)))
}

/// Quotes the beginning of the text at an error.
fn quote_start(found: &str, chars: usize) -> String {
    match found.char_indices().nth(chars) {
        _ if found.is_empty() => "the end".to_owned(),
        Some((end, _)) if chars > 1 => format!("`{}…`", &found[..end]),
        Some((end, _)) => format!("`{}`", &found[..end]),
        None => format!("`{found}`"),
    }
}

fn undefined_message(name: &str, message: &Undefined) -> String {
    match message {
        _ if FORBIDDEN_NAMES.contains(&name) => forbidden_message(name),
        Undefined::Filter(0) => format!("there is no `{name}`"),
        Undefined::Filter(arity) => format!("there is no `{name}` with {arity} arguments"),
        Undefined::Var => format!("there is no `{name}`: {}", VARIABLES.join(", ")),
        message => format!("there is no {} `{name}`", message.as_str()),
    }
}

fn forbidden_message(name: &str) -> String {
    format!("`{name}` is not allowed here")
}
