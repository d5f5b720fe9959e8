# Shortcuts; no logic lives here. `just` lists them.

_default:
    @just --list

# Run a gateway on loopback, to try it out
run *arguments:
    cargo run --release -- {{ arguments }}

# Build, lint and run every test, as continuous integration does
all:
    tests/run.sh

# Unit and integration tests (wants redis-server)
test *arguments:
    cargo test {{ arguments }}

# Real replicas and a real Redis under every fault, for so many seconds, from a seed of one's own if wanted
chaos seconds='88' seed='':
    TICKGATE_CHAOS_SECONDS={{ seconds }} TICKGATE_CHAOS_SEED={{ seed }} cargo test --test chaos never_silently_wrong -- --nocapture

# The search for silent loss, long: so many steps of random traces, half of them long ones, then all traces of up to six steps
search steps='10000000':
    TICKGATE_SEARCH_TOTAL=$(({{ steps }} / 2)) cargo test --release --test search nothing_is_ever -- --nocapture
    TICKGATE_SEARCH_TOTAL=$(({{ steps }} / 2)) TICKGATE_SEARCH_LENGTH=120 cargo test --release --test search nothing_is_ever -- --nocapture
    TICKGATE_SEARCH_TOTAL=1000000000 cargo test --release --test search no_short -- --nocapture

# Searches the protocol of generations and boundaries for mistakes, in its long form
model *words:
    cargo run --release -q -p tickgate-model -- {{ words }}

# The version before and this one on one Redis, through a rolling restart and back; `just versions v1.2.0` any other one
versions *other:
    tests/chaos/versions.sh {{ other }}

# Clients that others wrote, against live gateways
clients *words:
    cargo build && tests/clients/run.sh {{ words }}

# The public cases of WebSocket conformance; `just websocket public` by the suite's own program
websocket *words:
    tests/websocket/run.sh {{ words }}

# Searches for inputs that break a reader, guided by coverage; `just fuzz json 600` one of them for ten minutes
fuzz *words:
    tests/fuzz/run.sh {{ words }}

# Attacks of strangers at the default settings, as long as they took when they were found; `just security s00` one of them
security *words:
    TICKGATE_SECURITY=long cargo test --release --test security {{ words }} -- --nocapture

# The feed of Binance against every fault of its exchange, as long as they are described; `just feed a05` one of them
feed *words:
    cargo build -p tickgate-sim-exchange && TICKGATE_FEED=long cargo test --test feed -- --skip many_symbols {{ words }}

# The shipped build of the feed under its full load: 300 symbols, 2,000 frames a second, 1,000 subscribers, one minute
feed-load:
    cargo build --profile dist -p tickgate -p tickgate-sim-exchange
    TICKGATE_TEST_PROGRAM={{ justfile_directory() }}/target/dist/tickgate TICKGATE_FEED=long cargo test --test feed many_symbols

# The TypeScript client and its examples, in Node and in Chromium; `just typescript pages` one of the steps
typescript *steps:
    cargo build -p tickgate -p tickgate-client-suite && clients/typescript/test.sh {{ steps }}

# The Python packages, as wheels in new environments; `just python units` one of the steps
python *steps:
    cargo build -p tickgate -p tickgate-client-suite && clients/python/test.sh {{ steps }}

# A browser asleep for three minutes: two heartbeats of 90 s
client-sleep:
    cargo build && cd clients/typescript && TICKGATE_HEARTBEAT=90 node --test --test-name-pattern=asleep test/pages.test.mjs

# Plays a gateway for a client in any language: `just client-suite --run 'node adapter.js'`
client-suite *words:
    cargo run -q -p tickgate-client-suite -- {{ words }}

# What operators are given: chart, manifests, alerts, proxies
operations *words:
    cargo build && tests/ops/run.sh {{ words }}

# The Debian package operated under a real systemd, with a client that must miss nothing (requires root)
systemd:
    cargo build --profile dist
    tests/systemd/run.sh

# The chart installed and operated on a real control plane, with clients that must not notice (requires root and Go)
kubernetes *words:
    tests/kubernetes/run.sh {{ words }}

# Format and lint
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Dependencies: bans, duplicates, licences, sources
deny:
    tests/deny/run.sh

# How fast it is on this machine
bench *arguments:
    benches/run.sh {{ arguments }}
