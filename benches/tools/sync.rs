//! Measures one append with fdatasync on a disk. No durable write can be faster. The program creates the
//! file and removes it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

pub fn run(path: &Path, bytes: usize, seconds: f64) -> anyhow::Result<()> {
    let block = vec![7_u8; bytes];
    let mut file = File::create(path)?;
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
    Ok(std::fs::remove_file(path)?)
}
