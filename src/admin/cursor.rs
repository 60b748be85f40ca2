//! Cursors of lists: where the next page begins. A cursor holds for the list and the filter that it was made for.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;

use super::problem::Problem;

/// The bytes of a cursor that identify the list and its filter.
const FILTER_BYTES: usize = 6;

fn filter_digest(filter: &str) -> [u8; FILTER_BYTES] {
    let digest = digest::digest(&digest::SHA256, filter.as_bytes());
    std::array::from_fn(|index| digest.as_ref()[index])
}

/// Makes the cursor of a position. `filter`: the list and all parameters that select its rows.
pub fn encode(filter: &str, position: i64) -> String {
    let mut bytes = filter_digest(filter).to_vec();
    bytes.extend(position.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the position of a cursor.
///
/// # Errors
/// It is no cursor of this list with this filter.
pub fn decode(filter: &str, cursor: &str) -> Result<i64, Problem> {
    let invalid = || {
        Problem::bad_request(
            "cursor: is not a cursor of this list with these filters: leave it out to begin with the \
             newest row",
        )
    };
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid())?;
    let (of_filter, position) = bytes.split_at_checked(FILTER_BYTES).ok_or_else(invalid)?;
    let position = <[u8; 8]>::try_from(position).map_err(|_| invalid())?;
    if of_filter != filter_digest(filter) {
        return Err(invalid());
    }
    Ok(i64::from_be_bytes(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_holds_for_its_list_and_filter() {
        for position in [0, 1, i64::MAX] {
            let cursor = encode("events?source=a", position);
            assert_eq!(decode("events?source=a", &cursor).unwrap(), position);
            assert!(decode("events?source=b", &cursor).is_err());
        }
        for text in ["", "x", "🙂", "AAAA", &encode("", 1)[1..]] {
            assert!(decode("", text).is_err(), "{text}");
        }
    }
}
