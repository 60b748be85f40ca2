//! Tests of `redact`: what it may name, and that it leaves the keys of duplicates.

use super::check;

fn source(keys: &str) -> String {
    format!("[sources.a]\n{keys}\n")
}

const PATH: &str = r#"expected a path such as ".card.number", ".items[].card", ".cards[0]", ".a[\"b c\"]" or "..|.card?""#;
const COLLISION: &str = "all events would be duplicates of the first: expected other values to redact, or another dedupe";

#[test]
fn an_invalid_redact_is_an_error_with_what_is_allowed() {
    let table = r#"expected a table such as { headers = ["X-Card"], paths = [".card.number"] }"#;
    for (keys, error) in [
        ("redact = true", format!("is true: {table}")),
        ("redact = [\"x\"]", format!("is a list: {table}")),
        ("redact = {}", format!("has neither headers nor paths: {table}")),
        (
            "redact = { paths = \".a\" }",
            ".paths is \".a\": expected a list of paths such as [\".card.number\"]".to_owned(),
        ),
        (
            "redact = { headers = [\"x y\"] }",
            ".headers is \"x y\": expected a header's name such as \"X-Signature\"".to_owned(),
        ),
        (
            "redact = { headers = [\"Content-Type\"] }",
            ".headers is \"Content-Type\": the body is read by this header: expected another"
                .to_owned(),
        ),
        ("redact = { paths = [\"card\"] }", format!(".paths is \"card\": {PATH}")),
        ("redact = { paths = [\".\"] }", format!(".paths is \".\": {PATH}")),
        ("redact = { paths = [\".a | length\"] }", format!(".paths is \".a | length\": {PATH}")),
        (
            "redact = { paths = [\".a\", 3] }",
            ".paths is 3: expected a list of paths such as [\".card.number\"]".to_owned(),
        ),
        ("redact = { path = [\".a\"] }", "PATH is unknown".to_owned()),
    ] {
        if error == "PATH is unknown" {
            let neither = format!("2: sources.a.redact has neither headers nor paths: {table}");
            check(
                &source(keys),
                &[&neither, "2: sources.a.redact.path is unknown: did you mean paths?"],
            );
            continue;
        }
        let separator = if error.starts_with('.') { "" } else { " " };
        check(&source(keys), &[&format!("2: sources.a.redact{separator}{error}")]);
    }
    let paths: Vec<String> = (0..101).map(|number| format!("\".a{number}\"")).collect();
    check(
        &source(&format!("redact = {{ paths = [{}] }}", paths.join(", "))),
        &["2: sources.a.redact.paths has 101 paths: expected at most 100"],
    );
}

#[test]
fn a_redacted_key_of_dedupe_is_an_error() {
    for (redact, dedupe, error) in [
        (
            "headers = [\"X-Id\"]",
            "header = \"x-id\"",
            "names the header \"x-id\", by which dedupe recognises",
        ),
        (
            "headers = [\"X-Id\"]",
            "jq = '$headers[\"x-id\"]'",
            "names the header \"x-id\", which dedupe reads",
        ),
        ("paths = [\".id\"]", "jq = '.id'", "has the path \".id\", which dedupe reads"),
        (
            "paths = [\".x\", \".a[]\"]",
            "jq = ' .a[0].id'",
            "has the path \".a[]\", which dedupe reads",
        ),
        ("paths = [\".a.b\"]", "jq = '.a'", "has the path \".a.b\", which dedupe reads"),
        ("paths = [\"..|.id\"]", "jq = '.a.id'", "has the path \"..|.id\", which dedupe reads"),
    ] {
        let keys = format!("redact = {{ {redact} }}\ndedupe = {{ {dedupe} }}");
        check(&source(&keys), &[&format!("2: sources.a.redact {error}: {COLLISION}")]);
    }
    for (redact, dedupe) in [
        ("headers = [\"X-Card\"]", "header = \"x-id\""),
        ("headers = [\"X-Card\"]", "jq = '$headers[\"x-id\"]'"),
        ("paths = [\".card\"]", "jq = '.id'"),
        ("paths = [\"..|.card?\"]", "jq = '.id'"),
        ("paths = [\".card\"]", "body = true"),
        // The server decides this for each event.
        ("paths = [\".card\"]", "jq = '[.id, .card]'"),
    ] {
        check(&source(&format!("redact = {{ {redact} }}\ndedupe = {{ {dedupe} }}")), &[]);
    }
}

#[test]
fn a_redacted_delivery_key_of_the_sender_is_an_error_unless_it_is_not_used() {
    let header = |name: &str, scheme: &str| {
        format!(
            "names the header \"{name}\": it has the key by which {scheme} marks a delivery: expected another"
        )
    };
    let path = |scheme: &str| {
        format!("has a path to the key by which {scheme} marks a delivery: expected other paths")
    };
    for (scheme, redact, error) in [
        ("github", "headers = [\"X-GitHub-Delivery\"]", header("x-github-delivery", "github")),
        ("standard", "headers = [\"webhook-id\"]", header("webhook-id", "standard")),
        ("stripe", "paths = [\".id\"]", path("stripe")),
        ("slack", "paths = [\".event_id\"]", path("slack")),
        ("paminga", "paths = [\".form_completion_id\"]", path("paminga")),
        ("trello", "paths = [\".action\"]", path("trello")),
        ("discord", "paths = [\"..|.id\"]", path("discord")),
    ] {
        let keys = |dedupe: &str| {
            source(&format!(
                "redact = {{ {redact} }}\nverify = {{ scheme = \"{scheme}\", secret = {{ env = \"X\" }} }}\n{dedupe}"
            ))
        };
        check(&keys(""), &[&format!("2: sources.a.redact {error}")]);
        check(&keys("dedupe = false"), &[]);
    }
    for (scheme, redact) in [
        ("github", "headers = [\"x-card\"], paths = [\".id\", \".zen\"]"),
        ("stripe", "paths = [\".data.object.card\"]"),
        ("paminga", "paths = [\".submission_values.email_address\"]"),
        ("linear", "paths = [\".data.id\"]"),
        ("sendgrid", "paths = [\".[].email\"]"),
        ("mandrill", "paths = [\".x\"]"),
    ] {
        check(
            &source(&format!(
                "redact = {{ {redact} }}\nverify = {{ scheme = \"{scheme}\", secret = {{ env = \"X\" }} }}"
            )),
            &[],
        );
    }
}
