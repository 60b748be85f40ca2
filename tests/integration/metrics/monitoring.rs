//! The files of monitoring/ fit the metrics: checked by promtool, and run by a real Prometheus on a real server.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::scrape::{admin_port, get, scrape};
use super::{ONE_ATTEMPT, post, scraped, scraped_with_stream};
use crate::support::client::send_request;
use crate::support::server::{RunningCommand, Server, stderr, stdout, until};

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring")
}

fn promtool(args: &[&str]) -> Output {
    let output = Command::new("promtool").args(args).current_dir(monitoring()).output();
    output.expect("promtool, of the package prometheus")
}

#[track_caller]
fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}{}", stdout(output), stderr(output));
}

#[test]
fn promtool_finds_nothing_to_improve_in_a_scrape() {
    let server = scraped().handler("h", ONE_ATTEMPT, "exit 1").start();
    assert_eq!(post(&server, "1", "{}"), 202);
    server.until("select count(*) from outcomes", "1");
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of the package prometheus");
    let text = get(&server, "").body;
    check.stdin.take().expect("the stdin").write_all(text.as_bytes()).expect("a reader");
    let output = check.wait_with_output().expect("the end");
    assert_success(&output);
    assert_eq!((stdout(&output), stderr(&output)), (String::new(), String::new()));
}

#[test]
fn promtool_accepts_the_rules_and_the_configuration() {
    assert_success(&promtool(&["check", "rules", "prometheus-rules.yml"]));
    // The configuration names the file of the token, which each installation makes.
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["prometheus.yml", "prometheus-rules.yml"] {
        fs::copy(monitoring().join(name), folder.path().join(name)).expect("a copy");
    }
    fs::write(folder.path().join("hooktrail.token"), "token").expect("a file");
    let config = folder.path().join("prometheus.yml").display().to_string();
    assert_success(&promtool(&["check", "config", &config]));
}

#[test]
fn each_alert_fires_as_its_example_says() {
    assert_success(&promtool(&["test", "rules", "prometheus-rules-test.yml"]));
    let read = |name: &str| fs::read_to_string(monitoring().join(name)).unwrap();
    let (rules, examples) = (read("prometheus-rules.yml"), read("prometheus-rules-test.yml"));
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        let examples: Vec<&str> = examples
            .split(&format!("alertname: {alert}\n"))
            .skip(1)
            .map(|rest| rest.lines().next().unwrap())
            .collect();
        let has = |text: &str| examples.iter().any(|example| example.trim() == text);
        assert!(
            has("exp_alerts:") && has("exp_alerts: []"),
            "{alert} needs an example of each kind"
        );
    }
}

fn dashboard() -> Value {
    let text = fs::read_to_string(monitoring().join("grafana-dashboard.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// All values of a key, in any depth.
fn values_of<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get(key));
            object.values().for_each(|value| values_of(value, key, found));
        }
        Value::Array(array) => array.iter().for_each(|value| values_of(value, key, found)),
        _ => {}
    }
}

/// The queries of the dashboard, with values in the place of Grafana's variables.
fn dashboard_queries() -> Vec<String> {
    let dashboard = dashboard();
    let mut queries = Vec::new();
    values_of(&dashboard, "expr", &mut queries);
    let fill = |query: &&Value| {
        let query = query.as_str().expect("a query").replace("$__rate_interval", "1m");
        let query = query.replace("$instance", ".*").replace("$job", "hooktrail");
        // The server of the test does not restart, so there are no restarts to mark.
        match query.starts_with("changes(") {
            true => query.trim_end_matches(" > 0").to_owned(),
            false => query,
        }
    };
    let queries: Vec<String> = queries.iter().map(fill).collect();
    assert!(queries.len() > 40, "{queries:?}");
    queries
}

/// The metrics that a query names.
fn metrics_of(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("hooktrail_") || word.starts_with("process_"))
}

#[test]
fn each_metric_that_the_dashboard_and_the_rules_name_is_in_a_scrape_and_each_is_used() {
    let server = scraped_with_stream().handler("h", "", "true").start();
    let scrape = scrape(&server);
    let rules = fs::read_to_string(monitoring().join("prometheus-rules.yml")).unwrap();
    let queries = dashboard_queries().join("\n");
    let named: BTreeSet<&str> = metrics_of(&queries).chain(metrics_of(&rules)).collect();
    let unknown: Vec<&&str> = named.iter().filter(|name| !scrape.names().contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let is_used = |metric: &str| {
        ["", "_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| named.contains(&*format!("{metric}{suffix}")))
    };
    let unused: Vec<&str> = scrape.types().into_keys().filter(|name| !is_used(name)).collect();
    assert!(unused.is_empty(), "no panel and no alert has {unused:?}");
}

#[test]
fn each_panel_uses_the_data_source_of_the_variable_and_has_its_own_place() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut cells = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        let [x, y, width, height] =
            ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a number"));
        assert!(x + width <= 24, "{title}");
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{title} covers another panel");
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            let targets = panel["targets"].as_array().expect("queries");
            assert!(
                targets.iter().all(|target| target["datasource"]["uid"] == "${datasource}"),
                "{title}"
            );
            assert!(
                panel["description"].as_str().is_some_and(|text| text.ends_with('.')),
                "{title}"
            );
        }
    }
    let rows: Vec<&str> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|panel| panel["title"].as_str().unwrap())
        .collect();
    assert_eq!(rows, ["Overview", "Intake", "Queue", "Handlers", "Storage"]);
}

/// A Prometheus that scrapes a server several times per second, and evaluates the alerts.
struct Prometheus {
    _process: RunningCommand,
    port: u16,
}

impl Prometheus {
    fn start(server: &Server) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("a local address").port();
        drop(free);
        let shipped = fs::read_to_string(monitoring().join("prometheus.yml")).unwrap();
        let target = format!("127.0.0.1:{}", admin_port(server));
        let rules = monitoring().join("prometheus-rules.yml").display().to_string();
        let changes = [
            ("scrape_interval: 15s", "scrape_interval: 250ms\n  evaluation_interval: 250ms"),
            ("127.0.0.1:8081", target.as_str()),
            ("prometheus-rules.yml", rules.as_str()),
        ];
        let config = changes.iter().fold(shipped, |text, (shipped, own)| {
            assert!(text.contains(shipped), "{shipped}: {text}");
            text.replace(shipped, own)
        });
        server.write_file("prometheus.yml", &config);
        let token = fs::read_to_string(server.path().join("admin.token")).expect("the token");
        server.write_file("hooktrail.token", token.trim());
        let log = fs::File::create(server.path().join("prometheus.log")).expect("a file");
        let mut command = Command::new("prometheus");
        command
            .current_dir(server.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=prometheus-data"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log);
        let process = command.spawn().expect("prometheus, of the package of that name");
        let prometheus = Self { _process: RunningCommand(process), port };
        until("prometheus is ready", || {
            let ready = send_request(port, "GET", "/-/ready", "", b"");
            ready.is_some_and(|response| response.status == 200)
        });
        prometheus
    }

    fn get(&self, path: &str) -> Option<Value> {
        let response = send_request(self.port, "GET", path, "", b"")?;
        let body = match response.header("transfer-encoding") {
            Some("chunked") => join_chunks(&response.body),
            _ => response.body,
        };
        serde_json::from_str(&body).ok()
    }

    /// The series that a query gives now.
    fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let response = self.get(&format!("/api/v1/query?query={encoded}")).expect("JSON");
        assert_eq!(response["status"], "success", "{query}: {response}");
        response["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

/// The body of a chunked response.
fn join_chunks(body: &str) -> String {
    let (mut joined, mut rest) = (String::new(), body);
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        if length == 0 {
            break;
        }
        joined.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    joined
}

#[test]
fn a_prometheus_gets_a_result_for_each_query_of_the_dashboard_and_can_evaluate_each_alert() {
    let breaker =
        "breaker = { threshold = 1, cooldown = \"10m\" }\nretry = { initial_delay = \"1ms\" }";
    let server = scraped()
        .handler("works", "", "true")
        .handler("fails", breaker, "exit 1")
        .handler("rests", "paused = true", "true")
        .start();
    let prometheus = Prometheus::start(&server);
    let mut missing = dashboard_queries();
    let mut requests = 0;
    until("each query has a result", || {
        requests += 1;
        assert_eq!(post(&server, &requests.to_string(), "{}"), 202);
        assert_eq!(post(&server, "1", "no JSON"), 400);
        missing.retain(|query| prometheus.query(query).is_empty());
        missing.is_empty()
    });
    let firing = r#"ALERTS{alertname="HooktrailCircuitBreakerOpen", handler="fails"}"#;
    until("an alert waits for its time", || !prometheus.query(firing).is_empty());
    let mut states = Vec::new();
    until("each rule was evaluated", || {
        let Some(response) = prometheus.get("/api/v1/rules") else { return false };
        let mut healths = Vec::new();
        values_of(&response, "health", &mut healths);
        states = healths.iter().map(|health| health.as_str().unwrap().to_owned()).collect();
        states.len() > 10 && states.iter().all(|state| state == "ok")
    });
    assert_eq!(prometheus.query(r#"up{job="hooktrail"}"#)[0]["value"][1], "1");
}
