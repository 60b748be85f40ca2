//! Tests of the shipped configuration: it has no errors or warnings, and only documented
//! differences from the defaults.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::*;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_shipped_configuration_has_no_errors_and_no_warnings() {
    let loaded = load(&top().join("config.toml")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn the_shipped_configuration_is_the_defaults_but_for_what_it_says() {
    let shipped = load(&top().join("config.toml")).unwrap().config;
    let plain = super::Folder::new(
        "[sources.paminga]\n[handlers.show-form]\nsources = ['paminga']\ncommand = ['true']\n\
         [handlers.show-contact]\nsources = ['paminga']\ncommand = ['true']",
    );
    let mut plain = plain.load().config;
    plain.file = top().join("config.toml");
    plain.store.path = top().join("data/hooktrail.db");
    for handler in &mut plain.handlers {
        let program = top().join("handlers").join(&handler.name);
        handler.kind = HandlerKind::Command(CommandTarget {
            args: vec![program.to_str().unwrap().to_owned()],
            directory: top().to_owned(),
            env: Vec::new(),
            mode: Mode::Each,
        });
    }
    let split = |config: &Config| config.handlers[1].split.clone();
    assert!(split(&shipped).is_some_and(|split| split.text().contains("contact_id")));
    plain.handlers[1].split = split(&shipped);
    assert_eq!(shipped, plain);
}

#[test]
fn uncommenting_the_verify_line_turns_the_signature_on() {
    let folder = super::Folder::new(
        &EMBEDDED.replace("verify = { scheme = \"none\" }", "").replace("# verify =", "verify ="),
    );
    let verify = folder.load().config.sources.remove(0).verify;
    assert_eq!(verify.scheme.name(), "paminga");
    assert_eq!(verify.secret, [SecretRef::File(folder.path().join("secrets/paminga"))]);
}

#[test]
fn uncommenting_the_example_gives_a_valid_handler() {
    let (start, example) = EMBEDDED.split_once("# [handlers.crm]").unwrap();
    let example = example.replace("\n# ", "\n");
    let folder = super::Folder::new(&format!("{start}[handlers.crm]{example}"));
    assert_eq!(folder.load().config.handlers.last().unwrap().name, "crm");
}

#[test]
fn the_alerts_are_turned_on_by_uncommenting_their_lines() {
    let (start, rest) = EMBEDDED.split_once("# [handlers.alert]").unwrap();
    let (alert, _) = rest.split_once("\n\n").unwrap();
    let alert = alert.replace("\n# ", "\n");
    let config = super::Folder::new(&format!("{start}[handlers.alert]{alert}")).load().config;
    let handler = config.handlers.last().unwrap();
    assert_eq!((handler.name.as_str(), &handler.sources[..]), ("alert", &["hooktrail".into()][..]));
    let program = &handler.command().unwrap().args[0];
    assert!(EMBEDDED_HANDLERS.iter().any(|(name, _)| program.ends_with(name)));
}

#[test]
fn every_program_of_the_shipped_configuration_is_embedded_and_executable() {
    let shipped = load(&top().join("config.toml")).unwrap().config;
    for handler in shipped.handlers {
        let path = Path::new(&handler.command().unwrap().args[0]);
        let name = path.strip_prefix(top()).unwrap().to_str().unwrap();
        let embedded = EMBEDDED_HANDLERS.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), embedded.1);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o111, 0o111);
    }
}
