//! Starts one process: without a shell, in a new process group, with four pipes. It inherits
//! no other descriptor.
//!
//! `posix_spawn` does not copy the memory maps of the server, as `fork` does. This makes short
//! commands cheap (benches/README.md).

use std::ffi::{CString, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::file_limit::restore_file_limit;
use super::orphans::RunGuard;
use super::{StartError, Supervisor, shortage::is_shortage};

/// The environment variable by which a process of a run is found.
pub const RUN_ID_VARIABLE: &str = "HOOKTRAIL_RUN_ID";

/// How often to try to get a pidfd of a new process if descriptors are used up, and how long to
/// wait between two attempts.
const PIDFD_ATTEMPTS: usize = 100;
const PIDFD_RETRY_WAIT: Duration = Duration::from_millis(20);

/// A command to start.
#[derive(Clone, Debug)]
pub struct CommandSpec {
    /// The absolute path of the program.
    pub path: PathBuf,
    /// The program's name as it sees it, then its arguments.
    pub args: Vec<String>,
    /// The whole environment except `RUN_ID_VARIABLE`.
    pub env: Vec<(String, OsString)>,
    pub directory: PathBuf,
    /// The value of `RUN_ID_VARIABLE`, unique to this run, from `Supervisor::run_id`.
    pub run_id: String,
    /// The owner of the process.
    pub supervisor: Arc<Supervisor>,
}

/// A started process and the server's ends of its pipes, which are non-blocking.
pub(super) struct Child {
    pub pid: Pid,
    /// Readable when the process has ended.
    pub pidfd: OwnedFd,
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub control: OwnedFd,
}

/// Starts the process.
pub(super) fn spawn(command: &CommandSpec, run: &RunGuard) -> Result<Child, StartError> {
    let path = command.path.display();
    let pipe_error = |e: Errno| {
        let reason = format!("{path}: no pipes are available: {}", hint(e.raw_os_error()));
        StartError::from_errno(e, reason)
    };
    let (stdin_end, stdin) = create_pipe(false).map_err(pipe_error)?;
    let (stdout, stdout_end) = create_pipe(true).map_err(pipe_error)?;
    let (stderr, stderr_end) = create_pipe(true).map_err(pipe_error)?;
    let (control, control_end) = create_pipe(true).map_err(pipe_error)?;
    let pipe_ends = [stdin_end, stdout_end, stderr_end, control_end];
    let pid = run
        .supervisor
        .start(|| run_posix_spawn(command, &pipe_ends).inspect(|&pid| restore_file_limit(pid)))?;
    // The child's ends are closed first, so that a descriptor is free for the pidfd.
    drop(pipe_ends);
    let pidfd = open_pidfd(pid).map_err(|e| {
        let _ = kill_process_group(pid, Signal::KILL);
        run.kill_orphans(pid);
        run.supervisor.reap(pid);
        let reason = format!("{path}: its end can't be watched: {}", hint(e.raw_os_error()));
        StartError::from_errno(e, reason)
    })?;
    // This comes last, because the program is not dumpable until a moment after its start.
    run.supervisor.raise_handler_score(pid, &pidfd);
    Ok(Child { pid, pidfd, stdin, stdout, stderr, control })
}

/// Opens a pidfd of a running process. The process already runs, so a shortage of descriptors is
/// worth several waits.
fn open_pidfd(pid: Pid) -> Result<OwnedFd, Errno> {
    for _ in 0..PIDFD_ATTEMPTS {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Err(e) if is_shortage(e.raw_os_error()) => std::thread::sleep(PIDFD_RETRY_WAIT),
            opened => return opened,
        }
    }
    pidfd_open(pid, PidfdFlags::empty())
}

/// Creates a pipe. The server's end is non-blocking: the read end if `parent_reads`, else the write
/// end.
pub(super) fn create_pipe(parent_reads: bool) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let ours = if parent_reads { &read } else { &write };
    rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
    Ok((read, write))
}

#[expect(clippy::disallowed_methods, reason = "processes start here alone")]
pub(super) fn run_posix_spawn(
    command: &CommandSpec,
    pipe_ends: &[OwnedFd; 4],
) -> Result<Pid, StartError> {
    let c_string = |bytes: &[u8]| {
        CString::new(bytes)
            .map_err(|_| "an argument, a path or a variable contains a NUL byte".to_owned())
    };
    let path = c_string(command.path.as_os_str().as_bytes())?;
    let directory = c_string(command.directory.as_os_str().as_bytes())?;
    let args =
        command.args.iter().map(|arg| c_string(arg.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let mut env = vec![c_string(format!("{RUN_ID_VARIABLE}={}", command.run_id).as_bytes())?];
    for (name, value) in &command.env {
        let mut line = OsString::from(name).into_vec();
        line.push(b'=');
        // A value from an event may contain a NUL, which no environment can hold.
        line.extend(value.as_bytes().iter().map(|&byte| if byte == 0 { b'?' } else { byte }));
        env.push(c_string(&line)?);
    }
    let pointer_list = |texts: &[CString]| -> Vec<*mut libc::c_char> {
        texts.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    };
    let (argv, envp) = (pointer_list(&args), pointer_list(&env));
    let spawn_attributes = SpawnAttributes::new(&directory, pipe_ends)?;
    let mut pid: libc::pid_t = 0;
    // SAFETY: path, argv and envp are NUL-terminated and outlive the call; the attributes are initialised.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            spawn_attributes.actions.as_ptr(),
            spawn_attributes.attributes.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    match (error, Pid::from_raw(pid)) {
        (0, Some(pid)) => Ok(pid),
        _ => Err(StartError::from_errno(
            Errno::from_raw_os_error(error),
            spawn_error_text(command, error),
        )),
    }
}

/// The file actions and attributes of `posix_spawn`.
struct SpawnAttributes {
    actions: MaybeUninit<libc::posix_spawn_file_actions_t>,
    attributes: MaybeUninit<libc::posix_spawnattr_t>,
}

impl SpawnAttributes {
    fn new(directory: &CString, pipe_ends: &[OwnedFd; 4]) -> Result<Self, String> {
        let mut new = Self { actions: MaybeUninit::uninit(), attributes: MaybeUninit::uninit() };
        let (actions, attributes) = (new.actions.as_mut_ptr(), new.attributes.as_mut_ptr());
        let flags = libc::POSIX_SPAWN_SETPGROUP
            | libc::POSIX_SPAWN_SETSIGDEF
            | libc::POSIX_SPAWN_SETSIGMASK;
        let (mut all, mut none) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: `actions` and `attributes` are initialised by the first two calls of the list,
        // before other calls use them. The signal sets are initialised by the two calls before it.
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
                // Descriptor 3 comes last, because one of the server's ends may have this number.
                libc::posix_spawn_file_actions_adddup2(actions, pipe_ends[0].as_raw_fd(), 0),
                libc::posix_spawn_file_actions_adddup2(actions, pipe_ends[1].as_raw_fd(), 1),
                libc::posix_spawn_file_actions_adddup2(actions, pipe_ends[2].as_raw_fd(), 2),
                libc::posix_spawn_file_actions_adddup2(actions, pipe_ends[3].as_raw_fd(), 3),
            ]
        };
        match errors.iter().find(|&&error| error != 0) {
            None => Ok(new),
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

/// Explains an error of `posix_spawn`, which returns the same number for a missing program, a
/// missing interpreter and a missing directory.
fn spawn_error_text(command: &CommandSpec, error: i32) -> String {
    let (path, directory) = (command.path.display(), command.directory.display());
    match error {
        _ if !command.directory.is_dir() => format!("{directory}: there is no such directory"),
        libc::ENOENT if command.path.exists() => {
            format!("{path}: the interpreter named in its first line was not found")
        }
        libc::ENOENT | libc::ENOTDIR => format!("{path}: there is no such file"),
        libc::EACCES if command.path.metadata().is_ok_and(|found| found.mode() & 0o111 == 0) => {
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
