//! Parts of pages: times, states, counts, sparklines, buttons.

use std::fmt::Write as _;

use maud::{Markup, Render, html};

use crate::clock::LocalTime;
use crate::numbers::group_digits;

/// A time of the API as a person reads it, with the exact time as its tooltip.
pub struct Time<'t>(pub &'t str);

impl Render for Time<'_> {
    fn render(&self) -> Markup {
        let local = LocalTime::parse(self.0);
        let text = local.as_ref().map_or_else(|| self.0.to_owned(), LocalTime::long);
        html! { time datetime=(self.0) title=(self.0) { (text) } }
    }
}

/// A time, or a dash.
pub fn optional_time(time: Option<&str>) -> Markup {
    match time {
        Some(time) => Time(time).render(),
        None => html! { span.muted { "–" } },
    }
}

/// The reason of a job. It may end with a time of the API: `circuit breaker open until 2026-11-23T10:00:00.000Z`.
pub struct Reason<'r>(pub &'r str);

impl Render for Reason<'_> {
    fn render(&self) -> Markup {
        match self.0.rsplit_once(' ') {
            Some((text, time)) if LocalTime::parse(time).is_some() => {
                html! { (outside_text(text)) " " (Time(time)) }
            }
            _ => html! { (outside_text(self.0)) },
        }
    }
}

/// How long ago a time was: `3 min`.
pub fn age(time: &str, now_ms: i64) -> String {
    let Some(at) = LocalTime::parse(time) else { return time.to_owned() };
    let seconds = (now_ms - at.unix_ms()).max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A count with thousands separators.
pub fn count(number: i64) -> String {
    group_digits(number.unsigned_abs())
}

/// A count that is quiet if it is 0, and otherwise has the colour of its meaning.
pub fn colored_count(number: i64, class: &str) -> Markup {
    match number {
        0 => html! { span.muted { "0" } },
        number => html! { span class=(class) { (count(number)) } },
    }
}

/// The state of a job, or an outcome.
pub fn badge(state: &str) -> Markup {
    html! { span class={ "badge " (state) } { (state.replace('_', " ")) } }
}

/// A number of bytes.
pub fn bytes(number: i64) -> String {
    match number {
        0..1024 => format!("{number} B"),
        1024..1_048_576 => format!("{:.1} KiB", number as f64 / 1024.0),
        _ => format!("{:.1} MiB", number as f64 / 1_048_576.0),
    }
}

/// A time span as a person reads it: `12 ms`, `1.2 s`.
pub fn duration(ms: i64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => format!("{} min {} s", ms / 60_000, ms / 1000 % 60),
    }
}

/// Bars for the minutes of the last hour: what went well below, what did not above.
pub fn bars(good: &[i64], bad: &[i64], label: &str) -> Markup {
    const HEIGHT: i64 = 24;
    let highest = good.iter().zip(bad).map(|(good, bad)| good + bad).max().unwrap_or(0);
    let scale = |number: i64| match (number, highest) {
        (0, _) | (_, 0) => 0,
        (number, highest) => (number * HEIGHT / highest).max(1),
    };
    html! {
        svg.spark viewBox="0 0 180 24" width="150" height="20" role="img" aria-label=(label) {
            title { (label) }
            @for (index, (good, bad)) in good.iter().zip(bad).enumerate() {
                @let (good, bad) = (scale(*good), scale(*bad));
                @if good > 0 {
                    rect.good x=(index * 3) y=(HEIGHT - good) width="2" height=(good) {}
                }
                @if bad > 0 {
                    rect.bad x=(index * 3) y=((HEIGHT - good - bad).max(0)) width="2" height=(bad) {}
                }
            }
        }
    }
}

/// A line for the minutes of the last hour. `None`: nothing happened in the minute.
pub fn line(values: &[Option<i64>], label: &str) -> Markup {
    let highest = values.iter().flatten().max().copied().unwrap_or(0).max(1);
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .filter_map(|(index, value)| {
            Some(format!("{},{}", index * 3 + 1, 23 - (*value)? * 22 / highest))
        })
        .collect();
    html! {
        svg.spark viewBox="0 0 180 24" width="150" height="20" role="img" aria-label=(label) {
            title { (label) }
            @if points.len() > 1 {
                polyline points=(points.join(" ")) {}
            } @else {
                @for point in &points {
                    @if let Some((x, y)) = point.split_once(',') {
                        circle cx=(x) cy=(y) r="1.5" {}
                    }
                }
            }
        }
    }
}

/// A text from outside, with its control characters and invisible characters made visible: `␛` and `[U+202E]`.
pub fn outside_text(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => visible.push(c),
            '\u{0}'..='\u{1f}' => {
                visible.push(char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'));
            }
            '\u{7f}' => visible.push('\u{2421}'),
            c if is_invisible(c) => {
                let _ = write!(visible, "[U+{:04X}]", u32::from(c));
            }
            c => visible.push(c),
        }
    }
    visible
}

/// Whether a character shows nothing, or changes the direction of the text around it. The joiners U+200C and U+200D
/// are not among them: words of some languages, and emoji, need them.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{80}'..='\u{9f}'
            | '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(2048), "2.0 KiB");
        assert_eq!(bytes(536_870_912), "512.0 MiB");
        assert_eq!(duration(12), "12 ms");
        assert_eq!(duration(1234), "1.2 s");
        assert_eq!(duration(125_000), "2 min 5 s");
        assert_eq!(age("2026-11-18T11:06:40.000Z", 1_795_000_000_000 + 125_000), "2 min");
    }

    #[test]
    fn a_small_count_has_a_bar_that_can_be_seen() {
        let svg = bars(&[1000, 1], &[0, 0], "x").into_string();
        assert!(svg.contains(r#"height="1""#), "{svg}");
        assert!(!bars(&[0], &[0], "x").into_string().contains("rect"));
    }

    #[test]
    fn text_from_outside_shows_its_control_characters() {
        assert_eq!(outside_text("a\u{1b}[0m\n\u{202e}b"), "a\u{241b}[0m\n[U+202E]b");
        assert_eq!(outside_text("\u{85}\u{feff}\u{e0041}"), "[U+0085][U+FEFF][U+E0041]");
        assert_eq!(
            outside_text("na\u{200c}me \u{1f469}\u{200d}\u{1f4bb}"),
            "na\u{200c}me \u{1f469}\u{200d}\u{1f4bb}"
        );
    }
}
