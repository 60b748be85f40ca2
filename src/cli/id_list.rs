//! Ids as arguments: `4`, `4,5` or `4-6`, in the forms in which lists and reasons print them.

use std::ops::RangeInclusive;

use crate::domain::id_set::IdRanges;

/// The ids of one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdList(Vec<IdArgument>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum IdArgument {
    Single(i64),
    Range(RangeInclusive<i64>),
}

impl IdList {
    /// Returns the ids that were given one by one. Each of them must exist.
    pub fn singles(lists: &[Self]) -> impl Iterator<Item = i64> {
        lists.iter().flat_map(|list| &list.0).filter_map(|id| match id {
            IdArgument::Single(id) => Some(*id),
            IdArgument::Range(_) => None,
        })
    }

    /// Returns the ranges that were given. Not all of their ids need to exist.
    pub fn given_ranges(lists: &[Self]) -> impl Iterator<Item = RangeInclusive<i64>> {
        lists.iter().flat_map(|list| &list.0).filter_map(|id| match id {
            IdArgument::Single(_) => None,
            IdArgument::Range(range) => Some(range.clone()),
        })
    }

    /// Returns all ids.
    pub fn to_ranges(lists: &[Self]) -> IdRanges {
        Self::singles(lists).map(|id| id..=id).chain(Self::given_ranges(lists)).collect()
    }
}

/// Parses the number of an event or a job.
///
/// # Errors
/// The text is invalid; the error names the invalid part.
pub fn parse_id(text: &str) -> Result<i64, String> {
    let digits = text.trim();
    if let Some(number) = digits.strip_prefix('-')
        && number.chars().all(|c| c.is_ascii_digit())
    {
        return Err("numbers of events and jobs begin at 1".to_owned());
    }
    if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit()) {
        return Err("expected a number such as 12".to_owned());
    }
    match digits.parse() {
        Ok(0) => Err("numbers of events and jobs begin at 1".to_owned()),
        Ok(id) => Ok(id),
        Err(_) => Err(format!("expected a number up to {}", i64::MAX)),
    }
}

/// Parses ids that are separated by commas. A range has a hyphen, or a dash as in reasons.
///
/// # Errors
/// The text is invalid; the error names the invalid part.
pub fn parse_id_list(text: &str) -> Result<IdList, String> {
    // `4, 5` is two arguments of the shell, of which the first ends with a comma.
    let text = text.trim().trim_end_matches(',');
    text.split(',').map(parse_argument).collect::<Result<_, _>>().map(IdList)
}

fn parse_argument(text: &str) -> Result<IdArgument, String> {
    let text = text.trim();
    let separator = text.char_indices().skip(1).find(|(_, c)| matches!(c, '-' | '–'));
    let Some((at, dash)) = separator else {
        return parse_id(text).map(IdArgument::Single).map_err(|error| {
            let is_number = text.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit());
            match is_number && !text.is_empty() {
                true => error,
                false => {
                    "expected a number such as 12, numbers such as 4,5, or a range such as 4-6"
                        .to_owned()
                }
            }
        });
    };
    let (first, last) = (parse_id(&text[..at])?, parse_id(&text[at + dash.len_utf8()..])?);
    match first <= last {
        true => Ok(IdArgument::Range(first..=last)),
        false => Err(format!("{text} is empty: expected {last}-{first}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(arguments: &[&str]) -> Vec<RangeInclusive<i64>> {
        let lists: Vec<IdList> =
            arguments.iter().map(|text| parse_id_list(text).expect(text)).collect();
        IdList::to_ranges(&lists).iter().collect()
    }

    #[test]
    fn ids_are_parsed_in_the_forms_in_which_they_are_printed() {
        assert_eq!(ranges(&["12"]), [12..=12]);
        assert_eq!(ranges(&["4,7"]), [4..=4, 7..=7]);
        assert_eq!(ranges(&["4,", "5"]), [4..=5]);
        assert_eq!(ranges(&["4-6", "10–19", "2"]), [2..=2, 4..=6, 10..=19]);
        assert_eq!(ranges(&["1-9223372036854775807"]), [1..=i64::MAX]);
    }

    #[test]
    fn other_texts_are_errors_that_say_what_is_expected() {
        for (text, expected) in [
            ("", "a range such as 4-6"),
            ("x", "a range such as 4-6"),
            ("job 12", "a range such as 4-6"),
            ("4,,5", "a range such as 4-6"),
            ("0", "begin at 1"),
            ("-5", "begin at 1"),
            ("9223372036854775808", "up to 9223372036854775807"),
            ("6-4", "6-4 is empty: expected 4-6"),
            ("4-", "expected a number"),
        ] {
            let error = parse_id_list(text).expect_err(text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
