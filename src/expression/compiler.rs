//! The language: jq as jaq has it, less what would reach out of an expression, more what jq 1.7 has.
//!
//! Compiled in the server for the faults alone, and in the processes that evaluate. Both jaq's parser
//! and what it makes are recursive, so that this needs a large stack: `on_a_large_stack`.

use jaq_core::compile::Undefined;
use jaq_core::data::JustLut;
use jaq_core::load::{self, Arena, File, Lexer, Loader, lex, parse};
use jaq_core::{Compiler, native};
use jaq_json::Val;

use super::{CompileError, builtins};

/// An expression's text may be so long.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Around an expression's text there may be so much: [`super::Expression::first_in_list`].
const AROUND_BYTES_MAX: usize = 16;

/// Text of that length nests so deep that it takes 90 MiB in a debug build. It is address space:
/// what is not touched is not there.
pub(super) const STACK_BYTES: usize = 256 << 20;

pub(super) type JaqData = JustLut<Val>;
pub(super) type JaqFilter = jaq_core::Filter<JaqData>;

/// Set for every expression, in this order.
pub(super) const VARIABLES: [&str; 8] =
    ["$source", "$headers", "$query", "$path", "$params", "$ip", "$received_at", "$event"];

/// What leaves the expression, or comes from elsewhere than the event.
const REFUSED: [&str; 14] = [
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

/// Definitions that go with natives that are left out. Local time is that of `prelude.jq`.
const DEFINITIONS_LEFT_OUT: [&str; 4] = ["debug", "halt", "halt_error", "stderr"];
const NATIVES_LEFT_OUT: [&str; 6] =
    ["debug_empty", "env", "halt", "localtime", "stderr_empty", "strflocaltime"];

/// Runs it on a thread whose stack holds whatever 4 KiB of text nest.
///
/// # Errors
/// There is no memory for it, or jaq gave up.
pub(super) fn with_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, String> {
    // Named as workers are: what jaq panics at is no reason for the server to end.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("worker-jq".into()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, run) {
            Ok(thread) => thread.join().map_err(|_| "jaq can't make sense of it".to_owned()),
            Err(e) => Err(format!("it can't be read now: {e}")),
        }
    })
}

/// What can be said before it is parsed.
pub(super) fn check_text(text: &str) -> Result<(), CompileError> {
    let wrong = |text: &str| Err(CompileError { line: 1, column: 1, text: text.to_owned() });
    if text.trim().is_empty() {
        return wrong("it is empty");
    }
    if text.len() > TEXT_BYTES_MAX {
        return wrong("it is longer than 4 KiB");
    }
    Ok(())
}

/// Needs a large stack.
///
/// # Errors
/// The first fault.
pub(super) fn compile(text: &str) -> Result<JaqFilter, CompileError> {
    if text.len() > TEXT_BYTES_MAX + AROUND_BYTES_MAX {
        check_text(text)?;
    }
    refuse_modules(text)?;
    let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let definitions = definitions.filter(|one| !DEFINITIONS_LEFT_OUT.contains(&one.name)).chain(
        load::parse(include_str!("prelude.jq"), |parser| parser.defs()).into_iter().flatten(),
    );
    let arena = Arena::default();
    let modules = Loader::new(definitions)
        .load(&arena, File { code: text, path: () })
        .map_err(|faults| first(text, faults.into_iter().flat_map(|(_, fault)| loading(fault))))?;
    Compiler::default().with_funs(functions()).with_global_vars(VARIABLES).compile(modules).map_err(
        |faults| {
            let all = faults.into_iter().flat_map(|(_, faults)| faults);
            first(text, all.map(|(name, what)| (name, undefined(name, &what))))
        },
    )
}

fn functions() -> impl Iterator<Item = native::Fun<JaqData>> {
    let json = jaq_json::funs::<JaqData>().filter(|one| !builtins::replaces(one.0));
    jaq_core::funs::<JaqData>()
        .chain(jaq_std::funs::<JaqData>())
        .filter(|one| !NATIVES_LEFT_OUT.contains(&one.0))
        .chain(json)
        .chain(builtins::all())
}

/// `import` and `include` stand before anything else, after `module` if that is there.
fn refuse_modules(text: &str) -> Result<(), CompileError> {
    let Ok(tokens) = Lexer::new(text).lex() else { return Ok(()) };
    let mut at_start = true;
    for token in &tokens {
        let word = token.as_str();
        if at_start && matches!(word, "import" | "include") {
            return Err(first(text, [(word, refusal(word))]));
        }
        at_start = matches!(token.1, lex::Tok::Sym) && word == ";";
    }
    Ok(())
}

/// The fault that stands first in the text.
fn first<'a>(text: &str, faults: impl IntoIterator<Item = (&'a str, String)>) -> CompileError {
    let placed = |(part, what): (&str, String)| {
        let start = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        (if start <= text.len() { start } else { 0 }, what)
    };
    let (at, what) = faults.into_iter().map(placed).min_by_key(|fault| fault.0).unwrap_or_default();
    let before = text.get(..at).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    CompileError {
        line: before.matches('\n').count() + 1,
        column: line.chars().count() + 1,
        text: what,
    }
}

fn loading(fault: load::Error<&str>) -> Vec<(&str, String)> {
    match fault {
        load::Error::Io(all) => all.into_iter().map(|(at, _)| (at, refusal("import"))).collect(),
        load::Error::Lex(all) => all.into_iter().map(lexing).collect(),
        load::Error::Parse(all) => all.into_iter().map(parsing).collect(),
    }
}

fn lexing((expected, found): lex::Error<&str>) -> (&str, String) {
    (found, format!("expected {}, found {}", expected.as_str(), shown(found, 1)))
}

fn parsing((expected, found): parse::Error<&str>) -> (&str, String) {
    let expected = match expected {
        parse::Expect::Just(word) => format!("`{word}`"),
        parse::Expect::Nothing => "an operator or the end".to_owned(),
        other => format!("a {}", other.as_str()),
    };
    (found, format!("expected {expected}, found {}", shown(found, 40)))
}

/// The beginning of what stands there.
fn shown(found: &str, chars: usize) -> String {
    match found.char_indices().nth(chars) {
        _ if found.is_empty() => "the end".to_owned(),
        Some((end, _)) if chars > 1 => format!("`{}…`", &found[..end]),
        Some((end, _)) => format!("`{}`", &found[..end]),
        None => format!("`{found}`"),
    }
}

fn undefined(name: &str, what: &Undefined) -> String {
    match what {
        _ if REFUSED.contains(&name) => refusal(name),
        Undefined::Filter(0) => format!("there is no `{name}`"),
        Undefined::Filter(arity) => format!("there is no `{name}` with {arity} arguments"),
        Undefined::Var => format!("there is no `{name}`: {}", VARIABLES.join(", ")),
        what => format!("there is no {} `{name}`", what.as_str()),
    }
}

fn refusal(name: &str) -> String {
    format!("`{name}` is not allowed here")
}
