//! A machine under a live systemd: `systemd-nspawn` boots the root that `tests/machine/make-root` made.
//!
//! What a machine writes is in memory and disappears with it. The network is that of the host, so each test uses a
//! free port of the loopback interface. Only root can boot a machine.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal};

use crate::support::server::until;

/// Where the kernel shows the hierarchies of control groups: one, or one for each controller.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Numbers the machines of this process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A free port of the loopback interface, which the machine shares with the test.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("a local address").port()
}

/// A running machine. The thread that booted it must outlive it: the kernel kills the machine with the thread.
pub struct Machine {
    /// `unshare`, which starts `systemd-nspawn`.
    nspawn: Child,
    /// The process of the host that is process 1 of the machine.
    init: Pid,
    control_groups: ControlGroups,
}

impl Machine {
    /// Boots a machine and waits until its services have started. A file or folder of the host can appear in it:
    /// each pair of `binds` is the path on the host and the path in the machine.
    pub fn boot(binds: &[(&Path, &str)]) -> Machine {
        Self::boot_with(&[], binds)
    }

    /// Boots a machine with a private loopback interface, so that all ports are free.
    pub fn boot_isolated(binds: &[(&Path, &str)]) -> Machine {
        Self::boot_with(&["--private-network"], binds)
    }

    fn boot_with(options: &[&str], binds: &[(&Path, &str)]) -> Machine {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-root");
        assert!(root.join(".complete").exists(), "no {}: run tests/run", root.display());
        let name =
            format!("hooktrail-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Two machines in one control group would see each other's services. All processes end with `unshare`, which the
        // kernel kills if this thread ends.
        let control_groups = ControlGroups::create(&name);
        let join = "for file; do shift; test \"$file\" != -- || break; echo $$ > $file; done
            exec setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount-proc \
            systemd-nspawn \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", join, "sh"]).args(control_groups.process_lists()).arg("--");
        command.arg("--directory").arg(root).args(["--volatile=overlay", "--boot", "--quiet"]);
        command.args(["--register=no", "--keep-unit", "--link-journal=no", "--hostname=machine"]);
        command.args(options);
        command.args(binds.iter().map(|(from, to)| format!("--bind={}:{to}", from.display())));
        command.arg(format!("--machine={name}"));
        // Machines share the root, which none of them changes.
        let mut nspawn = command
            .env("SYSTEMD_NSPAWN_LOCK", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh, of dash");
        let mut init = None;
        until("the machine boots", || {
            if let Some(status) = nspawn.try_wait().expect("the state") {
                let stderr = nspawn.stderr.take().expect("the standard error");
                let message = std::io::read_to_string(stderr).unwrap_or_default();
                panic!("systemd-nspawn ended with {status}: {message}");
            }
            init = find_init(nspawn.id());
            init.is_some()
        });
        let init = init.expect("process 1 of the machine");
        let machine = Machine { nspawn, init, control_groups };
        until("the services of the machine have started", || {
            let state = machine.try_run("systemctl is-system-running").stdout;
            ["running", "degraded"].contains(&String::from_utf8_lossy(&state).trim())
        });
        machine
    }

    /// A command of the machine, which root runs in an empty environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.as_raw_nonzero().to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--pid", "--net", "--cgroup", "--"]);
        command.args(["env", "--ignore-environment", "HOME=/root", "LC_ALL=C.UTF-8"]);
        command.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", program]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a script of the shell in the machine.
    pub fn try_run(&self, script: &str) -> Output {
        self.command("sh").args(["-c", script]).output().expect("nsenter, of util-linux")
    }

    /// Runs a script that must succeed, and returns what it prints.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let output = self.try_run(script);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{script}: {}: {stdout}{stderr}", output.status);
        stdout
    }

    /// Runs a script that must fail, and returns what it prints.
    #[track_caller]
    pub fn run_failing(&self, script: &str) -> String {
        let output = self.try_run(script);
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success(), "{script} succeeded: {printed}");
        printed
    }

    /// Writes a file of root, and the folders above it. A script (`#!`) is executable.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) {
        let contents = contents.as_ref();
        let mode = if contents.starts_with(b"#!") { "755" } else { "644" };
        let script = "mkdir -p \"${1%/*}\" && cat > \"$1\" && chmod $2 \"$1\"";
        let mut child = self
            .command("sh")
            .args(["-c", script, "sh", path, mode])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nsenter, of util-linux");
        let mut stdin = child.stdin.take().expect("the standard input");
        stdin.write_all(contents).expect("a file of the machine");
        drop(stdin);
        assert!(child.wait().expect("the state").success(), "{path}");
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        self.run(&format!("cat '{path}'"))
    }

    /// What a unit has logged since the machine booted.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&format!("journalctl --sync; journalctl --no-pager --output=cat --unit={unit}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The kernel kills all processes of the machine with its process 1.
        let _ = rustix::process::kill_process(self.init, Signal::KILL);
        let _ = self.nspawn.wait();
        self.control_groups.remove();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The descendant of a process that is process 1 of the machine: it runs systemd, and its parent is `systemd-nspawn`.
fn find_init(ancestor: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{ancestor}/task/{ancestor}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
        let ids = status.lines().find(|line| line.starts_with("NSpid:"))?;
        let child = child.parse().ok()?;
        if ids.ends_with("\t1") && status.starts_with("Name:\tsystemd\n") {
            return Pid::from_raw(child);
        }
        find_init(u32::try_from(child).ok()?)
    })
}

/// The control group of a machine, in each hierarchy that the kernel has.
struct ControlGroups {
    folders: Vec<PathBuf>,
}

impl ControlGroups {
    fn create(name: &str) -> ControlGroups {
        let hierarchies: Vec<PathBuf> = if Path::new(CONTROL_GROUPS).join("cgroup.procs").exists() {
            vec![CONTROL_GROUPS.into()]
        } else {
            let entries = fs::read_dir(CONTROL_GROUPS).expect("the control groups");
            entries.map(|entry| entry.expect("a hierarchy").path()).collect()
        };
        let hierarchies = hierarchies.iter().filter(|folder| folder.join("cgroup.procs").exists());
        let folders = hierarchies.map(|hierarchy| {
            remove_old_groups(hierarchy);
            let folder = hierarchy.join(name);
            fs::create_dir(&folder).expect("a control group: only root can create one");
            // A new group of this controller accepts no process before it has these.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(hierarchy.join(file)) {
                    let _ = fs::write(folder.join(file), value);
                }
            }
            folder
        });
        ControlGroups { folders: folders.collect() }
    }

    /// The files that a process writes its number to in order to join.
    fn process_lists(&self) -> impl Iterator<Item = PathBuf> {
        self.folders.iter().map(|folder| folder.join("cgroup.procs"))
    }

    fn remove(&self) {
        for folder in &self.folders {
            remove_control_group(folder);
        }
    }
}

/// Removes the groups of test runs that were killed. The kernel does not remove a group that has processes.
fn remove_old_groups(hierarchy: &Path) {
    for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix("hooktrail-").and_then(|rest| rest.split('-').next());
        if process.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            remove_control_group(&entry.path());
        }
    }
}

/// Removes a control group and those below it. Nobody needs to remove their files.
fn remove_control_group(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_control_group(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
