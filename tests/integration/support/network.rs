//! Machines with separate networks: each is a network namespace of the kernel, and a router connects them. The router
//! can drop what two groups of machines send to each other. Only root can make namespaces.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::server::{RunningCommand, until};

/// The router and the machines. A process holds each namespace, which the kernel removes after its last process.
pub struct Network {
    _router: RunningCommand,
    machines: Vec<RunningCommand>,
    /// The pairs of addresses whose packets the router drops.
    dropped: Vec<(IpAddr, IpAddr)>,
}

/// Runs a test on a thread of the router, from which it reaches all machines at any time.
pub fn with_network(machines: usize, test: impl FnOnce(&mut Network) + Send) {
    let run = || {
        let mut network = Network::create(machines);
        test(&mut network);
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

impl Network {
    /// Moves the thread into the namespace of the router.
    fn create(machines: usize) -> Self {
        let router = hold_namespace();
        let machines: Vec<_> = (0..machines).map(|_| hold_namespace()).collect();
        let namespace = fs::File::open(namespace_path(&router)).expect("the namespace");
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root");
        run("ip link set lo up");
        run("sysctl --quiet --write net.ipv4.ip_forward=1");
        let network = Self { _router: router, machines, dropped: Vec::new() };
        for index in 0..network.machines.len() {
            let (pid, address, gateway) =
                (network.machines[index].0.id(), network.address(index), gateway_of(index));
            run(&format!("ip link add m{index} type veth peer name eth0 netns {pid}"));
            run(&format!("ip address add {gateway}/30 dev m{index}"));
            run(&format!("ip link set m{index} up"));
            let enter = network.command(index).join(" ");
            run(&format!("{enter} ip address add {address}/30 dev eth0"));
            run(&format!("{enter} ip link set lo up"));
            run(&format!("{enter} ip link set eth0 up"));
            run(&format!("{enter} ip route add default via {gateway}"));
        }
        network
    }

    pub fn address(&self, machine: usize) -> IpAddr {
        Ipv4Addr::new(10, 77, octet(machine), 2).into()
    }

    /// The words of a command that starts another one on a machine, and becomes it.
    pub fn command(&self, machine: usize) -> Vec<String> {
        let pid = self.machines[machine].0.id().to_string();
        ["nsenter", "--target", &pid, "--net", "--"].map(str::to_owned).into()
    }

    /// Drops everything between machines of two groups, without a message to the sender.
    pub fn separate(&mut self, group: &[usize], others: &[usize]) {
        for (&machine, &other) in
            group.iter().flat_map(|machine| others.iter().map(move |o| (machine, o)))
        {
            let (from, to) = (self.address(machine), self.address(other));
            for pair in [(from, to), (to, from)] {
                run(&format!("ip rule add from {} to {} blackhole", pair.0, pair.1));
                self.dropped.push(pair);
            }
        }
    }

    /// Lets all machines reach each other again.
    pub fn heal(&mut self) {
        for (from, to) in self.dropped.drain(..) {
            run(&format!("ip rule delete from {from} to {to} blackhole"));
        }
    }
}

fn octet(machine: usize) -> u8 {
    u8::try_from(machine + 1).expect("a small number of machines")
}

/// The address of the router on the link to a machine.
fn gateway_of(machine: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, octet(machine), 1)
}

fn namespace_path(holder: &RunningCommand) -> String {
    format!("/proc/{}/ns/net", holder.0.id())
}

/// Starts a process in a new namespace. The kernel ends it with the thread that called this.
fn hold_namespace() -> RunningCommand {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]);
    let child = command.stdin(Stdio::null()).spawn().expect("setpriv, of util-linux");
    let holder = RunningCommand(child);
    let own = fs::read_link("/proc/thread-self/ns/net").expect("the namespace");
    until("the namespace exists", || {
        fs::read_link(namespace_path(&holder)).is_ok_and(|namespace| namespace != own)
    });
    holder
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().expect("a program"))
        .args(words)
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .stdin(Stdio::null())
        .output()
        .expect("the program");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {message}");
}
