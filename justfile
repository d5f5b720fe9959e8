# Shortcuts; no logic lives here. `just` lists them.

_default:
    @just --list

# Run a gateway on loopback, to try it out
run *arguments:
    cargo run --release -- {{ arguments }}

# Build, lint and run every test, as continuous integration does
all:
    tests/run.sh

# Unit and integration tests (requires redis-server)
test *arguments:
    cargo test {{ arguments }}

# Real replicas and a real Redis under every fault: duration in seconds, optionally a seed
chaos seconds='88' seed='':
    TICKGATE_CHAOS_SECONDS={{ seconds }} TICKGATE_CHAOS_SEED={{ seed }} cargo test --test chaos never_silently_wrong -- --nocapture

# The long search for silent loss: a number of steps in random traces, half of them long, then all traces of up to six steps
search steps='10000000':
    TICKGATE_SEARCH_TOTAL=$(({{ steps }} / 2)) cargo test --release --test search nothing_is_ever -- --nocapture
    TICKGATE_SEARCH_TOTAL=$(({{ steps }} / 2)) TICKGATE_SEARCH_LENGTH=120 cargo test --release --test search nothing_is_ever -- --nocapture
    TICKGATE_SEARCH_TOTAL=1000000000 cargo test --release --test search no_short -- --nocapture

# The long search of the protocol of generations and boundaries for mistakes
model *words:
    cargo run --release -q -p tickgate-model -- {{ words }}

# The previous version and this one on one Redis, through a rolling restart and back; `just versions v1.2.0` uses another version
versions *other:
    tests/chaos/versions.sh {{ other }}

# Third-party clients against live gateways
clients *words:
    cargo build && tests/clients/run.sh {{ words }}

# The public WebSocket conformance cases; `just websocket public` runs the suite's own program
websocket *words:
    tests/websocket/run.sh {{ words }}

# Searches for inputs that break a parser, guided by coverage; `just fuzz json 600` runs one target for ten minutes
fuzz *words:
    tests/fuzz/run.sh {{ words }}

# Attacks within the default limits, in full length, at most 14 minutes; `just security s00` runs one of them;
# TICKGATE_SECURITY_WRITE=1 writes the figures to SECURITY.md
security *words:
    cargo test --release --test security --no-run
    TICKGATE_SECURITY=long timeout 14m cargo test --release --test security {{ words }} -- --nocapture

# The Binance feed against every fault of its exchange, in full length; `just feed a05` runs one of them
feed *words:
    cargo build -p tickgate-sim-exchange && TICKGATE_FEED=long cargo test --test feed -- --skip many_symbols {{ words }}

# The shipped build of the feed under full load: 300 symbols, 2,000 frames a second, 1,000 subscribers, one minute
feed-load:
    cargo build --profile dist -p tickgate -p tickgate-sim-exchange
    TICKGATE_TEST_PROGRAM={{ justfile_directory() }}/target/dist/tickgate TICKGATE_FEED=long cargo test --test feed many_symbols

# The TypeScript client and its examples, in Node and in Chromium; `just typescript pages` runs one step
typescript *steps:
    cargo build -p tickgate -p tickgate-client-suite && clients/typescript/test.sh {{ steps }}

# The Python packages, as wheels in new environments; `just python units` runs one step
python *steps:
    cargo build -p tickgate -p tickgate-client-suite && clients/python/test.sh {{ steps }}

# A browser that sleeps for three minutes, with two heartbeats of 90 s
client-sleep:
    cargo build && cd clients/typescript && TICKGATE_HEARTBEAT=90 node --test --test-name-pattern=asleep test/pages.test.mjs

# Tests a client in any language against a scripted gateway: `just client-suite --run 'node adapter.js'`
client-suite *words:
    cargo run -q -p tickgate-client-suite -- {{ words }}

# Everything that operators receive: chart, manifests, alerts, proxies
operations *words:
    cargo build && tests/ops/run.sh {{ words }}

# The Debian package on a real systemd, with a client that must miss nothing (requires root)
systemd:
    cargo build --profile dist
    tests/systemd/run.sh

# The chart on a real control plane, with clients that must lose nothing (requires root and Go)
kubernetes *words:
    tests/kubernetes/run.sh {{ words }}

# Format and lint
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Dependencies: bans, duplicates, licences, sources
deny:
    tests/deny/run.sh

# The benchmark on this machine
bench *arguments:
    benches/run.sh {{ arguments }}
