//! What docs/operations.md names exists: log lines, queries.

use std::fs;
use std::path::Path;

use super::{blocks, new_database, page, repository, rows};

/// The `code` spans of a cell.
fn spans(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// All sources of the program, each string literal in one line.
fn sources(folder: &Path) -> String {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = paths.map(|path| match path.is_dir() {
        true => sources(&path),
        false => fs::read_to_string(path).unwrap(),
    });
    let text: String = texts.collect();
    let mut parts = text.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start())
}

#[test]
fn each_log_line_that_the_page_explains_is_one_of_the_programs() {
    let page = page("docs/operations.md");
    let table = page.split("| log line contains |").nth(1).unwrap();
    let table = table.split("\n\n").next().unwrap();
    let sources = sources(&repository().join("src"));
    let rows = rows(table);
    assert!(rows.len() > 10, "{rows:?}");
    for line in rows.iter().flat_map(|row| spans(row[0])) {
        assert!(sources.contains(line), "no log line has {line:?}");
    }
}

#[test]
fn each_query_of_the_page_runs() {
    let page = page("docs/operations.md");
    let (_folder, conn) = new_database();
    let rows = rows(&page);
    let queries = rows.iter().flat_map(|row| row.iter().flat_map(|cell| spans(cell)));
    let queries: Vec<&str> = queries.filter(|span| span.starts_with("select ")).collect();
    assert!(queries.len() >= 5, "{queries:?}");
    for query in queries {
        assert_eq!(conn.prepare(query).map(|_| ()), Ok(()), "{query}");
    }
}

#[test]
fn the_page_shows_the_configurations_of_proxies_that_are_tested() {
    let page = page("docs/operations.md");
    for (language, name) in
        [("nginx", "nginx.conf"), ("caddyfile", "Caddyfile"), ("haproxy", "haproxy.cfg")]
    {
        let file = fs::read_to_string(repository().join("proxies").join(name)).unwrap();
        assert_eq!(blocks(&page, language), [file], "{name}");
    }
}
