//! docs/database.md, docs/job-lifecycle.md and the tables of `verify`: they name all that the program has,
//! and nothing else.

use std::collections::BTreeSet;

use hooktrail::internals::domain::Outcome;
use hooktrail::internals::domain::PublicState;
use hooktrail::internals::verify::Scheme;

use super::{code, code_spans, keys_of_verify, new_database, page, rows};

/// The part of a page between a heading and the next heading of the same level or a higher one.
fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let start = page.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let rest = &page[start + 1 + heading.len()..];
    let level = heading.split(' ').next().unwrap().len();
    let ends = (1..=level).filter_map(|level| rest.find(&format!("\n{} ", "#".repeat(level))));
    &rest[..ends.min().unwrap_or(rest.len())]
}

/// The code spans of the first cell of each row.
fn first_cells(section: &str) -> Vec<&str> {
    rows(section).into_iter().flat_map(|row| code_spans(row[0]).collect::<Vec<_>>()).collect()
}

#[test]
fn every_view_has_its_section_with_its_columns_in_their_order() {
    let (_folder, conn) = new_database();
    let page = page("docs/database.md");
    let mut select = conn.prepare("select name from sqlite_master where type = 'view'").unwrap();
    let views = select.query_map([], |row| row.get(0)).unwrap();
    let views: BTreeSet<String> = views.map(Result::unwrap).collect();
    for view in &views {
        let select = conn.prepare(&format!("select * from {view}")).unwrap();
        let columns = first_cells(section(&page, &format!("### {view}")));
        assert_eq!(select.column_names(), columns, "docs/database.md: view {view}");
    }
    let listed = section(&page, "## Views");
    let listed = rows(listed.split("\n###").next().unwrap()).into_iter();
    let listed: BTreeSet<String> =
        listed.flat_map(|row| code_spans(row[0]).map(str::to_owned).collect::<Vec<_>>()).collect();
    assert_eq!(listed, views, "docs/database.md: list of views");
}

#[test]
fn table_columns_that_are_stable_exist() {
    let (_folder, conn) = new_database();
    let page = page("docs/database.md");
    let columns = first_cells(section(&page, "## Table columns"));
    assert_eq!(columns.len(), 4, "{columns:?}");
    for column in columns {
        let (table, column) = column.split_once('.').unwrap();
        let ran = conn.prepare(&format!("select {column} from {table}")).map(|_| ());
        assert_eq!(ran, Ok(()), "{table}.{column}");
    }
}

#[test]
fn the_state_diagram_names_the_states_of_a_job_and_no_others() {
    let page = page("docs/job-lifecycle.md");
    let diagram = page.split("```mermaid\nstateDiagram-v2\n").nth(1).expect("a state diagram");
    let transitions = diagram.split("```").next().unwrap().lines().map(|line| {
        let states = line.split(": ").next().unwrap();
        states.split_once(" --> ").unwrap_or_else(|| panic!("{line}"))
    });
    let drawn: BTreeSet<&str> =
        transitions.flat_map(|(from, to)| [from.trim(), to.trim()]).collect();
    let states = PublicState::ALL.map(PublicState::name);
    let expected: BTreeSet<&str> = states.into_iter().chain(["[*]"]).collect();
    assert_eq!(drawn, expected);
    assert_eq!(first_cells(section(&page, "## States")), states, "table of states");
}

#[test]
fn the_table_of_transitions_has_the_arrows_of_the_state_diagram() {
    let page = page("docs/job-lifecycle.md");
    let diagram = page.split("stateDiagram-v2\n").nth(1).unwrap().split("```").next().unwrap();
    let arrows = diagram.lines().filter_map(|line| {
        let (from, to) = line.split(": ").next()?.split_once(" --> ")?;
        (to.trim() != "[*]").then(|| (from.trim().replace("[*]", "–"), to.trim().to_owned()))
    });
    let arrows: BTreeSet<(String, String)> = arrows.collect();
    let table = section(&page, "## Transitions");
    let listed = rows(table).into_iter().filter(|row| code(row[1]).is_some_and(is_state));
    let listed: BTreeSet<(String, String)> =
        listed.map(|row| (row[0].replace('`', ""), row[1].replace('`', ""))).collect();
    assert_eq!(listed, arrows);
}

#[test]
fn the_diagram_of_the_stored_states_is_that_of_the_code() {
    let page = page("docs/job-lifecycle.md");
    let shown = section(&page, "## Stored states").split("```text\n").nth(1).unwrap();
    let code = std::fs::read_to_string("src/domain/job.rs").unwrap();
    let written = code.split("/// ```text\n").nth(1).unwrap().split("/// ```").next().unwrap();
    let written =
        written.lines().map(|line| line.trim_start_matches("///").trim_start_matches(' '));
    let shown = shown.split("```").next().unwrap().lines().map(str::trim_start);
    let normalise = |text: &str| text.trim_start().to_lowercase();
    assert_eq!(
        shown.map(normalise).collect::<Vec<_>>(),
        written.map(normalise).collect::<Vec<_>>()
    );
}

fn is_state(name: &str) -> bool {
    PublicState::ALL.into_iter().any(|state| state.name() == name)
}

#[test]
fn the_table_of_outcomes_names_each_outcome() {
    let page = page("docs/job-lifecycle.md");
    let outcomes = Outcome::ALL.map(Outcome::name);
    assert_eq!(first_cells(section(&page, "## Outcomes")), outcomes);
}

#[test]
fn the_tables_of_verify_name_each_scheme_and_each_key() {
    let page = page("docs/configuration.md");
    let [schemes, hmac] = ["### `verify`", "### `hmac`"].map(|it| first_cells(section(&page, it)));
    let listed = schemes.iter().chain(&hmac).map(|&cell| cell.to_owned());
    let names = keys_of_verify().into_iter().chain(Scheme::names().map(str::to_owned));
    assert_eq!(listed.collect::<BTreeSet<String>>(), names.collect());
}
