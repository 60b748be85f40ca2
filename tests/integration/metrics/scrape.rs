//! Scrapes a server and parses the text format of Prometheus.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::client::{Response, send_request};
use crate::support::server::{Server, until};

/// The port of the admin listener. Its line of the log follows that of the other listener, for which `start` waits.
pub fn admin_port(server: &Server) -> u16 {
    let mut found = None;
    until("the log has the admin listener", || {
        let log = server.log();
        let line = log.lines().find_map(|line| line.split_once("the console is at http://"));
        let address = line.and_then(|(_, rest)| rest.split(' ').next());
        found = address.and_then(|address| address.rsplit_once(':')?.1.parse().ok());
        found.is_some()
    });
    found.expect("a port")
}

/// The header with the token of the server.
pub fn authorization(server: &Server) -> String {
    let token = std::fs::read_to_string(server.path().join("admin.token")).expect("the token");
    format!("Authorization: Bearer {}\r\n", token.trim())
}

/// Requests `/metrics` with these headers and the token.
pub fn get(server: &Server, headers: &str) -> Response {
    let headers = &format!("{}{headers}", authorization(server));
    send_request(admin_port(server), "GET", "/metrics", headers, b"").expect("a response")
}

/// The samples of a scrape.
pub struct Scrape {
    pub text: String,
    samples: BTreeMap<String, f64>,
}

pub fn scrape(server: &Server) -> Scrape {
    let response = get(server, "");
    assert_eq!(response.status, 200, "{}", response.body);
    let lines = response.body.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        (sample.to_owned(), value.parse().expect("a number"))
    });
    Scrape { samples: samples.collect(), text: response.body }
}

impl Scrape {
    /// The value of a sample, with its labels in the order of the text.
    pub fn value(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).copied()
    }

    /// The names of all samples.
    pub fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|sample| sample.split('{').next().unwrap()).collect()
    }

    /// The name and the type of each metric.
    pub fn types(&self) -> BTreeMap<&str, &str> {
        let types = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(|line| line.split_once(' ').expect("a type")).collect()
    }

    /// The labels of a metric's samples, but for that of the buckets.
    pub fn label_names(&self, metric: &str) -> BTreeSet<&str> {
        let suffixes = ["", "_bucket", "_count", "_sum"].map(|suffix| format!("{metric}{suffix}"));
        let samples = self.samples.keys().filter(|sample| {
            suffixes.iter().any(|name| sample.split('{').next() == Some(name.as_str()))
        });
        samples
            .flat_map(|sample| labels(sample))
            .map(|(name, _)| name)
            .filter(|name| *name != "le")
            .collect()
    }

    /// The values of a label in all samples.
    pub fn label_values(&self, label: &str) -> Vec<&str> {
        let labels = self.samples.keys().flat_map(|sample| labels(sample));
        let values: BTreeSet<&str> =
            labels.filter(|(name, _)| *name == label).map(|(_, value)| value).collect();
        values.into_iter().collect()
    }
}

/// The labels of a sample. No value of the tests has a quote or a comma.
fn labels(sample: &str) -> Vec<(&str, &str)> {
    let Some((_, labels)) = sample.trim_end_matches('}').split_once('{') else { return Vec::new() };
    let label = |label| {
        let (name, value): (&str, &str) = str::split_once(label, "=\"").expect("a label");
        (name, value.trim_end_matches('"'))
    };
    labels.split(',').map(label).collect()
}
