//! Parses the head of a CGI response (RFC 3875 section 6).

use super::super::detail_text;
use super::super::http_outcome::HttpOutcome;

/// The maximum length of a head.
pub(super) const MAX_HEAD_BYTES: usize = 32 << 10;

/// Parses the head. Returns it with the start of the body, or the reason why the head is invalid.
pub(super) fn parse_head(start: &[u8]) -> Result<(HttpOutcome, &[u8]), String> {
    let (mut outcome, mut status, mut rest, mut line_count) =
        (HttpOutcome::default(), None, start, 0);
    loop {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let end = match end {
            Some(end) if start.len() - rest.len() + end < MAX_HEAD_BYTES => end,
            _ if start.len() > MAX_HEAD_BYTES => {
                return Err(format!("it has no end within {} KiB", MAX_HEAD_BYTES >> 10));
            }
            _ if start.is_empty() => return Err("no output".to_owned()),
            _ => return Err("no empty line at its end".to_owned()),
        };
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        line_count += 1;
        let (name, value) = parse_field(line).ok_or_else(|| {
            let shown: String = detail_text::one_line(line).chars().take(80).collect();
            format!("{shown:?} is not a header")
        })?;
        // If a header is repeated, the first one counts.
        let field = match name.to_ascii_lowercase().as_str() {
            "status" => &mut status,
            "location" => &mut outcome.location,
            "retry-after" => &mut outcome.retry_after,
            "date" => &mut outcome.date,
            _ => continue,
        };
        field.get_or_insert_with(|| value.to_vec());
    }
    if line_count == 0 {
        return Err("the first line is empty".to_owned());
    }
    outcome.status = match (status, &outcome.location) {
        (Some(status), _) => parse_status(&status)
            .ok_or_else(|| format!("{:?} is not a status", detail_text::one_line(&status)))?,
        // A `Location` without a status is a redirect (RFC 3875, section 6.2.3).
        (None, Some(_)) => 302,
        (None, None) => 200,
    };
    Ok((outcome, rest))
}

fn parse_field(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = std::str::from_utf8(&line[..colon]).ok()?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_name)).then(|| (name, line[colon + 1..].trim_ascii()))
}

/// Parses `404 Not Found`, or the number alone.
fn parse_status(status: &[u8]) -> Option<u16> {
    let digits = status.split(|byte| *byte == b' ').next()?;
    let code = std::str::from_utf8(digits).ok()?;
    let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    code.parse().ok().filter(|code| is_code && (100..=599).contains(code))
}
