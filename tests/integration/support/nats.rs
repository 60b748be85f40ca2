//! Real nats-servers with JetStream on free ports, alone or as a cluster, and a client of them. Servers alone are the
//! distribution's, and those of a cluster have the version of tests/nats/.
//!
//! A server keeps its port and its data over `kill` and `restart`. `nats-server` and `cluster` choose ports that the
//! kernel gives to nobody else, so that they are still free at a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use async_nats::{ConnectOptions, HeaderMap};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use rcgen::DnType;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::client::{Response, send_request_to};
use crate::support::server::{RunningCommand, send_signal, until};
use crate::support::tls_client::Authority;

/// Ports that the kernel gives to no socket by itself: they are below `ip_local_port_range`.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// The program of the distribution.
pub const DISTRIBUTED: &str = "nats-server";

/// A newer program, which `tests/run` installs. It has what clusters need.
pub fn newer_nats_server() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-nats/bin/nats-server");
    assert!(program.exists(), "no {}: tests/run installs it", program.display());
    program
}

/// The numbers of a program's version.
pub fn version_of(program: &str) -> [u32; 3] {
    let output = Command::new(program).arg("--version").output().expect("nats-server");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (_, version) = text.trim().rsplit_once(": v").expect("a version");
    let numbers: Vec<u32> = version.split('.').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().expect("three numbers")
}

/// How long a client waits for a connection or a response. A cluster without a majority does not respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A port on which nothing listens now, and which no other call of this process returns.
fn unused_port() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start)).unwrap();
    loop {
        let offset = first.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + offset % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// How a client proves to the server who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Without a proof.
    Anyone,
    Password,
    Token,
    /// A signature by the key of a user.
    Nkey,
    /// A JSON Web Token and the key that it names: a `.creds` file.
    Credentials,
}

/// The words of the secrets of `Access`.
pub const USER: &str = "hooktrail";
pub const PASSWORD: &str = "a long password";
pub const TOKEN: &str = "a-long-token";

/// A configuration of a nats-server, built in a temporary folder.
pub struct NatsSetup {
    folder: TempDir,
    address: IpAddr,
    access: Access,
    tls: Option<ClientFiles>,
    config: String,
    program: PathBuf,
    wrapper: Vec<String>,
}

/// The files of a client that speaks TLS. The server asks for its certificate.
struct ClientFiles {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// A server with JetStream that listens on the loopback interface.
pub fn nats_server() -> NatsSetup {
    NatsSetup {
        folder: tempfile::tempdir().expect("a temporary folder"),
        address: Ipv4Addr::LOCALHOST.into(),
        access: Access::Anyone,
        tls: None,
        config: String::new(),
        program: DISTRIBUTED.into(),
        wrapper: Vec::new(),
    }
}

impl NatsSetup {
    /// Adds lines to the configuration.
    pub fn config(mut self, lines: &str) -> Self {
        let _ = writeln!(self.config, "{lines}");
        self
    }

    /// Adds a password, a token or keys, which it writes into files of the folder: `user.nk`, `user.creds`.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        let lines = match access {
            Access::Anyone => String::new(),
            Access::Password => {
                format!("authorization {{ user: {USER}, password: {PASSWORD:?} }}")
            }
            Access::Token => format!("authorization {{ token: {TOKEN:?} }}"),
            Access::Nkey => {
                let user = KeyPair::new_user();
                self.write("user.nk", &user.seed().expect("a seed"));
                format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key())
            }
            Access::Credentials => self.write_credentials(),
        };
        self.config(&lines)
    }

    /// Serves TLS by a certificate of this authority, and asks clients for one that it has issued. Writes the client's
    /// files into the folder: `ca.pem`, `client.pem`, `client.key`.
    pub fn tls(mut self, authority: &Authority) -> Self {
        let file = |name: &str| self.folder.path().join(name);
        self.write("ca.pem", &authority.pem());
        for name in ["server", "client"] {
            let identity = authority.issue(&[(DnType::CommonName, name)]);
            self.write(&format!("{name}.pem"), &identity.certificate_pem);
            self.write(&format!("{name}.key"), &identity.key.serialize_pem());
        }
        let lines = format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
            file("server.pem"),
            file("server.key"),
            file("ca.pem")
        );
        let (authority, certificate) = (file("ca.pem"), file("client.pem"));
        self.tls = Some(ClientFiles { authority, certificate, key: file("client.key") });
        self.config(&lines)
    }

    /// Listens on this address, which the command of `wrapped_by` can bind.
    pub fn address(mut self, address: IpAddr) -> Self {
        self.address = address;
        self
    }

    /// Runs this program.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Starts the server by way of another command, which must become it.
    pub fn wrapped_by(mut self, words: &[String]) -> Self {
        self.wrapper = words.to_vec();
        self
    }

    /// Starts the server and waits until JetStream works.
    pub fn start(self) -> NatsServer {
        let mut server = self.prepare();
        server.spawn();
        server.until_healthy();
        server
    }

    /// Chooses the ports and writes the configuration.
    fn prepare(self) -> NatsServer {
        let (port, monitor_port) = (unused_port(), unused_port());
        let config = format!(
            "listen: \"{address}:{port}\"\nhttp: \"{address}:{monitor_port}\"\n\
             jetstream {{ store_dir: {store:?}, max_file_store: 4GB, max_memory_store: 64MB }}\n{own}",
            address = self.address,
            store = self.folder.path().join("data"),
            own = self.config,
        );
        self.write("nats-server.conf", &config);
        NatsServer { setup: self, port, monitor_port, child: None }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("a file in the temporary folder");
    }

    /// Makes an operator, an account with JetStream and a user, whose file it writes. Returns the lines that trust them.
    fn write_credentials(&self) -> String {
        let (operator, account, user) =
            (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
        let system = KeyPair::new_account();
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
        });
        let no_storage = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        });
        let operator_token = web_token(&operator, &operator, "operator", &json!({}));
        let account_claims = json!({ "limits": limits });
        let account_token = web_token(&operator, &account, "account", &account_claims);
        let system_claims = json!({ "limits": no_storage });
        let system_token = web_token(&operator, &system, "account", &system_claims);
        let user_claims = json!({ "subs": -1, "data": -1, "payload": -1 });
        let user_token = web_token(&account, &user, "user", &user_claims);
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().expect("a seed")
        );
        self.write("user.creds", &creds);
        format!(
            "operator: {operator_token}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload {{ {account}: {account_token}, {system}: {system_token} }}",
            system = system.public_key(),
            account = account.public_key(),
        )
    }
}

/// A JSON Web Token of NATS: what `issuer` states about `subject`.
fn web_token(issuer: &KeyPair, subject: &KeyPair, kind: &str, claims: &Value) -> String {
    let mut nats = claims.as_object().cloned().unwrap_or_default();
    nats.extend([("type".to_owned(), json!(kind)), ("version".to_owned(), json!(2))]);
    let public = subject.public_key();
    let claims = json!({
        "jti": public, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": kind, "sub": public, "nats": nats,
    });
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let text =
        format!("{}.{}", encode(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encode(&claims));
    let signature = issuer.sign(text.as_bytes()).expect("a key that signs");
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// A running or stopped nats-server. It is killed when it is dropped.
pub struct NatsServer {
    setup: NatsSetup,
    pub port: u16,
    monitor_port: u16,
    child: Option<RunningCommand>,
}

impl NatsServer {
    /// The folder with the configuration, the data, the log and the files of clients.
    pub fn path(&self) -> &Path {
        self.setup.folder.path()
    }

    /// The URL for clients. That of a server with TLS has the name in its certificate.
    pub fn url(&self) -> String {
        match self.setup.tls {
            Some(_) => format!("tls://localhost:{}", self.port),
            None => format!("nats://{}:{}", self.setup.address, self.port),
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("nats.log")).unwrap_or_default()
    }

    fn spawn(&mut self) {
        let mut words: Vec<OsString> = self.setup.wrapper.iter().map(OsString::from).collect();
        words.push(self.setup.program.clone().into());
        words.extend(["--config", "nats-server.conf"].map(OsString::from));
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.path().join("nats.log"));
        let child = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(self.path())
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the log"))
            .spawn()
            .expect("nats-server, which tests/run installs");
        self.child = Some(RunningCommand(child));
    }

    /// Waits until the server answers that JetStream works. In a cluster, its streams may lag.
    pub fn until_healthy(&mut self) {
        until("the nats-server is healthy", || {
            let child = &mut self.child.as_mut().expect("a started nats-server").0;
            let ended = child.try_wait().expect("the state");
            assert!(ended.is_none(), "nats-server ended: {}", self.log());
            let response = self.request("/healthz?js-server-only=true");
            response.is_some_and(|response| response.status == 200)
        });
    }

    /// Asks the listener for monitoring.
    fn request(&self, path: &str) -> Option<Response> {
        let address = SocketAddr::new(self.setup.address, self.monitor_port);
        send_request_to(address, "GET", path, "", b"")
    }

    /// Ends the server with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Starts the server again, with the same ports and data. Does not wait until it is healthy.
    pub fn restart(&mut self) {
        self.spawn();
    }

    /// Stops all threads of the server, as a machine that hangs would.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().expect("a running nats-server").0.id();
        send_signal(pid, signal).expect("a running nats-server");
    }

    /// Connects as a user who may do everything.
    pub fn client(&self) -> NatsClient {
        self.try_client(self.setup.access).expect("a connection")
    }

    /// Connects with the proof that `access` names. The error is the server's.
    pub fn try_client(&self, access: Access) -> Result<NatsClient, String> {
        NatsClient::connect(&[self.url()], self.options(access))
    }

    fn options(&self, access: Access) -> ConnectOptions {
        let read = |name: &str| fs::read_to_string(self.path().join(name)).unwrap_or_default();
        let options = match access {
            Access::Anyone => ConnectOptions::new(),
            Access::Password => {
                ConnectOptions::with_user_and_password(USER.to_owned(), PASSWORD.to_owned())
            }
            Access::Token => ConnectOptions::with_token(TOKEN.to_owned()),
            Access::Nkey => ConnectOptions::with_nkey(read("user.nk")),
            Access::Credentials => {
                ConnectOptions::with_credentials(&read("user.creds")).expect("valid credentials")
            }
        };
        match &self.setup.tls {
            Some(files) => options
                .add_root_certificates(files.authority.clone())
                .add_client_certificate(files.certificate.clone(), files.key.clone()),
            None => options,
        }
    }
}

/// Servers with routes to each other.
pub struct NatsCluster {
    pub servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts three servers on the loopback interface, and waits until they have elected a leader.
    pub fn start() -> Self {
        Self::start_with("", |_, setup| setup)
    }

    /// Starts three servers with these lines in each configuration. `place` gives a server its address.
    pub fn start_with(config: &str, place: impl Fn(usize, NatsSetup) -> NatsSetup) -> Self {
        let program = newer_nats_server();
        let setup = || nats_server().program(&program).config(config);
        let setups: Vec<_> = (0..3).map(|index| place(index, setup())).collect();
        let routes: Vec<_> = setups.iter().map(|setup| (setup.address, unused_port())).collect();
        let urls: Vec<_> =
            routes.iter().map(|(address, port)| format!("\"nats://{address}:{port}\"")).collect();
        let prepared = setups.into_iter().zip(&routes).enumerate();
        let servers = prepared.map(|(index, (setup, (address, port)))| {
            let lines = format!(
                "server_name: n{index}\n\
                 cluster {{ name: test, listen: \"{address}:{port}\", routes: [ {} ] }}",
                urls.join(", ")
            );
            setup.config(&lines).prepare()
        });
        let mut cluster = Self { servers: servers.collect() };
        cluster.servers.iter_mut().for_each(NatsServer::spawn);
        cluster.until_healthy();
        cluster
    }

    /// Waits until all servers are healthy, one of them leads the others, and each has caught up with each stream and
    /// consumer once. While messages arrive, one of them lags at each moment.
    pub fn until_healthy(&mut self) {
        self.servers.iter_mut().for_each(NatsServer::until_healthy);
        let client = self.client();
        until("the cluster has a leader", || client.try_call("INFO", &json!({})).is_ok());
        let mut caught_up = BTreeMap::<String, BTreeSet<String>>::new();
        until("each server has caught up with each stream", || {
            let Ok(groups) = client.raft_groups() else { return false };
            for (group, info) in &groups {
                caught_up.entry(group.clone()).or_default().extend(current_members(info));
            }
            groups.iter().all(|(group, info)| caught_up[group].len() >= member_count(info))
        });
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }

    /// Connects to any of the servers.
    pub fn client(&self) -> NatsClient {
        let options = self.servers[0].options(Access::Anyone);
        NatsClient::connect(&self.urls(), options).expect("a connection")
    }

    /// The position of the server that leads a stream. Waits until there is one.
    pub fn leader_of(&self, client: &NatsClient, stream: &str) -> usize {
        let mut leader = None;
        until("the stream has a leader", || {
            let info = client.try_call(&format!("STREAM.INFO.{stream}"), &json!({}));
            let name =
                info.ok().and_then(|info| Some(info["cluster"]["leader"].as_str()?.to_owned()));
            leader = name.and_then(|name| name.strip_prefix('n')?.parse().ok());
            leader.is_some()
        });
        leader.expect("a leader")
    }
}

/// The members of a group of servers that have all that the group has agreed on.
fn current_members(info: &Value) -> Vec<String> {
    let cluster = &info["cluster"];
    let Some(leader) = cluster["leader"].as_str() else { return Vec::new() };
    let replicas = cluster["replicas"].as_array().into_iter().flatten();
    let current =
        replicas.filter(|replica| replica["current"] == true && replica["offline"] != true);
    let current = current.filter_map(|replica| replica["name"].as_str());
    current.chain([leader]).map(str::to_owned).collect()
}

/// How many servers have a copy of what a stream or a consumer holds.
fn member_count(info: &Value) -> usize {
    1 + info["cluster"]["replicas"].as_array().map_or(0, Vec::len)
}

/// A message that a stream has stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    pub sequence: u64,
    pub subject: String,
    pub headers: BTreeMap<String, String>,
    pub payload: Vec<u8>,
}

/// A client that waits for each response.
pub struct NatsClient {
    runtime: Runtime,
    context: Context,
}

impl NatsClient {
    fn connect(urls: &[String], options: ConnectOptions) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let options = options.connection_timeout(RESPONSE_TIMEOUT);
        let context = runtime.block_on(async {
            let client = options.connect(urls).await.map_err(|error| error.to_string())?;
            let mut context = jetstream::new(client);
            context.set_timeout(RESPONSE_TIMEOUT);
            Ok::<_, String>(context)
        })?;
        Ok(Self { runtime, context })
    }

    /// Calls the API of JetStream. An error has the server's description.
    pub fn try_call(&self, subject: &str, request: &Value) -> Result<Value, String> {
        let call = self.context.request(subject.to_owned(), request);
        let response: Value = self.runtime.block_on(call).map_err(|error| error.to_string())?;
        match response.get("error") {
            Some(error) => Err(error["description"].as_str().unwrap_or_default().to_owned()),
            None => Ok(response),
        }
    }

    #[track_caller]
    fn call(&self, subject: &str, request: &Value) -> Value {
        self.try_call(subject, request).unwrap_or_else(|error| panic!("{subject}: {error}"))
    }

    /// Creates a stream for these subjects, with file storage. `keys` replace or add keys of its configuration.
    #[track_caller]
    pub fn create_stream(&self, name: &str, subjects: &[&str], keys: Value) {
        let mut config = json!({
            "name": name, "subjects": subjects, "storage": "file", "retention": "limits", "num_replicas": 1,
        });
        let config_keys = config.as_object_mut().expect("an object");
        config_keys.extend(keys.as_object().expect("an object").clone());
        self.call(&format!("STREAM.CREATE.{name}"), &config);
    }

    /// Creates a durable pull consumer, whose messages come again three seconds after they were delivered without an
    /// acknowledgement.
    #[track_caller]
    pub fn create_consumer(&self, stream: &str, name: &str, filter: &str, max_ack_pending: u32) {
        let config = json!({
            "durable_name": name, "ack_policy": "explicit", "ack_wait": 3_000_000_000_i64, "deliver_policy": "all",
            "filter_subject": filter, "max_ack_pending": max_ack_pending, "replay_policy": "instant",
        });
        let request = json!({ "stream_name": stream, "config": config });
        self.call(&format!("CONSUMER.DURABLE.CREATE.{stream}.{name}"), &request);
    }

    /// What the cluster says of each stream and of each consumer. An error: it has no leader for one of them.
    fn raft_groups(&self) -> Result<Vec<(String, Value)>, String> {
        let mut groups = Vec::new();
        let names = |list: Value, key: &str| -> Vec<String> {
            let names = list[key].as_array().into_iter().flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        for stream in names(self.try_call("STREAM.NAMES", &json!({}))?, "streams") {
            let info = self.try_call(&format!("STREAM.INFO.{stream}"), &json!({}))?;
            let list = self.try_call(&format!("CONSUMER.NAMES.{stream}"), &json!({}))?;
            for consumer in names(list, "consumers") {
                let subject = format!("CONSUMER.INFO.{stream}.{consumer}");
                groups.push((subject.clone(), self.try_call(&subject, &json!({}))?));
            }
            groups.push((stream, info));
        }
        Ok(groups)
    }

    /// How many messages of a stream a consumer has not acknowledged. `None`: the cluster does not say.
    pub fn unread(&self, stream: &str, consumer: &str) -> Option<u64> {
        let info = self.try_call(&format!("CONSUMER.INFO.{stream}.{consumer}"), &json!({})).ok()?;
        Some(info["num_pending"].as_u64()? + info["num_ack_pending"].as_u64()?)
    }

    /// The number of messages that a stream holds.
    #[track_caller]
    pub fn message_count(&self, stream: &str) -> u64 {
        let info = self.call(&format!("STREAM.INFO.{stream}"), &json!({}));
        info["state"]["messages"].as_u64().expect("a number")
    }

    /// All messages of a stream, in its order.
    #[track_caller]
    pub fn messages(&self, stream: &str) -> Vec<StoredMessage> {
        let info = self.call(&format!("STREAM.INFO.{stream}"), &json!({}));
        let end = |key: &str| info["state"][key].as_u64().expect("a number");
        self.runtime.block_on(async {
            let stream = self.context.get_stream(stream).await.expect("the stream");
            let mut messages = Vec::new();
            for sequence in end("first_seq")..=end("last_seq") {
                let message = stream.get_raw_message(sequence).await.expect("the message");
                let headers = message.headers.iter().map(|(name, values)| {
                    let values: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
                    (name.to_string(), values.join(", "))
                });
                messages.push(StoredMessage {
                    sequence,
                    subject: message.subject.to_string(),
                    headers: headers.collect(),
                    payload: message.payload.to_vec(),
                });
            }
            messages
        })
    }

    /// The subject, the id and the body of a message of a stream, or why there is none.
    pub fn message(&self, stream: &str, sequence: u64) -> Result<String, String> {
        self.runtime.block_on(async {
            let stream = self.context.get_stream(stream).await.map_err(|e| e.to_string())?;
            let message = stream.get_raw_message(sequence).await.map_err(|e| e.to_string())?;
            let id = message.headers.get("Nats-Msg-Id").map(|id| id.to_string());
            let body = String::from_utf8_lossy(&message.payload);
            Ok(format!("{} {} {body}", message.subject, id.unwrap_or_default()))
        })
    }

    /// Publishes a message with these headers, and returns its sequence number, or why the stream did not store it.
    pub fn try_publish(
        &self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Result<u64, String> {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        let (subject, payload) = (subject.to_owned(), payload.to_vec());
        self.runtime.block_on(async {
            let published = self.context.publish_with_headers(subject, map, payload.into()).await;
            let stored = published.map_err(|error| error.to_string())?.await;
            stored.map(|stored| stored.sequence).map_err(|error| error.to_string())
        })
    }

    #[track_caller]
    pub fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> u64 {
        self.try_publish(subject, headers, payload).expect("an acknowledgement")
    }
}
