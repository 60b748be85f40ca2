//! Runs the fuzz targets with a stable compiler, each for a bounded time. A generator with a fixed seed
//! mutates the seeds of a target. `HOOKTRAIL_FUZZ_INPUTS=100000 tests/run fuzzing` runs longer;
//! `cargo +nightly fuzz run NAME` finds more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use targets::{TARGETS, Target};

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Maximum number of inputs for each target.
const INPUTS: u64 = 20_000;
/// Maximum time for each target.
const TIME: Duration = Duration::from_secs(5);

const MAX_BYTES: usize = 4096;

/// A pseudo-random number generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

/// Makes an input: a seed of the target with a few mutations.
fn mutate_seed(target: &Target, random: &mut Random) -> Vec<u8> {
    let mut bytes = target.seeds[random.below(target.seeds.len())].to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(16)).min(bytes.len());
        let part = target.parts[random.below(target.parts.len())];
        match random.below(6) {
            0 => drop(bytes.splice(at..end, [])),
            1 => drop(bytes.splice(at..at, part.iter().copied())),
            2 => drop(bytes.splice(at..end, part.iter().copied())),
            3 => drop(bytes.splice(at..at, part.repeat(random.below(200)))),
            4 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            _ => match bytes.get_mut(at) {
                Some(byte) => *byte = u8::try_from(random.below(256)).unwrap(),
                None => bytes.truncate(at / 2),
            },
        }
        bytes.truncate(MAX_BYTES);
    }
    bytes
}

fn run(name: &str) {
    let inputs = std::env::var("HOOKTRAIL_FUZZ_INPUTS").ok().and_then(|count| count.parse().ok());
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let mut random = Random(7);
    let seeds = target.seeds.iter().map(|seed| seed.to_vec()).collect::<Vec<_>>();
    let mutated = (0..inputs.unwrap_or(INPUTS)).map(|_| mutate_seed(target, &mut random));
    let began = Instant::now();
    for bytes in seeds.into_iter().chain(mutated) {
        if inputs.is_none() && began.elapsed() > TIME {
            return;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))) {
            eprintln!("{name}: b\"{}\"", bytes.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn every_target_can_be_run_by_cargo_fuzz() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(top.join("Cargo.toml")).unwrap();
    for Target { name, .. } in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let file = std::fs::read_to_string(top.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(file.contains(&format!("::{name}(data)")), "{name}");
    }
}

#[test]
fn invalid_expressions_have_errors_with_a_position() {
    run("expression");
}

#[test]
fn any_form_body_is_an_object() {
    run("form");
}

#[test]
fn inline_evaluation_agrees_with_jaq() {
    run("inline");
}

#[test]
fn expressions_read_json_like_serde_json() {
    run("json");
}

#[test]
fn multipart_bodies_are_objects_or_text() {
    run("multipart");
}

#[test]
fn any_request_is_parsed_without_a_panic() {
    run("intake");
}
