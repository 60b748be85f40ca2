//! The fuzz target of `fuzz/` on any compiler, for a bounded time: bytes that begin as real requests
//! do, changed in the ways in which parsers fail, always the same ones.

use std::time::{Duration, Instant};

#[path = "../../fuzz/intake.rs"]
mod intake;

/// Enough for some ten thousand; what is slower tries fewer.
const TIME: Duration = Duration::from_secs(10);
const CASES_MAX: usize = 20_000;

const SEEDS: &[&[u8]] = &[
    b"\x00x-a:1\ncontent-type:a/b\n\n{\"a\":[1,{\"b\":\"\\u00e4\\ud83d\\ude00\"}],\"id\":1e999,\"at\":-0.0}",
    b"\x01x-hub-signature-256:sha256=00ff\nx:=&%\n\na[b][]=1&a[b][]=%C3%A4&c=+%4&=&d[",
    b"\x02stripe-signature:t=1795000000,v1=00,v1=zz,v0=\n\n--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\nbytes\r\n--x--\r\n",
    b"\x06webhook-id:a\nwebhook-timestamp:9223372036854775807\nwebhook-signature:v1,AAAA v1a,===\n\n{\"type\":1}",
    b"\x1cx:y\n\n{\"Type\":\"Notification\",\"Message\":\"\",\"MessageId\":\"1\",\"Timestamp\":\"+2026\",\"TopicArn\":\"\",\"Signature\":\"=\",\"SignatureVersion\":\"1\"}",
    include_bytes!("../payloads/paminga-campaign.json"),
    include_bytes!("../payloads/paminga-form.json"),
];

/// Pieces that parsers stumble over.
const PIECES: &[&[u8]] = &[
    b"[",
    b"{\"a\":",
    b"\"",
    b"\\u",
    b"\\ud800",
    b"1e999",
    b"-",
    b"NaN",
    b"\xff",
    b"\0",
    b"%",
    b"%f",
    b"=",
    b"&",
    b"[]",
    b"--x",
    b"\r\n",
    b"\n\n",
    b":",
    b",",
    b"99999999999999999999",
    b"\xc3",
];

#[test]
fn whatever_a_stranger_sends_is_read_without_a_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut choose = |of: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % u64::try_from(of.max(1)).unwrap()).unwrap()
    };
    let began = Instant::now();
    for _ in 0..CASES_MAX {
        let mut data = SEEDS[choose(SEEDS.len())].to_vec();
        for _ in 0..=choose(8) {
            let at = choose(data.len() + 1);
            match choose(5) {
                0 => data.truncate(at),
                1 if at < data.len() => data[at] ^= 1 << choose(8),
                2 => {
                    let piece = PIECES[choose(PIECES.len())];
                    let many = piece.repeat(1 + choose(300) * usize::from(choose(20) == 0));
                    data.splice(at..at, many);
                }
                3 if at < data.len() => {
                    let end = at + choose(data.len() - at);
                    data.drain(at..end);
                }
                _ => data.insert(0, u8::try_from(choose(256)).unwrap()),
            }
        }
        intake::intake(&data);
        if began.elapsed() > TIME {
            return;
        }
    }
}
