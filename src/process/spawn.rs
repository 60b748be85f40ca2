//! Starts one process: no shell, a group of its own, four pipes, nothing else inherited.
//!
//! By `posix_spawn`, which does not copy the server's memory maps as `fork` does: that is what makes
//! short commands cheap (benches/README.md).

use std::ffi::{CString, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::ptr;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::file_limit::restore_file_limit;
use super::orphans::RunGuard;
use super::{StartError, oom, shortage::is_shortage};

/// Set in the environment of what is started, so that it can be found again.
pub const MARK: &str = "HOOKTRAIL_RUN_ID";

/// Waits for a descriptor of a process that was just started.
const WATCH_TRIES: usize = 100;
const WATCH_WAIT: Duration = Duration::from_millis(20);

/// What to start.
#[derive(Clone, Debug)]
pub struct CommandSpec {
    /// Absolute.
    pub path: PathBuf,
    /// What it is called by, then its arguments.
    pub args: Vec<String>,
    /// The whole environment, but for the mark.
    pub env: Vec<(String, OsString)>,
    pub directory: PathBuf,
    /// The value of `MARK`: unique to this run.
    pub mark: String,
}

/// A process that was started, and our ends of its pipes, which never wait.
pub(super) struct Child {
    pub pid: Pid,
    /// Readable when it has ended.
    pub process: OwnedFd,
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub notes: OwnedFd,
}

/// Starts it, or says why not.
pub(super) fn spawn(program: &CommandSpec, run: &RunGuard) -> Result<Child, StartError> {
    let path = program.path.display();
    let no_pipes = |e: Errno| {
        let reason = format!("{path}: no pipes to be had: {}", hint(e.raw_os_error()));
        StartError::of_errno(e, reason)
    };
    let (their_in, stdin) = pipe(false).map_err(no_pipes)?;
    let (stdout, their_out) = pipe(true).map_err(no_pipes)?;
    let (stderr, their_err) = pipe(true).map_err(no_pipes)?;
    let (notes, their_notes) = pipe(true).map_err(no_pipes)?;
    let ends = [their_in, their_out, their_err, their_notes];
    let pid = run.start(|| start(program, &ends).inspect(|&pid| restore_file_limit(pid)))?;
    // Their files are closed here, so that there is room for one.
    drop(ends);
    let process = watch(pid).map_err(|e| {
        let _ = kill_process_group(pid, Signal::KILL);
        run.kill_orphans(pid);
        run.reap(pid);
        let reason = format!("{path}: it can't be watched: {}", hint(e.raw_os_error()));
        StartError::of_errno(e, reason)
    })?;
    // Last: a moment after its start the program is dumpable.
    oom::raise_of_handler(pid, &process);
    Ok(Child { pid, process, stdin, stdout, stderr, notes })
}

/// A descriptor of a process that runs already: worth some waits where there is none to be had.
fn watch(pid: Pid) -> Result<OwnedFd, Errno> {
    for _ in 0..WATCH_TRIES {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Err(e) if is_shortage(e.raw_os_error()) => std::thread::sleep(WATCH_WAIT),
            opened => return opened,
        }
    }
    pidfd_open(pid, PidfdFlags::empty())
}

/// A pipe whose one end, ours, never waits: the reading or the writing one.
pub(super) fn pipe(we_read: bool) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let ours = if we_read { &read } else { &write };
    rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
    Ok((read, write))
}

#[expect(clippy::disallowed_methods, reason = "processes start here alone")]
pub(super) fn start(program: &CommandSpec, ends: &[OwnedFd; 4]) -> Result<Pid, StartError> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| "a NUL byte in it".to_owned());
    let path = text(program.path.as_os_str().as_bytes())?;
    let directory = text(program.directory.as_os_str().as_bytes())?;
    let args =
        program.args.iter().map(|arg| text(arg.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let mut env = vec![text(format!("{MARK}={}", program.mark).as_bytes())?];
    for (name, value) in &program.env {
        let mut line = OsString::from(name).into_vec();
        line.push(b'=');
        // What comes from outside may hold a NUL, which no environment can.
        line.extend(value.as_bytes().iter().map(|&byte| if byte == 0 { b'?' } else { byte }));
        env.push(text(&line)?);
    }
    let pointers = |all: &[CString]| -> Vec<*mut libc::c_char> {
        all.iter().map(|one| one.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    let settings = SpawnAttributes::new(&directory, ends)?;
    let mut pid: libc::pid_t = 0;
    // SAFETY: path, argv and envp are NUL-terminated and outlive the call; settings are initialised.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            settings.actions.as_ptr(),
            settings.attributes.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    match (error, Pid::from_raw(pid)) {
        (0, Some(pid)) => Ok(pid),
        _ => Err(StartError::of_errno(
            Errno::from_raw_os_error(error),
            spawn_error_text(program, error),
        )),
    }
}

/// What `posix_spawn` is told besides the program.
struct SpawnAttributes {
    actions: MaybeUninit<libc::posix_spawn_file_actions_t>,
    attributes: MaybeUninit<libc::posix_spawnattr_t>,
}

impl SpawnAttributes {
    fn new(directory: &CString, ends: &[OwnedFd; 4]) -> Result<Self, String> {
        let mut it = Self { actions: MaybeUninit::uninit(), attributes: MaybeUninit::uninit() };
        let (actions, attributes) = (it.actions.as_mut_ptr(), it.attributes.as_mut_ptr());
        let flags = libc::POSIX_SPAWN_SETPGROUP
            | libc::POSIX_SPAWN_SETSIGDEF
            | libc::POSIX_SPAWN_SETSIGMASK;
        let (mut all, mut none) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both are initialised by the first two calls, before anything else uses them; the
        // signal sets by the two calls before they are handed over.
        let errors = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(none.as_mut_ptr());
            [
                libc::posix_spawn_file_actions_init(actions),
                libc::posix_spawnattr_init(attributes),
                libc::posix_spawnattr_setflags(attributes, flags as libc::c_short),
                libc::posix_spawnattr_setpgroup(attributes, 0),
                libc::posix_spawnattr_setsigdefault(attributes, all.as_ptr()),
                libc::posix_spawnattr_setsigmask(attributes, none.as_ptr()),
                libc::posix_spawn_file_actions_addchdir_np(actions, directory.as_ptr()),
                // 3 comes last: it may be the number of one of our ends.
                libc::posix_spawn_file_actions_adddup2(actions, ends[0].as_raw_fd(), 0),
                libc::posix_spawn_file_actions_adddup2(actions, ends[1].as_raw_fd(), 1),
                libc::posix_spawn_file_actions_adddup2(actions, ends[2].as_raw_fd(), 2),
                libc::posix_spawn_file_actions_adddup2(actions, ends[3].as_raw_fd(), 3),
            ]
        };
        match errors.iter().find(|&&error| error != 0) {
            None => Ok(it),
            Some(&error) => Err(std::io::Error::from_raw_os_error(error).to_string()),
        }
    }
}

impl Drop for SpawnAttributes {
    fn drop(&mut self) {
        // SAFETY: both were initialised in `new`; each is destroyed once.
        unsafe {
            libc::posix_spawn_file_actions_destroy(self.actions.as_mut_ptr());
            libc::posix_spawnattr_destroy(self.attributes.as_mut_ptr());
        }
    }
}

/// `posix_spawn` gives one number for the program, its interpreter and its directory.
fn spawn_error_text(program: &CommandSpec, error: i32) -> String {
    let (path, directory) = (program.path.display(), program.directory.display());
    match error {
        _ if !program.directory.is_dir() => format!("{directory}: there is no such directory"),
        libc::ENOENT if program.path.exists() => {
            format!("{path}: the interpreter named in its first line was not found")
        }
        libc::ENOENT | libc::ENOTDIR => format!("{path}: there is no such file"),
        libc::EACCES if program.path.metadata().is_ok_and(|it| it.mode() & 0o111 == 0) => {
            format!("{path}: not executable: chmod +x it")
        }
        libc::EACCES => format!(
            "{path}: not for this user: let it execute the file, and enter its folder and {directory}"
        ),
        libc::ENOEXEC => {
            format!("{path}: not a program: a script needs a first line such as #!/bin/sh")
        }
        _ => format!("{path}: {}", hint(error)),
    }
}

fn hint(error: i32) -> String {
    match error {
        libc::E2BIG => {
            "the environment is too large: no variable may be longer than 128 KiB".to_owned()
        }
        libc::EMFILE | libc::ENFILE => {
            "too many open files: raise LimitNOFILE or lower workers.threads".to_owned()
        }
        libc::EAGAIN | libc::ENOMEM => {
            "no more processes or no memory: raise TasksMax or lower workers.threads".to_owned()
        }
        libc::ETXTBSY => "it is being written".to_owned(),
        _ => std::io::Error::from_raw_os_error(error).to_string(),
    }
}
