//! Invalid bytes: every parser of untrusted input, run on its committed corpus and some thousands of inputs derived
//! from it. The short run takes seconds; `TICKGATE_FUZZ_SECONDS=600` runs longer, and `tests/fuzz/run.sh` searches with
//! coverage feedback.
//!
//! A failing input is kept in `target/fuzz/`; `TICKGATE_FUZZ_INPUT=<file> cargo test --test fuzz <target>` runs it
//! alone. Inputs of fixed bugs stay in the corpus.
#![allow(clippy::unwrap_used, reason = "a missing value fails the test, as it should")]
#![allow(clippy::disallowed_methods, reason = "settings of the test itself")]

mod heap;
mod mutate;
mod targets;
mod watch;

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use mutate::Mutator;
use targets::{FuzzTarget, TARGETS};
use watch::HangWatch;

const INPUT: &str = "TICKGATE_FUZZ_INPUT";
const SECONDS: &str = "TICKGATE_FUZZ_SECONDS";
/// For the short run: the inputs are always the same, so that the result is reproducible.
const SEED: u64 = 42;
/// Maximum memory that a parser may hold, whatever an input of some kilobytes contains.
const HEAP_BYTES_MAX: usize = 1 << 20;
/// Time limit of one input. Ten thousand take a second.
const INPUT_TIMEOUT: Duration = Duration::from_secs(20);

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The committed inputs, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = root().join("tests/fuzz/corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Keeps a failing input, and prints how to run it again.
fn keep(name: &str, input: &[u8]) {
    let path = root().join("target/fuzz").join(format!("{name}.failed"));
    let _ = fs::create_dir_all(path.parent().unwrap());
    let _ = fs::write(&path, input);
    // Not with `eprintln`, whose output is lost when the program exits within a test.
    let mut said = io::stderr().lock();
    let _ = writeln!(said, "{name}: {} bytes fail: {}", input.len(), input.escape_ascii());
    let _ = writeln!(said, "again: {INPUT}={} cargo test --test fuzz {name}", path.display());
}

/// Keeps the input if the target panics.
struct InputKeeper<'a> {
    name: &'a str,
    input: &'a [u8],
}

impl Drop for InputKeeper<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            keep(self.name, self.input);
        }
    }
}

fn run(name: &str, target: FuzzTarget, input: &[u8]) {
    let _keep = InputKeeper { name, input };
    let ((), held) = heap::peak(|| target(input));
    assert!(held <= HEAP_BYTES_MAX, "an input of {} bytes makes it hold {held}", input.len());
}

/// Whether to generate one more input: a fixed number in the short run, otherwise until the time is up.
fn goes_on(made: usize, wanted: usize, until: Option<Instant>) -> bool {
    until.map_or(made < wanted, |until| Instant::now() < until)
}

fn fuzz(name: &'static str, wanted: usize) {
    let target = TARGETS.iter().find(|(known, _)| *known == name).expect("a target").1;
    if let Some(path) = env::var_os(INPUT) {
        return run(name, target, &fs::read(path).unwrap());
    }
    let corpus = corpus(name);
    assert!(corpus.len() >= 10, "{name}: a corpus of {}", corpus.len());
    // Memory that is allocated once per process is not counted.
    target(&corpus[0]);
    let watch = HangWatch::begin(name, INPUT_TIMEOUT, keep);
    for input in &corpus {
        watch.over(input, || run(name, target, input));
    }
    let seconds = env::var(SECONDS).ok().map(|seconds| seconds.parse().expect("a number of seconds"));
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64;
    let mut mutator = Mutator::new(if until.is_some() { since } else { SEED }, &corpus);
    let mut made = 0;
    while goes_on(made, wanted, until) {
        let input = mutator.next();
        watch.over(&input, || run(name, target, &input));
        made += 1;
    }
}

macro_rules! targets {
    ($($name:ident: $wanted:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                fuzz(stringify!($name), $wanted);
            }
        )*

        #[test]
        fn every_target_runs() {
            let run = [$(stringify!($name)),*];
            assert_eq!(run.as_slice(), TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        }
    };
}

// Number of inputs that the short run derives from each corpus: about one second, unoptimized.
targets! {
    json: 20_000,
    envelope: 20_000,
    names: 20_000,
    cursors: 20_000,
    configuration: 400,
    frames: 20_000,
    handshake: 20_000,
    tokens: 20_000,
    exchange: 20_000,
}
