//! The table of docs/operations.md has all metrics.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::scrape::scrape;
use super::{scraped, scraped_with_stream};

#[test]
fn the_table_of_metrics_has_each_metric_with_its_type_and_labels() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = fs::read_to_string(path).unwrap();
    let section = page.split("\n## Metrics\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let starts = ["| `hooktrail_", "| `process_"];
    let rows = section.lines().filter(|line| starts.iter().any(|start| line.starts_with(start)));
    let documented: BTreeMap<String, (String, String)> = rows
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let code = |cell: &str| cell.replace('`', "");
            (code(cells[0]), (cells[1].to_owned(), code(cells[2])))
        })
        .collect();
    let server = scraped_with_stream().handler("h", "", "true").start();
    let scrape = scrape(&server);
    let exported: BTreeMap<String, (String, String)> = scrape
        .types()
        .into_iter()
        .map(|(name, kind)| {
            let labels: Vec<&str> = scrape.label_names(name).into_iter().collect();
            (name.to_owned(), (kind.to_owned(), labels.join(", ")))
        })
        .collect();
    assert_eq!(documented, exported);
}

#[test]
fn the_page_has_each_reason_and_each_result() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = fs::read_to_string(path).unwrap();
    let section = page.split("\n## Metrics\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let server = scraped().handler("h", "", "true").start();
    let scrape = scrape(&server);
    for label in ["reason", "result", "outcome", "state", "priority", "listener"] {
        let values = scrape.label_values(label);
        assert!(values.len() > 1, "{label}: {values:?}");
        for value in values {
            assert!(
                section.contains(&format!("`{value}`")),
                "{label}=\"{value}\" is not on the page"
            );
        }
    }
}
