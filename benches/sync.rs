//! How long one append with fdatasync takes on this disk: `sync FOLDER`; milliseconds of the median
//! of 4 KiB and of 64 KiB.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let path = std::path::Path::new(&folder).join("sync.bin");
    for size in [4 << 10, 64 << 10] {
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        let block = vec![7_u8; size];
        let mut took = Vec::new();
        for _ in 0..500 {
            let began = Instant::now();
            file.write_all(&block)?;
            file.sync_data()?;
            took.push(began.elapsed());
        }
        took.sort_unstable();
        println!("{size} {:.4}", took[took.len() / 2].as_secs_f64() * 1000.0);
    }
    std::fs::remove_file(path)
}
