//! Shell completion. The script of `hooktrail completions` calls this program with the words of the command
//! line, and gets candidates: commands, options, and the names in config.toml. It never opens the database.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};

use super::{Cli, ExitError, help, output};
use crate::config::{self, Config};
use crate::domain::job::PublicState;
use crate::process;

/// The environment variable by which a script asks for candidates. Its value is the name of the shell.
const VARIABLE: &str = "HOOKTRAIL_COMPLETE";

/// zsh calls a file of its `fpath` as a function at the first completion, which needs candidates too.
const ZSH_FIRST_CALL: &[u8] =
    b"\n[[ $funcstack[1] != _hooktrail ]] || _clap_dynamic_completer_hooktrail \"$@\"\n";

/// Prints the script that makes a shell ask this program for candidates.
pub fn print_script(shell: Shell) -> Result<(), ExitError> {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    if let Some(completer) = shells.completer(&shell.to_string()) {
        completer.write_registration(
            VARIABLE,
            "hooktrail",
            "hooktrail",
            &program(),
            &mut script,
        )?;
    }
    if shell == Shell::Zsh {
        script.extend_from_slice(ZSH_FIRST_CALL);
    }
    Ok(output::raw_stdout().write_all(&script)?)
}

/// How the script calls this program: by its name if it was found in PATH, else by its absolute path.
fn program() -> String {
    let name = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let has_folder = name.components().count() > 1;
    let path = if has_folder { std::path::absolute(&name).unwrap_or(name) } else { name };
    path.to_string_lossy().into_owned()
}

/// Prints candidates if a shell asks for them. An error prints nothing: it would disturb the prompt.
pub fn complete() -> Option<ExitCode> {
    std::env::var_os(VARIABLE).filter(|shell| !shell.is_empty())?;
    // The environment may hold secrets, as in `run`.
    let _ = process::forbid_inspection();
    let words: Vec<OsString> = std::env::args_os().collect();
    let folder = std::env::current_dir().ok();
    let config = config_file(&words);
    let factory = || with_candidates(Cli::command(), config.as_deref());
    match CompleteEnv::with_factory(factory).var(VARIABLE).try_complete(words, folder.as_deref()) {
        Ok(true) => Some(ExitCode::SUCCESS),
        Ok(false) => None,
        Err(_) => Some(ExitCode::FAILURE),
    }
}

/// The configuration file of the command line that is completed.
fn config_file(words: &[OsString]) -> Option<PathBuf> {
    let at = words.iter().position(|word| word == "--config");
    let flag = at.and_then(|at| words.get(at + 1)).map(PathBuf::from);
    let flag = flag.or_else(|| {
        let values = words.iter().filter_map(|word| word.to_str()?.strip_prefix("--config="));
        values.map(PathBuf::from).next()
    });
    let flag = flag.or_else(|| std::env::var_os("HOOKTRAIL_CONFIG").map(PathBuf::from));
    config::find(flag).ok()
}

/// Adds candidates to each argument of each command that names a handler, a source, a state, a topic or a
/// file.
fn with_candidates(cli: Command, config: Option<&Path>) -> Command {
    let config = config.map(Path::to_owned);
    cli.mut_subcommands(|command| command.mut_args(|arg| add_candidates(arg, config.clone())))
}

fn add_candidates(arg: Arg, config: Option<PathBuf>) -> Arg {
    let load = move || config.as_deref().and_then(config::load_despite_errors);
    match arg.get_id().as_str() {
        "handler" => arg.add(ArgValueCandidates::new(move || load().map_or(Vec::new(), handlers))),
        "source" => arg.add(ArgValueCandidates::new(move || load().map_or(Vec::new(), sources))),
        "state" => arg.add(ArgValueCandidates::new(states)),
        "topic" => arg.add(ArgValueCandidates::new(commands_and_topics)),
        "file" | "input" => arg.value_hint(ValueHint::FilePath),
        "folder" => arg.value_hint(ValueHint::DirPath),
        _ => arg,
    }
}

fn handlers(config: Config) -> Vec<CompletionCandidate> {
    config.handlers.into_iter().map(|handler| CompletionCandidate::new(handler.name)).collect()
}

/// The sources, each with its scheme.
fn sources(config: Config) -> Vec<CompletionCandidate> {
    let candidate = |source: config::Source| {
        let scheme = source.verify.scheme.name();
        CompletionCandidate::new(source.name).help(Some(scheme.into()))
    };
    config.sources.into_iter().map(candidate).collect()
}

fn states() -> Vec<CompletionCandidate> {
    PublicState::ALL.iter().map(|state| CompletionCandidate::new(state.name())).collect()
}

fn commands_and_topics() -> Vec<CompletionCandidate> {
    let cli = Cli::command();
    let commands = cli.get_subcommands().filter(|command| !command.is_hide_set());
    let commands = commands.map(|command| {
        CompletionCandidate::new(command.get_name()).help(command.get_about().cloned())
    });
    let topics = help::TOPICS.iter();
    let topics =
        topics.map(|topic| CompletionCandidate::new(topic.name).help(Some(topic.purpose.into())));
    commands.chain(topics).collect()
}
