//! How long one append with fdatasync takes on this disk: what nothing durable can go below.
//! `sync FILE BYTES SECONDS` prints one line of JSON; the file is made anew, and removed.

use std::env::args;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let usage = "usage: sync FILE BYTES SECONDS";
    let path = args().nth(1).context(usage)?;
    let bytes: usize = args().nth(2).context(usage)?.parse()?;
    let seconds: f64 = args().nth(3).context(usage)?.parse()?;

    let block = vec![7_u8; bytes];
    let mut file = File::create(&path)?;
    let mut took_us = Vec::new();
    let began = Instant::now();
    while took_us.is_empty() || began.elapsed() < Duration::from_secs_f64(seconds) {
        let start = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        took_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let mean = took_us.iter().sum::<f64>() / took_us.len() as f64;
    took_us.sort_by(f64::total_cmp);
    println!(r#"{{"mean_us": {mean:.1}, "median_us": {:.1}}}"#, took_us[took_us.len() / 2]);
    std::fs::remove_file(path).context(usage)
}
