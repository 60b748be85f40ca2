//! Two intake machines, three nats-servers and two worker machines, while any of them crashes, hangs or is cut off: each
//! webhook that got a 2xx is handled, once, and the webhooks of an ordering key in their order.
//!
//! Orders go through partitions: a mapping of the nats-servers divides them by their key, and each worker machine reads one
//! partition. Clicks have no order, and both worker machines read them. A sender of orders uses one intake machine, one of
//! clicks uses the next machine if a machine does not respond. The worker machines publish the outcome of each job, which
//! the first intake machine stores.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::send_request_to;
use crate::support::nats::{NatsClient, NatsCluster};
use crate::support::network::{Network, with_network};
use crate::support::server::{DEADLINE, Server, is_long, scenario, until};

/// Senders of each source, and the keys of each sender.
const SENDERS: usize = 6;
const KEYS: usize = 4;

/// What the nats-servers do with the subjects of orders.
const MAPPINGS: &str =
    "mappings: { \"hooks.orders.*\": \"partitions.orders.{{partition(2,1)}}.{{wildcard(1)}}\" }";

/// A handler that appends a line for each job to a file.
const EFFECTS: &str = r#"#!/usr/bin/env python3
import json, os, sys
effects = os.open("effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
for line in sys.stdin:
    job = json.loads(line)
    body = job["body"]
    words = [job["idempotency_key"], body["id"], body["key"], str(body["n"])]
    os.write(effects, (" ".join(words) + "\n").encode())
    print(json.dumps({"job": job["job"], "outcome": "succeeded"}), flush=True)
"#;

/// How many webhooks are sent, and how many per second.
struct Volume {
    events: usize,
    rate: u32,
}

impl Volume {
    fn chosen() -> Self {
        match is_long() {
            true => Self { events: 100_000, rate: 1_500 },
            false => Self { events: 3_000, rate: 200 },
        }
    }
}

/// The positions of the machines in a network: nats-servers first.
const INTAKE: usize = 3;
const WORKERS: usize = 5;
const MACHINES: usize = 7;

struct Deployment {
    nats: NatsCluster,
    client: NatsClient,
    intake: Vec<Server>,
    workers: Vec<Server>,
    addresses: Vec<SocketAddr>,
}

impl Deployment {
    /// Starts all machines: with a network, each in its namespace, else all on the loopback interface.
    fn start(network: Option<&Network>) -> Self {
        let nats = NatsCluster::start_with(MAPPINGS, |index, setup| match network {
            Some(network) => {
                setup.address(network.address(index)).wrapped_by(&network.command(index))
            }
            None => setup,
        });
        let client = nats.client();
        // A repeat after the longest outage of the test is within the window.
        let window = Duration::from_secs(1_800).as_nanos();
        let keys = json!({ "num_replicas": 3, "duplicate_window": window, "discard": "new" });
        client.create_stream("HOOKS", &["hooks.>", "partitions.>"], keys.clone());
        client.create_stream("OUTCOMES", &["outcomes.>"], keys);
        // After a crash, the message that was not acknowledged comes again soon.
        for partition in 0..2 {
            let filter = format!("partitions.orders.{partition}.*");
            client.create_consumer("HOOKS", &format!("orders-{partition}"), &filter, 1);
        }
        client.create_consumer("HOOKS", "clicks", "hooks.clicks", 1_000);
        client.create_consumer("OUTCOMES", "trail", "outcomes.>", 1_000);
        let servers = format!("servers = {:?}", nats.urls());
        let mut deployment =
            Self { nats, client, intake: Vec::new(), workers: Vec::new(), addresses: Vec::new() };
        for index in 0..2 {
            let (server, address) = intake_machine(&servers, network, INTAKE + index);
            deployment.intake.push(server);
            deployment.addresses.push(address);
            deployment.workers.push(worker_machine(&servers, network, index));
        }
        deployment
    }

    /// The machine that stores the outcomes.
    fn trail(&self) -> &Server {
        &self.intake[0]
    }

    /// How many webhooks the worker machines have handled, and how many of their jobs are not finished.
    fn progress(&self) -> (usize, usize) {
        let sum =
            |sql: &str| self.workers.iter().map(|w| w.value(sql).parse::<usize>().unwrap()).sum();
        let handled = "select count(*) from jobs j join handlers h on h.id = j.handler
            where j.state = 3 and h.name <> 'report'";
        (sum(handled), sum("select count(*) from jobs where state < 3"))
    }

    /// How many jobs of the intake machines the stream has not acknowledged.
    fn not_forwarded(&self) -> usize {
        let unfinished = "select count(*) from jobs where state < 3";
        self.intake.iter().map(|i| i.value(unfinished).parse::<usize>().unwrap()).sum()
    }

    /// How many attempts to publish have failed on each intake machine.
    fn failures(&self) -> Vec<usize> {
        let failed = "select count(*) from outcomes where outcome in ('failed', 'timed_out')";
        self.intake.iter().map(|i| i.value(failed).parse().unwrap()).collect()
    }

    /// Waits until attempts of both intake machines have failed, while they still accept webhooks.
    fn until_publishing_fails(&self, senders: &Senders) {
        let before = self.failures();
        until("attempts to publish fail", || {
            self.failures().iter().zip(&before).all(|(now, before)| now > before)
        });
        senders.until_accepted(100);
        let waiting = self.not_forwarded();
        assert!(waiting >= 100, "{waiting} webhooks wait for the stream");
    }

    /// Waits until all webhooks are handled, or nothing has changed for long. Then `check` says what is missing.
    fn until_handled(&self, ids: usize) {
        let mut before = (0, 0, 0);
        let mut changed_at = Instant::now();
        loop {
            let (handled, waiting) = self.progress();
            let queued = self.not_forwarded();
            let consumers = ["orders-0", "orders-1", "clicks"].into_iter();
            let unread =
                consumers.map(|name| self.client.unread("HOOKS", name)).sum::<Option<u64>>();
            let outcomes = self.trail().value(&format!("select count(*) from {OUTCOMES}"));
            let outcomes: usize = outcomes.parse().unwrap();
            let is_complete = handled >= ids && waiting == 0 && queued == 0;
            if is_complete && unread == Some(0) && outcomes >= handled {
                return;
            }
            if before != (handled, queued, outcomes) {
                (before, changed_at) = ((handled, queued, outcomes), Instant::now());
            }
            if changed_at.elapsed() > DEADLINE {
                eprintln!(
                    "nothing changes: {handled} of {ids} handled, {waiting} not; {queued} not forwarded, \
                     {unread:?} not read, {outcomes} outcomes"
                );
                return;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// Checks what the databases and the effects of the handlers say about the webhooks that were accepted.
    fn check(&self, accepted: &Accepted) {
        for machine in &self.intake {
            assert_eq!(repeated_webhooks(machine), [""; 0], "two events on one intake machine");
            let not_forwarded = "select count(*) from jobs where state <> 3";
            assert_eq!(machine.value(not_forwarded), "0", "jobs of `forward` that did not succeed");
        }
        let mut keys_of = BTreeMap::<String, BTreeSet<String>>::new();
        let mut machines_of_order = BTreeMap::<String, usize>::new();
        for machine in &self.workers {
            assert_eq!(machine.value("select count(*) from jobs where state <> 3"), "0");
            let successes =
                "select count(*) from (select job from outcomes where outcome = 'succeeded'
                group by job having count(*) > 1)";
            assert_eq!(machine.value(successes), "0", "jobs that succeeded twice");
            let id = "json_extract(cast(body as text), '$.id')";
            let webhooks = "(select e.id, e.body from events e join sources s on s.id = e.source
                where s.name <> 'hooktrail')";
            assert_eq!(repeated_webhooks(machine), [""; 0], "two events on one worker machine");
            let attempts = format!(
                "select {id} || ' ' || count(*) from {webhooks} e join outcomes o
                 on o.event = e.id group by e.id"
            );
            let attempts: BTreeMap<String, usize> = machine
                .column(&attempts)
                .iter()
                .map(|row| row.split_once(' ').unwrap())
                .map(|(id, count)| (id.to_owned(), count.parse().unwrap()))
                .collect();
            let mut effects_of = BTreeMap::<&str, usize>::new();
            let mut last_of = BTreeMap::<&str, usize>::new();
            let effects = machine.read_file("effects");
            for line in effects.lines() {
                let [idempotency_key, id, key, n] = line.split(' ').collect::<Vec<_>>()[..] else {
                    panic!("{line:?}");
                };
                keys_of.entry(id.to_owned()).or_default().insert(idempotency_key.to_owned());
                *effects_of.entry(id).or_default() += 1;
                if id.starts_with("orders") {
                    let n: usize = n.parse().unwrap();
                    let last = last_of.insert(key, n);
                    assert!(
                        last.is_none_or(|last| last <= n),
                        "{id} after number {last:?} of its key"
                    );
                }
            }
            for (id, count) in effects_of {
                // An attempt that a crash cut short may have had its effect.
                assert!(
                    count <= attempts[id],
                    "{id}: {count} effects of {} attempts",
                    attempts[id]
                );
                if id.starts_with("orders") {
                    *machines_of_order.entry(id.to_owned()).or_default() += 1;
                }
            }
        }
        let missing: Vec<_> = accepted.ids.iter().filter(|id| !keys_of.contains_key(*id)).collect();
        let published = missing.iter().take(20).map(|id| self.describe_publication(id));
        let published: Vec<_> = published.collect();
        assert!(
            missing.is_empty(),
            "{} of {} are not handled: {published:#?}",
            missing.len(),
            accepted.ids.len()
        );
        self.check_outcomes();
        let unknown: Vec<_> = keys_of.keys().filter(|id| !accepted.ids.contains(*id)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        let several: Vec<_> = keys_of.iter().filter(|(_, keys)| keys.len() > 1).collect();
        assert!(several.is_empty(), "webhooks with several idempotency keys: {several:?}");
        let twice: Vec<_> =
            machines_of_order.iter().filter(|(_, machines)| **machines > 1).collect();
        assert!(twice.is_empty(), "orders on both machines: {twice:?}");
    }
}

/// The webhooks of which a machine has several events: what is known of each event.
fn repeated_webhooks(machine: &Server) -> Vec<String> {
    machine.column(
        "with webhooks as (select e.*, json_extract(cast(e.body as text), '$.id') as webhook from events e
           join sources s on s.id = e.source where s.name not in ('hooktrail', 'outcomes'))
         select webhook || ': ' || group_concat(format('%d of %s at %d, first job %d, %s', id, origin_key,
           received_at, first_job, note), '; ')
         from webhooks group by webhook having count(*) > 1",
    )
}

impl Deployment {
    /// What the intake machines and the stream know about a webhook.
    fn describe_publication(&self, id: &str) -> String {
        let outcomes = format!(
            "select o.at || ' ' || o.outcome || ' ' || o.detail from outcomes o where o.event in (select id from
               events where json_extract(cast(body as text), '$.id') = '{id}')"
        );
        let outcomes: Vec<_> = self.intake.iter().flat_map(|i| i.column(&outcomes)).collect();
        let sequence = outcomes.last().and_then(|text| {
            let (_, rest) = text.split_once("sequence ")?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        let stored = sequence.map(|sequence| self.client.message("HOOKS", sequence));
        format!("{id}: {outcomes:?}, at this place of the stream: {stored:?}")
    }

    /// Checks that the trail has one outcome of each job, which `show` finds by the key of the first machine.
    fn check_outcomes(&self) {
        let trail = self.trail();
        let (handled, _) = self.progress();
        assert_eq!(trail.value(&format!("select count(*) from {OUTCOMES}")), handled.to_string());
        let state = "json_extract(cast(e.body as text), '$.state')";
        let states = trail.column(&format!("select distinct {state} from {OUTCOMES}"));
        assert_eq!(states, ["succeeded"]);
        for machine in &self.workers {
            let key = machine.value(
                "select e.origin_key from events e join sources s on s.id = e.source
                 where s.name like 'orders-%' order by e.id desc limit 1",
            );
            let (code, text) = trail.cli_text(&["show", &key]);
            assert!(code == Some(0) && text.contains("succeeded"), "show {key}: {text}");
        }
    }
}

/// The events of the outcomes, on the machine that stores them.
const OUTCOMES: &str = "events e join sources s on s.id = e.source where s.name = 'outcomes'";

/// What a machine listens on in a network. The loopback interface has a port of the test beside it.
const HTTP_PORT: u16 = 8080;

/// Keys of a handler that publishes: it tries again soon, and does not give up.
const PUBLISHING: &str = "timeout = \"5s\"\nbreaker = { threshold = 0 }\n\
    retry = { initial_delay = \"200ms\", max_delay = \"1s\", max_attempts = 10000 }";

fn intake_machine(
    servers: &str,
    network: Option<&Network>,
    position: usize,
) -> (Server, SocketAddr) {
    let mut machine = scenario()
        .source("orders", "dedupe = { jq = '.id' }")
        .source("clicks", "dedupe = { jq = '.id' }")
        .raw_config(&format!(
            "[handlers.forward-orders]\nsources = [\"orders\"]\nordering_key = '.key'\n{PUBLISHING}\n\
             jetstream = {{ {servers}, stream = \"HOOKS\", subject = 'hooks.orders.{{.key}}' }}"
        ))
        .raw_config(&format!(
            "[handlers.forward-clicks]\nsources = [\"clicks\"]\n{PUBLISHING}\n\
             jetstream = {{ {servers}, stream = \"HOOKS\", subject = \"hooks.clicks\", message_id = '.id' }}"
        ));
    if position == INTAKE {
        let keys = format!(
            "jetstream = {{ {servers}, stream = \"OUTCOMES\", consumer = \"trail\", filter = \"outcomes.>\" }}"
        );
        machine = machine.source("outcomes", &keys);
    }
    if let Some(network) = network {
        machine =
            machine.listen(&SocketAddr::new(network.address(position), HTTP_PORT).to_string());
        machine = machine.wrapped_by(&words(&network.command(position)));
    }
    let mut server = machine.prepare();
    server.start();
    let address = match network {
        Some(network) => SocketAddr::new(network.address(position), HTTP_PORT),
        None => SocketAddr::from(([127, 0, 0, 1], server.port)),
    };
    (server, address)
}

fn worker_machine(servers: &str, network: Option<&Network>, index: usize) -> Server {
    let consumer = |name: &str, more: &str| {
        format!("jetstream = {{ {servers}, stream = \"HOOKS\", consumer = \"{name}\"{more} }}")
    };
    let filter = format!(", filter = \"partitions.orders.{index}.*\", ordered = true");
    let handler = |name: &str, source: &str| {
        format!(
            "[handlers.{name}]\nsources = [\"{source}\"]\ncommand = [\"./effects.py\"]\nmode = \"stream\"\n\
             ordering_key = '.key'\nretry = {{ initial_delay = \"100ms\" }}"
        )
    };
    let orders = format!("orders-{index}");
    let report = format!(
        "[handlers.report]\nsources = [\"hooktrail\"]\nwhen = '.type == \"job.settled\"'\nbatch_size = 100\n{PUBLISHING}\n\
         jetstream = {{ {servers}, stream = \"OUTCOMES\", subject = 'outcomes.{{.handler}}' }}"
    );
    let mut machine = scenario()
        .raw_config(&report)
        .source(&orders, &consumer(&orders, &filter))
        .source("clicks", &consumer("clicks", ", filter = \"hooks.clicks\""))
        .raw_config(&handler("ship", &orders))
        .raw_config(&handler("count", "clicks"));
    machine.write_file("effects.py", EFFECTS);
    if let Some(network) = network {
        machine = machine.wrapped_by(&words(&network.command(WORKERS + index)));
    }
    let mut server = machine.prepare();
    server.start();
    server
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

/// The ids of the webhooks that got a 2xx.
struct Accepted {
    ids: BTreeSet<String>,
}

/// Senders that repeat a webhook until it gets a 2xx, and only then send the next one.
struct Senders {
    threads: Vec<JoinHandle<Vec<String>>>,
    should_stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
}

impl Senders {
    fn start(addresses: &[SocketAddr], volume: &Volume) -> Self {
        let (should_stop, accepted) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let interval = Duration::from_secs(1) * u32::try_from(2 * SENDERS).unwrap() / volume.rate;
        let thread = |number: usize| {
            let source = if number.is_multiple_of(2) { "orders" } else { "clicks" };
            let (addresses, should_stop, accepted) =
                (addresses.to_vec(), Arc::clone(&should_stop), Arc::clone(&accepted));
            std::thread::spawn(move || {
                let mut ids = Vec::new();
                let mut machine = number / 2;
                while !should_stop.load(Ordering::Relaxed) {
                    let due_at = Instant::now() + interval;
                    let (key, n) = (ids.len() % KEYS, ids.len() / KEYS);
                    let id = format!("{source}-{number}-{key}-{n}");
                    let body = json!({ "id": id, "key": format!("{number}-{key}"), "n": n });
                    while !post(addresses[machine % 2], source, &body.to_string()) {
                        // A sender of orders waits for its machine.
                        machine += usize::from(source == "clicks");
                        std::thread::park_timeout(Duration::from_millis(20));
                    }
                    if source == "clicks" && ids.len().is_multiple_of(10) {
                        // As a sender does whose response was lost. The other machine may be away.
                        let _ = post(addresses[(machine + 1) % 2], source, &body.to_string());
                    }
                    ids.push(id);
                    accepted.fetch_add(1, Ordering::Relaxed);
                    std::thread::park_timeout(due_at.saturating_duration_since(Instant::now()));
                }
                ids
            })
        };
        let threads = (0..2 * SENDERS).map(thread).collect();
        Self { threads, should_stop, accepted }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more webhooks got a 2xx.
    fn until_accepted(&self, more: usize) {
        let before = self.accepted();
        until("webhooks are accepted", || self.accepted() >= before + more);
    }

    fn stop(self) -> Accepted {
        self.should_stop.store(true, Ordering::Relaxed);
        let ids = self.threads.into_iter().flat_map(|thread| thread.join().expect("a sender"));
        Accepted { ids: ids.collect() }
    }
}

/// Posts a webhook. Returns whether it got a 2xx.
fn post(address: SocketAddr, source: &str, body: &str) -> bool {
    let path = format!("/hooks/{source}");
    let headers = "Content-Type: application/json";
    let response = send_request_to(address, "POST", &path, headers, body.as_bytes());
    response.is_some_and(|response| (200..300).contains(&response.status))
}

/// Kills each Hooktrail and each nats-server, and takes the majority from the stream, while webhooks arrive.
fn crash_everything(deployment: &mut Deployment, senders: &Senders) {
    let more = 100;
    for index in 0..2 {
        deployment.intake[index].kill();
        // The senders of orders of this machine wait for it.
        senders.until_accepted(more);
        deployment.intake[index].start();
        deployment.workers[index].kill();
        senders.until_accepted(more);
        deployment.workers[index].start();
    }
    let leader = deployment.nats.leader_of(&deployment.client, "HOOKS");
    for index in [leader, (leader + 1) % 3, (leader + 2) % 3] {
        deployment.nats.servers[index].kill();
        senders.until_accepted(more);
        deployment.nats.servers[index].restart();
        deployment.nats.until_healthy();
    }
    // No majority: intake goes on.
    for index in 0..2 {
        deployment.nats.servers[index].pause();
    }
    deployment.until_publishing_fails(senders);
    for index in 0..2 {
        deployment.nats.servers[index].resume();
    }
    deployment.nats.until_healthy();
    for index in 1..3 {
        deployment.nats.servers[index].kill();
    }
    deployment.until_publishing_fails(senders);
    deployment.workers[0].kill();
    for index in 1..3 {
        deployment.nats.servers[index].restart();
    }
    deployment.workers[0].start();
    deployment.nats.until_healthy();
}

#[test]
#[ignore = "needs a newer nats-server: tests/run installs it"]
fn over_crashes_of_all_machines_each_webhook_is_handled_once_and_those_of_a_key_in_order() {
    let volume = Volume::chosen();
    let mut deployment = Deployment::start(None);
    let senders = Senders::start(&deployment.addresses, &volume);
    senders.until_accepted(200);
    while {
        crash_everything(&mut deployment, &senders);
        is_long() && senders.accepted() < volume.events / 2
    } {}
    until_sent(&senders, &volume);
    let accepted = senders.stop();
    deployment.until_handled(accepted.ids.len());
    deployment.check(&accepted);
}

/// Waits until the senders have sent as many webhooks as the test needs.
fn until_sent(senders: &Senders, volume: &Volume) {
    while senders.accepted() < volume.events {
        senders.until_accepted(100.min(volume.events - senders.accepted()));
    }
}

mod partition {
    use super::*;

    #[test]
    #[ignore = "needs root, network namespaces and a newer nats-server: tests/run installs it"]
    fn over_partitions_of_the_network_each_webhook_is_handled_once_and_those_of_a_key_in_order() {
        with_network(MACHINES, |network| {
            let volume = Volume::chosen();
            let mut deployment = Deployment::start(Some(network));
            let senders = Senders::start(&deployment.addresses, &volume);
            senders.until_accepted(200);
            loop {
                let leader = deployment.nats.leader_of(&deployment.client, "HOOKS");
                let others = [(leader + 1) % 3, (leader + 2) % 3];
                // The leader, with one machine of each kind. The others elect another leader.
                let rest = [others[0], others[1], INTAKE + 1, WORKERS + 1];
                network.separate(&[leader, INTAKE, WORKERS], &rest);
                let client = deployment.nats.servers[others[0]].client();
                until("another server leads the stream", || {
                    deployment.nats.leader_of(&client, "HOOKS") != leader
                });
                senders.until_accepted(100);
                heal(network, &mut deployment, &senders);
                // The machines of Hooktrail from all nats-servers.
                network.separate(&[0, 1, 2], &[INTAKE, INTAKE + 1, WORKERS, WORKERS + 1]);
                deployment.until_publishing_fails(&senders);
                heal(network, &mut deployment, &senders);
                // Each nats-server from the others: no majority.
                network.separate(&[0], &[1, 2]);
                network.separate(&[1], &[2]);
                deployment.until_publishing_fails(&senders);
                heal(network, &mut deployment, &senders);
                if !is_long() || senders.accepted() >= volume.events / 2 {
                    break;
                }
            }
            until_sent(&senders, &volume);
            let accepted = senders.stop();
            deployment.until_handled(accepted.ids.len());
            deployment.check(&accepted);
        });
    }

    /// Lets all machines reach each other, and waits until the stream works again.
    fn heal(network: &mut Network, deployment: &mut Deployment, senders: &Senders) {
        network.heal();
        deployment.nats.until_healthy();
        let waiting = deployment.not_forwarded();
        until("webhooks are forwarded again", || deployment.not_forwarded() < waiting / 2 + 10);
        senders.until_accepted(100);
    }
}
