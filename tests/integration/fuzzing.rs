//! The fuzz targets on any compiler, for a bounded time each: inputs are made of its seeds by a
//! generator that always begins the same. `HOOKTRAIL_FUZZ_INPUTS=100000 tests/run fuzzing` runs
//! longer; `cargo +nightly fuzz run NAME` finds more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use targets::{TARGETS, Target};

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Of each target, or as many as there is time for.
const INPUTS: u64 = 20_000;
const TIME: Duration = Duration::from_secs(5);

const BYTES_MAX: usize = 4096;

/// Numbers that look like chance (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ (it >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

/// An input of a target: a seed, changed in a few places.
fn input(target: &Target, chance: &mut Chance) -> Vec<u8> {
    let mut bytes = target.seeds[chance.below(target.seeds.len())].to_vec();
    for _ in 0..=chance.below(6) {
        let at = chance.below(bytes.len() + 1);
        let end = (at + chance.below(16)).min(bytes.len());
        let part = target.parts[chance.below(target.parts.len())];
        match chance.below(6) {
            0 => drop(bytes.splice(at..end, [])),
            1 => drop(bytes.splice(at..at, part.iter().copied())),
            2 => drop(bytes.splice(at..end, part.iter().copied())),
            3 => drop(bytes.splice(at..at, part.repeat(chance.below(200)))),
            4 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            _ => match bytes.get_mut(at) {
                Some(byte) => *byte = u8::try_from(chance.below(256)).unwrap(),
                None => bytes.truncate(at / 2),
            },
        }
        bytes.truncate(BYTES_MAX);
    }
    bytes
}

fn run(name: &str) {
    let inputs = std::env::var("HOOKTRAIL_FUZZ_INPUTS").ok().and_then(|it| it.parse().ok());
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let mut chance = Chance(7);
    let seeds = target.seeds.iter().map(|seed| seed.to_vec()).collect::<Vec<_>>();
    let made = (0..inputs.unwrap_or(INPUTS)).map(|_| input(target, &mut chance));
    let began = Instant::now();
    for bytes in seeds.into_iter().chain(made) {
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
fn expressions_have_faults_with_their_place() {
    run("expression");
}

#[test]
fn forms_are_objects_whatever_is_in_them() {
    run("form");
}

#[test]
fn what_is_evaluated_in_place_is_what_jaq_gives() {
    run("inline");
}

#[test]
fn json_is_what_it_is() {
    run("json");
}

#[test]
fn multipart_bodies_are_objects_or_text() {
    run("multipart");
}

#[test]
fn whatever_a_stranger_sends_is_read_without_a_panic() {
    run("intake");
}
