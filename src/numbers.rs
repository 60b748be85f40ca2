//! Numbers as people read them, on the command line and in the console.

/// Formats a number with its noun: `1 job`, `2,000 jobs`.
pub fn format_count(count: impl TryInto<u64>, noun: &str) -> String {
    let count = count.try_into().unwrap_or(0);
    format!("{} {noun}{}", group_digits(count), if count == 1 { "" } else { "s" })
}

/// Formats a count with a comma after each three digits. Ids are printed without, so that they can be given
/// back.
pub fn group_digits(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a size in MiB, or in GiB from 10 GiB on.
pub fn format_megabytes(bytes: u64) -> String {
    match bytes >> 20 {
        0 if bytes > 0 => format!("{} KiB", bytes.div_ceil(1024)),
        mib if mib >= 10 << 10 => format!("{} GiB", mib >> 10),
        mib => format!("{mib} MiB"),
    }
}
