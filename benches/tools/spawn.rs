//! Measures how often per second two threads can start /bin/true and wait for its end. Nothing that runs
//! commands can be faster. It calls `posix_spawn` directly, as std's `Command` has a higher cost.

use std::ffi::CStr;
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::ensure;

const TRUE: &CStr = c"/bin/true";

pub fn run(seconds: f64) -> anyhow::Result<()> {
    let length = Duration::from_secs_f64(seconds);
    let began = Instant::now();
    let threads = [(); 2].map(|()| std::thread::spawn(move || spawn_for(length)));
    let mut runs = 0;
    for thread in threads {
        runs += thread.join().map_err(|_| anyhow::anyhow!("a thread ended early"))??;
    }
    println!(r#"{{"rate": {:.1}}}"#, f64::from(runs) / began.elapsed().as_secs_f64());
    Ok(())
}

fn spawn_for(length: Duration) -> anyhow::Result<u32> {
    let began = Instant::now();
    let mut runs = 0;
    while began.elapsed() < length {
        spawn_and_wait()?;
        runs += 1;
    }
    Ok(runs)
}

fn spawn_and_wait() -> anyhow::Result<()> {
    let arguments = [TRUE.as_ptr().cast_mut(), ptr::null_mut()];
    let environment = [ptr::null_mut()];
    let (mut pid, mut status) = (0, 0);
    // SAFETY: both lists end with a null and, like the path, outlive the call; null actions and
    // attributes mean none.
    let failed = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            TRUE.as_ptr(),
            ptr::null(),
            ptr::null(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    ensure!(
        failed == 0,
        "{}: {}",
        TRUE.to_string_lossy(),
        std::io::Error::from_raw_os_error(failed)
    );
    // SAFETY: `status` is a local integer, and only this thread waits for the child `pid`.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    ensure!(waited == pid && status == 0, "{} ended with {status}", TRUE.to_string_lossy());
    Ok(())
}
