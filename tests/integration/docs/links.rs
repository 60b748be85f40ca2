//! Links between pages lead to a file that exists, and to a heading of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{documentation_pages, page, repository};

#[test]
fn links_between_pages_lead_to_a_file_and_a_heading_that_exist() {
    let mut broken = Vec::new();
    let pages: Vec<String> = [".", "docs", "benches", "examples", "monitoring"]
        .into_iter()
        .flat_map(pages_under)
        .collect();
    assert!(pages.len() > 15, "{pages:?}");
    for name in pages {
        let text = page(&name);
        for (number, line) in prose_lines(&text) {
            for target in link_targets(line) {
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let folder = Path::new(&name).parent().unwrap();
                let path = match file {
                    "" => repository().join(&name),
                    file => repository().join(folder).join(file),
                };
                if !path.exists() {
                    broken.push(format!("{name}:{number}: {target}: no such file"));
                } else if !anchor.is_empty()
                    && !anchors(&fs::read_to_string(&path).unwrap()).contains(anchor)
                {
                    broken.push(format!("{name}:{number}: {target}: no such heading"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_pictures_of_pages_are_small() {
    const MAX_BYTES: u64 = 150 << 10;
    let folder = repository().join("docs/images");
    let shown: String = documentation_pages().iter().map(|name| page(name)).collect();
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        assert!(shown.contains(&format!("images/{name})")), "no page shows {name}");
        let size = entry.metadata().unwrap().len();
        assert!(
            size <= MAX_BYTES,
            "{name}: {size} bytes: HOOKTRAIL_UPDATE_DOCS=1 tests/run pictures"
        );
        count += 1;
    }
    assert!(count >= 5, "{count} pictures");
}

/// The pages of a folder, and for all but the top those of its folders.
fn pages_under(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(repository().join(folder)) else { return Vec::new() };
    let mut pages = Vec::new();
    for entry in entries.map(Result::unwrap) {
        let name = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if name.ends_with(".md") {
            pages.push(name.trim_start_matches("./").to_owned());
        } else if folder != "." && entry.path().is_dir() {
            pages.extend(pages_under(&name));
        }
    }
    pages
}

/// The lines outside fenced code blocks, with their numbers.
pub fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((index + 1, line))
    })
}

/// The targets of a line's links, except for those that lead out of the repository.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

/// The anchors of a page: its headings as GitHub turns them into anchors, and `<a id="…">`.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose_lines(text).filter(|(_, line)| line.starts_with('#'));
    let mut anchors: BTreeSet<String> = headings.map(|(_, line)| anchor_of(line)).collect();
    let written = text.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
    anchors.extend(written.map(str::to_owned));
    anchors
}

fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let text = text.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    text.collect::<String>().replace(' ', "-")
}
