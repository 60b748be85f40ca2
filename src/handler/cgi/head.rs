//! The head of what a CGI script answers (RFC 3875 section 6).

use super::super::detail_text;
use super::super::http_outcome::HttpOutcome;

/// A head is at most so long.
pub(super) const BYTES_MAX: usize = 32 << 10;

/// What it says, and the start of the body; or why it is none.
pub(super) fn read(start: &[u8]) -> Result<(HttpOutcome, &[u8]), String> {
    let (mut answer, mut status, mut rest, mut lines) = (HttpOutcome::default(), None, start, 0);
    loop {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let end = match end {
            Some(end) if start.len() - rest.len() + end < BYTES_MAX => end,
            _ if start.len() > BYTES_MAX => {
                return Err(format!("it has no end within {} KiB", BYTES_MAX >> 10));
            }
            _ if start.is_empty() => return Err("nothing was answered".to_owned()),
            _ => return Err("no empty line ends it".to_owned()),
        };
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        lines += 1;
        let (name, value) = field(line).ok_or_else(|| {
            let shown: String = detail_text::one_line(line).chars().take(80).collect();
            format!("{shown:?} is no header")
        })?;
        // Of one that is there twice the first counts.
        let place = match name.to_ascii_lowercase().as_str() {
            "status" => &mut status,
            "location" => &mut answer.location,
            "retry-after" => &mut answer.retry_after,
            "date" => &mut answer.date,
            _ => continue,
        };
        place.get_or_insert_with(|| value.to_vec());
    }
    if lines == 0 {
        return Err("an empty line came first".to_owned());
    }
    answer.status = match (status, &answer.location) {
        (Some(status), _) => parse_status(&status)
            .ok_or_else(|| format!("{:?} is no status", detail_text::one_line(&status)))?,
        // A script that only says where to go on redirects (section 6.2.3).
        (None, Some(_)) => 302,
        (None, None) => 200,
    };
    Ok((answer, rest))
}

fn field(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = std::str::from_utf8(&line[..colon]).ok()?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_name)).then(|| (name, line[colon + 1..].trim_ascii()))
}

/// `404 Not Found`, or the number alone.
fn parse_status(status: &[u8]) -> Option<u16> {
    let digits = status.split(|byte| *byte == b' ').next()?;
    let code = std::str::from_utf8(digits).ok()?;
    let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    code.parse().ok().filter(|code| is_code && (100..=599).contains(code))
}
