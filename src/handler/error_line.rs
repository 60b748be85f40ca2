//! Picks the line of a failed process's stderr that says what went wrong: the one a person would read out.
//!
//! Most programs write it last. Interpreters write a stack trace, a version or a place after it: Node.js its
//! version, PHP `thrown in … on line 5`, Ruby and Java the callers. Such lines are skipped, and so are progress
//! meters. If only such lines are left, the last line is taken as it is. Of an error with a cause, it is the
//! one that the program prints last, and for Node.js and PHP the innermost cause.

use memchr::memmem;

/// Maximum number of lines that are read, from the end.
const MAX_LINES: usize = 400;

/// Maximum distance between a stack trace and the first line of the message above it.
const MAX_MESSAGE_LINES: usize = 20;

/// Returns the line of stderr that describes the error, without line end. Empty if stderr has no text.
pub fn find(stderr: &[u8]) -> &[u8] {
    let has_text = |line: &&[u8]| !line.trim_ascii().is_empty();
    let mut lines: Vec<&[u8]> = lines_from_end(stderr, is_progress).take(MAX_LINES).collect();
    if !lines.iter().any(has_text) {
        lines = lines_from_end(stderr, |_| false).take(MAX_LINES).collect();
    }
    let Some(last) = lines.iter().position(has_text) else { return b"" };
    if let Some(error) = find_python_error(&lines).or_else(|| find_go_panic(&lines)) {
        return error.trim_ascii();
    }
    let mut index = skip_rust_backtrace(&lines).unwrap_or(last);
    let (mut has_trace, mut is_group) = (false, false);
    while let Some(line) = lines.get(index) {
        if line == b"}" {
            let block = object_above(&lines[index..]);
            if let Some(cause) = find_node_cause(block) {
                return cause.trim_ascii();
            }
            index += block.len().max(1);
        } else if is_frame(line) {
            has_trace = true;
            index += 1;
        } else if is_noise(line) {
            // The frame around the errors of a Python exception group.
            is_group |= line.trim_ascii_start().starts_with(b"+-");
            index += 1;
        } else {
            break;
        }
    }
    let found = lines.get(index).unwrap_or(&lines[last]).trim_ascii();
    if let Some(cause) = found.strip_prefix(b"[cause]: ") {
        return cause;
    }
    if is_group && let Some(error) = found.strip_prefix(b"| ") {
        return error.trim_ascii();
    }
    if let Some(message) = find_rust_message(&lines, index) {
        return message.trim_ascii();
    }
    if has_trace && let Some(start) = find_message_start(&lines, index) {
        return lines[start].trim_ascii();
    }
    found
}

/// Returns the lines of a text, the last one first, without those for which `is_left_out`. A carriage return
/// ends a line too: progress meters use it.
fn lines_from_end(text: &[u8], is_left_out: fn(&[u8]) -> bool) -> impl Iterator<Item = &[u8]> {
    let lines = text.rsplit(|&byte| byte == b'\n').filter(move |line| !is_left_out(line));
    lines.flat_map(|line| line.rsplit(|&byte| byte == b'\r'))
}

/// Returns whether the line was written over several times, as a progress meter does.
fn is_progress(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.iter().filter(|&&byte| byte == b'\r').count() > 1
}

/// Finds the error of a Python traceback: the first line after it that is not indented.
fn find_python_error<'t>(lines: &[&'t [u8]]) -> Option<&'t [u8]> {
    let traceback =
        lines.iter().position(|line| line.starts_with(b"Traceback (most recent call last"))?;
    let is_indented = |line: &[u8]| line.first().is_none_or(u8::is_ascii_whitespace);
    lines[..traceback].iter().rev().copied().find(|line| !is_indented(line))
}

/// Finds the panic of a Go program above the stacks of its goroutines.
fn find_go_panic<'t>(lines: &[&'t [u8]]) -> Option<&'t [u8]> {
    let stack =
        lines.iter().rposition(|line| line.starts_with(b"goroutine ") && line.ends_with(b"]:"))?;
    let is_panic = |line: &&[u8]| {
        let text = line.trim_ascii_start();
        text.starts_with(b"panic: ") || text.starts_with(b"fatal error: ")
    };
    lines[stack..].iter().take(MAX_MESSAGE_LINES).copied().find(is_panic)
}

/// Returns the index of the line above a backtrace of Rust that ends the text.
fn skip_rust_backtrace(lines: &[&[u8]]) -> Option<usize> {
    let start = lines
        .iter()
        .position(|line| line.trim_ascii().eq_ignore_ascii_case(b"stack backtrace:"))?;
    let belongs = |line: &&[u8]| {
        line.is_empty() || line[0].is_ascii_whitespace() || line.starts_with(b"note: ")
    };
    lines[..start].iter().all(belongs).then_some(start + 1)
}

/// Finds the first line of the message of a Rust panic, from its last line upwards.
fn find_rust_message<'t>(lines: &[&'t [u8]], index: usize) -> Option<&'t [u8]> {
    let message = lines.get(index..)?.iter().take(MAX_MESSAGE_LINES);
    let message = message.take_while(|line| !line.starts_with(b"note: "));
    let is_start = |line: &[u8]| {
        line.starts_with(b"thread '") && memmem::find(line, b" panicked at ").is_some()
    };
    let distance = message.enumerate().find(|(_, line)| is_start(line))?.0;
    // The message follows the place. Before Rust 1.73 both are on one line.
    let has_own_line = distance > 0 && lines[index + distance].ends_with(b":");
    lines.get(index + distance - usize::from(has_own_line)).copied()
}

/// Returns the lines of the object that Node.js prints behind an error, from its last line `}` upwards to
/// the line that opens it. Empty if an error has no such object there.
fn object_above<'l, 't>(lines: &'l [&'t [u8]]) -> &'l [&'t [u8]] {
    let opening = lines.iter().position(|line| line.ends_with(b" {"));
    let is_of_error =
        |&distance: &usize| is_frame(lines[distance]) || names_an_error(lines[distance]);
    opening.filter(is_of_error).map_or(&[], |distance| &lines[..distance])
}

/// Finds the innermost cause, or the first of several errors, in an object that Node.js prints.
fn find_node_cause<'t>(object: &[&'t [u8]]) -> Option<&'t [u8]> {
    let cause = object.iter().find_map(|line| line.trim_ascii().strip_prefix(b"[cause]: "));
    cause.or_else(|| {
        let list = object.iter().position(|line| line.trim_ascii() == b"[errors]: [")?;
        object.get(list.checked_sub(1)?).copied()
    })
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
    let is_other = ["PHP ", "Fatal error: ", "Exception in thread ", "Caused by: "]
        .iter()
        .any(|prefix| text.starts_with(prefix) && text.contains(':'));
    !text.starts_with([' ', '\t']) && (is_class || is_ruby || is_other)
}

/// Returns whether the line is a caller in a stack trace.
fn is_frame(line: &[u8]) -> bool {
    let text = line.trim_ascii_start();
    let is_numbered =
        text.strip_prefix(b"#").and_then(<[u8]>::first).is_some_and(u8::is_ascii_digit);
    let is_indented = text.len() < line.len();
    let is_caller = text.starts_with(b"at ")
        || text.starts_with(b"from ")
        || (text.starts_with(b"... ") && text.ends_with(b" more"))
        // Perl's Carp.
        || memmem::find(text, b" called at ").is_some();
    is_numbered || (is_indented && is_caller)
}

/// Returns whether the line says where, how or in what an error happened, but not which error it was.
fn is_noise(line: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 8] = [
        b"Node.js v",
        b"(Use `node --trace-",
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
    // The text that `sh -x` writes before each command.
    let is_trace = text.starts_with(b"+ ");
    let is_perl_summary = text.ends_with(b" aborted due to compilation errors.")
        || memmem::find(text, b" failed--compilation aborted at ").is_some();
    // `Try 'ls --help' for more information.`, `curl: try 'curl --help' …`
    let is_hint = memmem::find(text, b"--help").is_some()
        && (text.starts_with(b"Try ") || memmem::find(text, b": try ").is_some());
    // `100%|#####| 200/200`
    let is_percentage = text.split(|byte| *byte == b'%').next().is_some_and(|number| {
        number.len() < text.len()
            && !number.is_empty()
            && number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
    });
    is_marker
        || is_trace
        || is_hint
        || is_percentage
        || PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        || is_perl_summary
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
    fn the_cause_of_a_node_error_is_the_innermost_one() {
        check(
            "TypeError: fetch failed\n    at node:internal/undici:14976:13\n    at async x.mjs:1:1 {\n  \
             [cause]: Error: connect ECONNREFUSED 127.0.0.1:9\n      \
             at afterConnect (node:net:1611:16) {\n    errno: -111,\n    code: 'ECONNREFUSED'\n  }\n}\n\n\
             Node.js v20.20.2\n",
            "Error: connect ECONNREFUSED 127.0.0.1:9",
        );
        check(
            "Error: contact 17\n    at x.mjs:1:7\n    at async f (node:internal:117:5) {\n  \
             [cause]: Error: no id\n      at x.mjs:1:41\n}\n\nNode.js v20.20.2\n",
            "Error: no id",
        );
        check(
            "    ^\n\n[AggregateError: All promises were rejected] {\n  [errors]: [\n    Error: a down\n        \
             at x.mjs:1:35,\n    Error: b down\n        at x.mjs:1:72\n  ]\n}\n\nNode.js v20.20.2\n",
            "Error: a down",
        );
    }

    #[test]
    fn text_that_node_throws_is_found_above_its_hint() {
        check(
            "/srv/x.js:1\nthrow \"no id\";\n^\nno id\n(Use `node --trace-uncaught ...` to show where the \
             exception was thrown)\n\nNode.js v20.20.2\n",
            "no id",
        );
    }

    #[test]
    fn the_error_of_a_python_exception_group_is_one_of_its_errors() {
        check(
            "  + Exception Group Traceback (most recent call last):\n  |   File \"x.py\", line 6, in <module>\n  \
             |     asyncio.run(main())\n  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)\n  \
             +-+---------------- 1 ----------------\n    | Traceback (most recent call last):\n    \
             |   File \"x.py\", line 5, in b\n    | ValueError: no id\n    \
             +------------------------------------\n",
            "ValueError: no id",
        );
    }

    #[test]
    fn the_notes_of_a_python_error_are_not_its_error() {
        check(
            "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\n    \
             raise error\nValueError: no id\nseen in event 7\n",
            "ValueError: no id",
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
        check(
            "\nFatal error: Uncaught LogicException: no id in /srv/x.php:1\nStack trace:\n#0 {main}\n\nNext \
             RuntimeException: two in /srv/x.php:1\nStack trace:\n#0 {main}\n  thrown in /srv/x.php on line 1\n",
            "Fatal error: Uncaught LogicException: no id in /srv/x.php:1",
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
        let note =
            "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        let place = "thread 'main' (17) panicked at src/main.rs:2:5:\n";
        check(&format!("\n{place}contact 17\n{note}"), "contact 17");
        check(
            &format!("{place}assertion `left == right` failed: sum\n  left: 2\n right: 6\n{note}"),
            "assertion `left == right` failed: sum",
        );
        check(&format!("{place}contact 17\n{note}giving up\n"), "giving up");
        check(
            &format!(
                "{place}contact 17\nstack backtrace:\n   0: __rustc::rust_begin_unwind\n             \
                 at /rustc/5980/library/std/src/panicking.rs:689:5\n   1: x::main\n  36:      0x0 - <unknown>\n\
                 note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.\n"
            ),
            "contact 17",
        );
        check(
            "thread 'main' panicked at 'contact 17', src/main.rs:2:5\n",
            "thread 'main' panicked at 'contact 17', src/main.rs:2:5",
        );
    }

    #[test]
    fn the_error_of_a_go_panic_is_found_above_its_stacks() {
        let stack =
            "\ngoroutine 1 [running]:\nmain.main()\n\t/srv/main.go:8 +0x1d\nexit status 2\n";
        let panic = "panic: runtime error: index out of range [5] with length 1";
        check(&format!("starting\n{panic}\n{stack}"), panic);
        let signal = "[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x47b3c2]";
        check(
            &format!("panic: nil pointer dereference\n{signal}\n{stack}"),
            "panic: nil pointer dereference",
        );
        check(&format!("panic: one [recovered]\n\tpanic: two\n{stack}"), "panic: two");
        check("2026/11/28 23:00:01 no contact\nexit status 1\n", "2026/11/28 23:00:01 no contact");
    }

    #[test]
    fn the_error_of_perl_is_found_above_its_callers_and_the_end_of_its_compiler() {
        check(
            "no contact at x.pl line 1.\n\tmain::f(17) called at x.pl line 3\n",
            "no contact at x.pl line 1.",
        );
        check(
            "Global symbol \"$y\" requires explicit package name at x.pl line 1.\n\
             Execution of x.pl aborted due to compilation errors.\n",
            "Global symbol \"$y\" requires explicit package name at x.pl line 1.",
        );
        check(
            "Can't locate No/Module.pm in @INC at x.pl line 1.\n\
             BEGIN failed--compilation aborted at x.pl line 1.\n",
            "Can't locate No/Module.pm in @INC at x.pl line 1.",
        );
    }

    #[test]
    fn a_progress_meter_and_a_hint_at_the_end_are_skipped() {
        let meter: String = (0..200).map(|count| format!("\rstored {count} of 200")).collect();
        check(&format!("error: contact 17\n{meter}\n"), "error: contact 17");
        check(&format!("{meter}\n"), "stored 199 of 200");
        check("KeyError: 'id'\n100%|#####| 200/200\n", "KeyError: 'id'");
        check(
            "ls: unrecognized option '--x'\nTry 'ls --help' for more information.\n",
            "ls: unrecognized option '--x'",
        );
        check(
            "curl: option --x: is unknown\ncurl: try 'curl --help' or 'curl --manual' for more information\n",
            "curl: option --x: is unknown",
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
