//! The values that `version_by` compares. Numbers compare as numbers of any length, and text
//! compares by its bytes. Values of different types have no order.

use std::cmp::Ordering;

/// A value of `version_by`, with its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionValue {
    /// The digits as written in JSON, all of them.
    Number(String),
    Text(String),
}

impl PartialOrd for VersionValue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => {
                Some(Decimal::parse(a)?.compare(&Decimal::parse(b)?))
            }
            (Self::Text(a), Self::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            _ => None,
        }
    }
}

/// An exact decimal number. A sender's numbers may be longer than any machine type.
struct Decimal {
    is_negative: bool,
    /// The digits without leading and trailing zeros. Empty means zero.
    digits: Vec<u8>,
    /// The value is 0.DIGITS × 10^power.
    power: i64,
}

impl Decimal {
    /// Parses a JSON number (RFC 8259, section 6).
    fn parse(text: &str) -> Option<Self> {
        let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let all_digits = [whole.as_bytes(), fraction.as_bytes()].concat();
        if all_digits.is_empty() || !all_digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        // An exponent that does not fit is clamped: only its sign matters.
        let saturated = if exponent.starts_with('-') { i64::MIN / 4 } else { i64::MAX / 4 };
        let exponent =
            exponent.parse::<i64>().unwrap_or(saturated).clamp(i64::MIN / 4, i64::MAX / 4);
        let zeros = all_digits.iter().take_while(|&&digit| digit == b'0').count();
        let last =
            all_digits.iter().rposition(|&digit| digit != b'0').map_or(zeros, |index| index + 1);
        let length = i64::try_from(whole.len()).ok()? - i64::try_from(zeros).ok()?;
        let digits = all_digits[zeros..last].to_vec();
        Some(Self { is_negative, power: length + exponent, digits })
    }

    fn compare(&self, other: &Self) -> Ordering {
        let sign = |value: &Self| match (value.digits.is_empty(), value.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let size = || self.power.cmp(&other.power).then_with(|| self.digits.cmp(&other.digits));
        match (sign(self), sign(other)) {
            (1, 1) => size(),
            (-1, -1) => size().reverse(),
            (a, b) => a.cmp(&b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: &str, expected: Option<Ordering>, b: &str) {
        let number = |text: &str| VersionValue::Number(text.to_owned());
        assert_eq!(number(a).partial_cmp(&number(b)), expected, "{a} {b}");
        let reverse = expected.map(Ordering::reverse);
        assert_eq!(number(b).partial_cmp(&number(a)), reverse, "{b} {a}");
    }

    #[test]
    fn numbers_compare_as_numbers_with_all_their_digits() {
        check("9", Some(Ordering::Less), "10");
        check("1.0", Some(Ordering::Equal), "1");
        check("100", Some(Ordering::Equal), "1e2");
        check("0.05", Some(Ordering::Equal), "5E-2");
        check("-1", Some(Ordering::Less), "0");
        check("-0", Some(Ordering::Equal), "0.00");
        check("-10", Some(Ordering::Less), "-9");
        check("9007199254740992", Some(Ordering::Less), "9007199254740993");
        check("1e999", Some(Ordering::Less), "1.1e999");
        check("1e99999999999999999999", Some(Ordering::Greater), "1e99999");
        check("1e-99999999999999999999", Some(Ordering::Less), "1");
        check("0.001", Some(Ordering::Less), "0.0011");
        check("nan", None, "1");
    }

    #[test]
    fn text_compares_by_its_bytes_and_two_types_not_at_all() {
        let text = |text: &str| VersionValue::Text(text.to_owned());
        assert!(text("2026-11-24T10:00:00Z") < text("2026-11-25"));
        assert!(text("B") < text("a"));
        assert_eq!(text("1").partial_cmp(&VersionValue::Number("1".to_owned())), None);
    }
}
