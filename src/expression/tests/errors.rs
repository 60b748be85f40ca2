//! Errors in expressions have their location and a message, however deep the text nests.

use crate::expression::{CompileError, Expression};

#[track_caller]
fn check(text: &str, line: usize, column: usize, expected: &str) {
    let error = Expression::new(text).unwrap_err();
    assert_eq!(error, CompileError { line, column, text: expected.to_owned() }, "{text}");
}

#[test]
fn names_that_reach_out_of_an_expression_are_rejected_by_name() {
    for name in ["debug", "env", "halt", "halt_error", "input", "inputs", "stderr"] {
        let expected = format!("`{name}` is not allowed here");
        check(&format!(".a\n| {name}"), 2, 3, &expected);
    }
    for name in ["input_filename", "input_line_number", "get_search_list", "modulemeta"] {
        check(name, 1, 1, &format!("`{name}` is not allowed here"));
    }
    check("$ENV.PATH", 1, 1, "`$ENV` is not allowed here");
    check("debug(\"x\")", 1, 1, "`debug` is not allowed here");
    check("1, halt_error(1)", 1, 4, "`halt_error` is not allowed here");
    check("import \"a\" as a; a::b", 1, 1, "`import` is not allowed here");
    check("import \"a\" as $a; $a", 1, 1, "`import` is not allowed here");
    check(" include \"a\"; .", 1, 2, "`include` is not allowed here");
    check("module {}; include \"a\"; .", 1, 12, "`include` is not allowed here");
    assert!(Expression::new(".import, .include, {env: 1, debug: .halt}").is_ok());
    assert!(Expression::new("def debug: .; debug").is_ok());
}

#[test]
fn an_error_has_its_line_and_column() {
    check("", 1, 1, "it is empty");
    check(" \n ", 1, 1, "it is empty");
    check(&" ".repeat(4097).replacen(' ', ".", 1), 1, 1, "it is longer than 4 KiB");
    check(".a |", 1, 5, "expected a term, found the end");
    check(".ü, (1", 1, 2, "expected token, found `ü`");
    check("(1", 1, 3, "expected closing parenthesis, found the end");
    check("[1,\n  2}", 2, 4, "expected closing bracket, found `}`");
    check("1 2", 1, 3, "expected an operator or the end, found `2`");
    check("if . then 1", 1, 12, "expected a else or end, found the end");
    check("\"ü\" | foo", 1, 7, "there is no `foo`");
    check("map(1; 2)", 1, 1, "there is no `map` with 2 arguments");
    check(
        "$x",
        1,
        1,
        "there is no `$x`: $source, $headers, $query, $path, $params, $ip, $client, $received_at, $event",
    );
    check("a::b", 1, 1, "there is no module `a`");
    check("break $x", 1, 7, "there is no label `$x`");
    check("\"\\x\"", 1, 3, "expected string escape sequence, found `x`");
}

#[test]
fn four_kilobytes_of_any_nesting_compile_or_fail_cleanly() {
    for part in [
        "(",
        "[",
        "{a:",
        "\"\\(",
        "1+",
        ".|",
        "-",
        "try ",
        "def f:",
        "if .|",
        "reduce . as $x (",
        "label $x|",
        ". as $x|",
        ". as [",
        ")",
        "]",
        "..",
        "?",
        "\\",
        "\"",
        "é",
        "@",
        "$",
    ] {
        let text = part.repeat(4096 / part.len());
        assert!(Expression::new(&text).is_err(), "{part}");
    }
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{a:", "}"),
        ("\"\\(", ")\""),
        ("1+", ""),
        (".|", ""),
        ("-", ""),
        ("try ", ""),
        ("if .|", " then 1 end"),
        ("label $x|", ""),
        (". as $x|", ""),
    ] {
        let times = 4090 / (open.len() + close.len());
        let text = open.repeat(times) + "1" + &close.repeat(times);
        assert!(Expression::new(&text).is_ok(), "{open}");
    }
}
