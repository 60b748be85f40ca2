//! Tests of durations, sizes, rates, networks and suggestions.

use std::time::Duration;

use super::super::parse::{
    duration_text, nearest, parse_duration, parse_listen, parse_network, parse_rate, parse_size,
    size_text,
};

#[test]
fn durations_are_numbers_with_units() {
    for (text, millis) in [
        ("30s", 30_000),
        ("1h 30m", 5_400_000),
        ("1h30m", 5_400_000),
        ("3d", 259_200_000),
        ("500ms", 500),
        ("2w", 1_209_600_000),
        ("1.5h", 5_400_000),
        ("0.25s", 250),
        (" 1m  1s ", 61_000),
        ("5 m", 300_000),
        ("0s", 0),
    ] {
        assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for text in [
        "",
        " ",
        "30",
        "s",
        "30 secs",
        "30S",
        "1M",
        "-1s",
        "+1s",
        "1e3s",
        "1s 2s",
        "1,5h",
        ".5s",
        "5.s",
        "1.2.3s",
        "1h x",
        "1y",
        "99999999999999999999s",
        "\u{661}s",
    ] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
    assert!(parse_duration("999999999999999999w").is_none_or(|d| d > Duration::from_secs(1 << 40)));
}

#[test]
fn durations_are_shown_as_they_are_written() {
    let shown = [0, 1, 1_500, 30_000, 5_400_000, 604_800_000].map(Duration::from_millis);
    assert_eq!(shown.map(duration_text), ["0s", "1ms", "1s 500ms", "30s", "1h 30m", "7d"]);
}

#[test]
fn sizes_are_numbers_with_units() {
    for (text, bytes) in [
        ("1 MiB", 1 << 20),
        ("64 KiB", 65_536),
        ("64KiB", 65_536),
        ("1 MB", 1_000_000),
        ("1 kB", 1_000),
        ("100 B", 100),
        ("1.5 GiB", 1_610_612_736),
        ("0 B", 0),
    ] {
        assert_eq!(parse_size(text), Some(bytes), "{text}");
    }
    for text in ["", "100", "MiB", "1 mib", "1 M", "1 MiB 2 KiB", "-1 B", "99999999999 TiB"] {
        assert_eq!(parse_size(text), None, "{text}");
    }
    let shown = [0, 1_023, 1_024, 1_025, 256 << 20, 3 << 30].map(size_text);
    assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "1025 B", "256 MiB", "3 GiB"]);
}

#[test]
fn rates_are_a_count_and_a_period() {
    for (text, count, seconds) in
        [("100/s", 100, 1), ("1/m", 1, 60), ("7/h", 7, 3_600), (" 5 / s ", 5, 1)]
    {
        let found = parse_rate(text).unwrap();
        assert_eq!((found.count, found.period), (count, Duration::from_secs(seconds)), "{text}");
    }
    for text in
        ["", "100", "0/s", "-1/s", "+1/s", "1.5/s", "1/d", "1/S", "/s", "1/", "4294967296/s"]
    {
        assert!(parse_rate(text).is_err(), "{text}");
    }
}

#[test]
fn ipv4_inside_ipv6_counts_as_ipv4() {
    for (text, net) in [
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("2001:DB8::1", "2001:db8::1/128"),
    ] {
        assert_eq!(parse_network(text).unwrap().to_string(), net);
    }
    for text in ["", "example.com", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.1:80"] {
        assert!(parse_network(text).is_err(), "{text}");
    }
}

#[test]
fn a_sockets_path_fits_what_the_system_takes() {
    let folder = std::path::Path::new("/run");
    assert!(parse_listen(&format!("unix:{}", "a".repeat(102)), folder).is_ok());
    assert!(parse_listen(&format!("unix:{}", "a".repeat(103)), folder).is_err());
}

#[test]
fn the_nearest_name_is_suggested_only_if_it_is_near() {
    let names = ["timeout", "command", "sources", "concurrency", "env", "paused"];
    for (wrong, meant) in [
        ("time_out", Some("timeout")),
        ("Timeout", Some("timeout")),
        ("comand", Some("command")),
        ("source", Some("sources")),
        ("concurency", Some("concurrency")),
        ("environ", None),
        ("xyz", None),
        ("", None),
    ] {
        assert_eq!(nearest(wrong, &names), meant, "{wrong}");
    }
    assert_eq!(nearest("x", &[]), None);
}
