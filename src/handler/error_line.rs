//! Picks the line of a failed process's stderr that says what went wrong: the one a person would read out.
//!
//! Most programs write it last. Interpreters write a stack trace, a version or a place after it: Node.js its
//! version, PHP `thrown in … on line 5`, Ruby and Java the callers. Such lines are skipped. If only such
//! lines are left, the last line is taken as it is.

/// Maximum number of lines that are read, from the end.
const MAX_LINES: usize = 400;

/// Maximum distance between a stack trace and the first line of the message above it.
const MAX_MESSAGE_LINES: usize = 20;

/// Returns the line of stderr that describes the error, without line end. Empty if stderr has no text.
pub fn find(stderr: &[u8]) -> &[u8] {
    let lines: Vec<&[u8]> = lines_from_end(stderr).take(MAX_LINES).collect();
    let Some(last) = lines.iter().position(|line| !line.trim_ascii().is_empty()) else {
        return b"";
    };
    // A Python traceback: the error is the first line after it that is not indented.
    let traceback =
        lines.iter().position(|line| line.starts_with(b"Traceback (most recent call last"));
    if let Some(traceback) = traceback {
        let after = lines[..traceback].iter().rev();
        let mut unindented =
            after.filter(|line| line.first().is_some_and(|byte| !byte.is_ascii_whitespace()));
        return unindented.next().unwrap_or(&lines[last]).trim_ascii();
    }
    let mut index = last;
    let mut has_trace = false;
    while let Some(line) = lines.get(index) {
        if line == b"}" {
            // Node.js prints an error's properties behind its stack trace.
            let opening = lines[index..].iter().position(|line| line.ends_with(b" {"));
            match opening.filter(|&distance| is_frame(lines[index + distance])) {
                Some(distance) => index += distance,
                None => index += 1,
            }
        } else if is_frame(line) {
            has_trace = true;
            index += 1;
        } else if is_noise(line) {
            index += 1;
        } else {
            break;
        }
    }
    if has_trace && let Some(start) = find_message_start(&lines, index) {
        index = start;
    }
    lines.get(index).unwrap_or(&lines[last]).trim_ascii()
}

/// The lines of a text, the last one first. A carriage return ends a line too: progress meters use it.
fn lines_from_end(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n' || byte == b'\r').rev()
}

/// Finds the first line of the message above a stack trace, from `index` (nearest to the trace) upwards.
fn find_message_start(lines: &[&[u8]], index: usize) -> Option<usize> {
    let above = lines.iter().enumerate().skip(index).take(MAX_MESSAGE_LINES);
    above.filter(|(_, line)| names_an_error(line)).map(|(index, _)| index).next()
}

/// Returns whether the line begins a message of an uncaught error: `TypeError: …`, `x.rb:3:in 'f': …`.
fn names_an_error(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    let class = text.split([':', ' ', '[']).find(|word| !matches!(*word, "" | "Uncaught"));
    let is_class = class.is_some_and(|word| {
        let word = word.trim_end_matches(']');
        word.ends_with("Error") || word.ends_with("Exception")
    });
    let is_ruby = text.contains(":in '") || text.contains(":in `");
    let is_other = ["PHP ", "Exception in thread ", "Caused by: "]
        .iter()
        .any(|prefix| text.starts_with(prefix) && text.contains(':'));
    !text.starts_with([' ', '\t']) && (is_class || is_ruby || is_other)
}

/// Returns whether the line is a caller in a stack trace.
fn is_frame(line: &[u8]) -> bool {
    let text = line.trim_ascii_start();
    let is_indented = text.len() < line.len();
    let is_numbered =
        text.strip_prefix(b"#").and_then(<[u8]>::first).is_some_and(u8::is_ascii_digit);
    (is_indented && (text.starts_with(b"at ") || text.starts_with(b"from ")))
        || (is_indented && text.starts_with(b"... ") && text.ends_with(b" more"))
        || is_numbered
}

/// Returns whether the line says where, how or in what an error happened, but not which error it was.
fn is_noise(line: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 7] = [
        b"Node.js v",
        b"Stack trace:",
        b"thrown in ",
        b"note: run with `RUST_BACKTRACE",
        b"stack backtrace:",
        b"goroutine ",
        b"exit status ",
    ];
    let text = line.trim_ascii();
    // Markers below a source line, brackets.
    let is_marker = !text.iter().any(|byte| byte.is_ascii_alphanumeric() || *byte >= 0x80);
    // What `sh -x` writes before each command.
    let is_trace = text.starts_with(b"+ ");
    is_marker || is_trace || PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stderr: &str, expected: &str) {
        assert_eq!(String::from_utf8_lossy(find(stderr.as_bytes())), expected);
    }

    #[test]
    fn the_error_of_a_python_traceback_is_found_whatever_its_message_holds() {
        let traceback =
            "Traceback (most recent call last):\n  File \"x.py\", line 3, in <module>\n    f()\n";
        check(&format!("warning\n{traceback}KeyError: 'contact_id'\n"), "KeyError: 'contact_id'");
        check(&format!("{traceback}ValueError: one\ntwo\n\nthree\n"), "ValueError: one");
        let cause = "\nDuring handling of the above exception, another exception occurred:\n\n";
        check(
            &format!("{traceback}KeyError: 1\n{cause}{traceback}app.Failed: 2\n"),
            "app.Failed: 2",
        );
        check(
            "  File \"x.py\", line 1\n    f(\n     ^\nSyntaxError: '(' was never closed\n",
            "SyntaxError: '(' was never closed",
        );
    }

    #[test]
    fn the_error_of_node_is_found_above_its_stack_its_properties_and_its_version() {
        check(
            "/srv/x.js:3\n  throw new Error('contact 17')\n  ^\n\nError: contact 17\n    \
             at f (/srv/x.js:3:9)\n    at node:internal/main:28:49\n\nNode.js v20.20.2\n",
            "Error: contact 17",
        );
        check(
            "node:events:497\n      throw er;\n      ^\n\nError: connect ECONNREFUSED 127.0.0.1:9\n    \
             at TCPConnectWrap.afterConnect (node:net:1611:16) {\n  errno: -111,\n  code: 'ECONNREFUSED'\n\
             }\n\nNode.js v20.20.2\n",
            "Error: connect ECONNREFUSED 127.0.0.1:9",
        );
        check(
            "TypeError [ERR_X]: one\ntwo\n    at f (x.js:1:1)\n\nNode.js v22.0.0\n",
            "TypeError [ERR_X]: one",
        );
    }

    #[test]
    fn the_error_of_php_is_found_above_its_stack_and_its_place() {
        check(
            "PHP Fatal error:  Uncaught Error: Call to undefined function f() in /srv/x.php:5\n\
             Stack trace:\n#0 {main}\n  thrown in /srv/x.php on line 5\n",
            "PHP Fatal error:  Uncaught Error: Call to undefined function f() in /srv/x.php:5",
        );
        check(
            "PHP Fatal error:  Uncaught RuntimeException: one\ntwo in /srv/x.php:5\nStack trace:\n\
             #0 /srv/x.php(7): f()\n#1 {main}\n  thrown in /srv/x.php on line 5\n",
            "PHP Fatal error:  Uncaught RuntimeException: one",
        );
    }

    #[test]
    fn the_error_of_ruby_is_found_above_its_callers() {
        check(
            "x.rb:3:in `f': contact 17 (RuntimeError)\n\tfrom x.rb:7:in `<main>'\n",
            "x.rb:3:in `f': contact 17 (RuntimeError)",
        );
        check(
            "x.rb:1:in 'Integer#/': divided by 0 (ZeroDivisionError)\n\nputs 1/0\n     ^^\n\
             \tfrom x.rb:1:in '<main>'\n",
            "x.rb:1:in 'Integer#/': divided by 0 (ZeroDivisionError)",
        );
    }

    #[test]
    fn the_error_of_java_is_that_of_its_last_cause() {
        check(
            "Exception in thread \"main\" java.lang.IllegalStateException: one\n\tat X.main(X.java:3)\n\
             Caused by: java.io.IOException: two\n\tat X.f(X.java:9)\n\t... 1 more\n",
            "Caused by: java.io.IOException: two",
        );
    }

    #[test]
    fn the_error_of_a_shell_is_its_last_line_that_is_no_trace_of_a_command() {
        check(
            "./x.sh: line 3: frobnicate: command not found\n",
            "./x.sh: line 3: frobnicate: command not found",
        );
        check("+ f 17\ncontact 17 is unknown\n+ exit 1\n", "contact 17 is unknown");
    }

    #[test]
    fn the_error_of_curl_is_found_behind_its_progress_meter() {
        check(
            "  % Total    % Received\n\r  0     0    0     0\r  0     0    0     0\n\
             curl: (22) The requested URL returned error: 500\n",
            "curl: (22) The requested URL returned error: 500",
        );
    }

    #[test]
    fn the_error_of_a_rust_panic_is_its_message() {
        check(
            "thread 'main' panicked at src/main.rs:2:5:\ncontact 17\n\
             note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
            "contact 17",
        );
    }

    #[test]
    fn without_a_known_shape_it_is_the_last_line_with_text() {
        check("", "");
        check("\n \n", "");
        check("first\n  last  \n\n", "last");
        check("    at f (x.js:1:1)\n", "at f (x.js:1:1)");
        check("}\n", "}");
        check("{\n  \"error\": 1\n}\n", "\"error\": 1");
    }
}
