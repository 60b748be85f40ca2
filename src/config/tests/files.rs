//! Tests of which files are read, and how they are merged.

use std::fs;

use super::super::{find, load, restart_required};
use super::{Folder, config};

#[test]
fn included_files_add_tables_in_the_order_of_their_names() {
    let folder = Folder::new("include = ['conf.d/*.toml', 'extra.toml']\n[sources.z]\n")
        .write("conf.d/b.toml", "[sources.b]\n")
        .write("conf.d/a.toml", "[sources.c]\n[sources.a]\n")
        .write("conf.d/.hidden.toml", "nonsense")
        .write("conf.d/old.toml~", "nonsense")
        .write("conf.d/sub.toml/x", "nonsense")
        .write("extra.toml", "[workers]\nthreads = 3\n[store]\npath = 'x.db'\n");
    let config = folder.load().config;
    let names: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["z", "c", "a", "b"]);
    assert_eq!(config.workers.threads, 3);
    assert_eq!(config.store.path, folder.path().join("x.db"));
}

#[test]
fn a_table_in_two_files_is_an_error() {
    let folder = Folder::new("include = ['b.toml']\n[server]\n[sources.a]\n[handlers.h]\n")
        .write("b.toml", "[sources.a]\n\n[server]\nlisten = 3\n[sources.b]\n")
        .write("c.toml", "");
    let found = folder.errors();
    assert!(found.iter().any(|error| error
        == "b.toml:1: sources.a is in two files: config.toml:3 has it too: expected in one"));
    assert!(found.iter().any(|error| error
        == "b.toml:3: server is in two files: config.toml:2 has it too: expected in one"));
}

#[test]
fn errors_of_all_files_are_reported_together_with_the_main_file_first() {
    let folder = Folder::new("include = ['*.toml']\n[workers]\nthreads = 0\n[sources.a]\n")
        .write("a.toml", "[sources.b]\npath = '/hooks/a'\n")
        .write("b.toml", "\nthreads = 1\ninclude = []\n")
        .write("c.toml", b"[store]\n# \xff\n");
    let found = folder.errors();
    assert_eq!(
        found,
        [
            "config.toml:3: workers.threads is 0: expected a whole number from 1 to 1024",
            "a.toml:2: sources.b.path is \"/hooks/a\": sources.a has it already (config.toml:4): \
             expected another path",
            "b.toml:2: threads is unknown: expected include, server, admin, store, workers, \
             sources or handlers",
            "b.toml:3: include is in an included file: expected only in config.toml",
            "c.toml:2: is not UTF-8: save it as UTF-8",
        ]
    );
}

#[test]
fn only_a_star_and_a_question_mark_are_special_in_an_include() {
    let folder = Folder::new("include = ['[ab]?**.toml']\n[sources.z]\n")
        .write("a1.toml", "[sources.a]\n")
        .write("[ab]1.toml", "[sources.b]\n")
        .write("[ab].toml", "[sources.c]\n");
    let sources = folder.load().config.sources;
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["z", "b"]);
}

#[test]
fn an_include_that_matches_nothing_is_an_error_only_if_it_names_a_file() {
    let cases: [(&str, &[&str]); 6] = [
        ("['none.d/*.toml']", &[]),
        ("['x?.toml']", &[]),
        ("['missing.toml']", &["config.toml:1: include names \"missing.toml\": no such file"]),
        (
            "['*/a.toml']",
            &["config.toml:1: include is \"*/a.toml\": expected a file, with * and ? only in its \
               name, such as \"conf.d/*.toml\""],
        ),
        (
            "'a.toml'",
            &["config.toml:1: include is \"a.toml\": expected a list such as [\"conf.d/*.toml\"]"],
        ),
        ("['config.toml']", &[]),
    ];
    for (include, errors) in cases {
        let folder = Folder::new(&format!("include = {include}"));
        assert_eq!(folder.errors(), errors, "{include}");
    }
}

#[test]
fn a_file_that_can_not_be_read_is_an_error() {
    let folder = Folder::new("");
    let missing = load(&folder.path().join("none.toml")).unwrap_err().to_string();
    assert!(missing.ends_with("none.toml: can't be read: No such file or directory (os error 2)"));
    let huge = folder.write("config.toml", vec![b'#'; (4 << 20) + 1]);
    let found = huge.errors();
    assert_eq!(found, ["config.toml: is larger than 4 MiB: expected a configuration"]);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_valid() {
    let text = "\u{feff}[workers]\r\nthreads = 3\r\n";
    assert_eq!(config(text).workers.threads, 3);
}

#[test]
fn the_flag_takes_precedence_over_the_usual_paths() {
    assert_eq!(find(Some("x/y.toml".into())), Ok("x/y.toml".into()));
    // Tests run in the repository, whose config.toml is the shipped one.
    assert!(fs::exists("config.toml").unwrap());
    assert_eq!(find(None), Ok("config.toml".into()));
}

#[test]
fn a_reload_rejects_by_name_keys_that_need_a_restart() {
    let folder = Folder::new("");
    let read = |text: &str| {
        fs::write(folder.file(), text).unwrap();
        folder.load().config
    };
    let old = read("");
    for (text, refused) in [
        (
            "[sources.a]\n[workers]\nshutdown_timeout = '1s'\n[server]\nmax_body_size = 9\nkeep_alive = '9s'",
            None,
        ),
        ("[store]\npath = 'x.db'", Some("store.path")),
        ("[store]\ndurability = 'normal'", Some("store.durability")),
        ("[store]\nmin_free_space = 1", Some("store.min_free_space")),
        ("[workers]\nthreads = 1", Some("workers.threads")),
        ("[server]\nmax_connections = 9\nlisten = ['127.0.0.1:9999']\n[admin]\nlisten = []", None),
    ] {
        let found = restart_required(&old, &read(text));
        let refused =
            refused.map(|key| format!("{key} has changed: a reload can't change it: restart"));
        assert_eq!(found, refused.into_iter().collect::<Vec<_>>());
    }
}
