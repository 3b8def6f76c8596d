# The words of the project: the same on your desk and in CI. `just --list` shows them.

# All tests: the command in README.md.
test:
    @bash -c "$(.ci/run test-command)"

# All that CI does.
ci:
    .ci/run

# Format, lint and documentation, warnings as errors.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# N seeds of the simulated world, with the engine alone and with commits through the facade, in release.
sim N="10000":
    GIROK_SEEDS={{N}} cargo test --release -p girok --test world --test commits a_thousand_days -- --nocapture

# What the fuzzer finds worth keeping goes to target/fuzz-corpus, so that the checkout stays clean.
#
# Drive a fuzz target with libFuzzer (nightly, cargo-fuzz): batches, decompression, recovery, offsets_records.
fuzz TARGET SECONDS="60":
    @mkdir -p target/fuzz-corpus/{{TARGET}}
    cargo +nightly fuzz run --features libfuzzer {{TARGET}} target/fuzz-corpus/{{TARGET}} fuzz/corpus/{{TARGET}} -- -max_total_time={{SECONDS}}

# The benches, each beside the machine's own limit: about ten minutes.
bench *ARGS:
    cargo bench -p girok-bench {{ARGS}}

# The benches' answers only, in seconds.
bench-smoke:
    GIROK_BENCH_SMOKE=1 cargo bench -p girok-bench

# The demo: two sinks, one of which fails for a while, and a process that is killed.
demo *ARGS:
    cargo run --release -p girok-cli -- demo {{ARGS}}

# Every interleaving of reserve, publish, seal, truncate and wait.
loom:
    .ci/run loom

# The engine's unit tests under AddressSanitizer (nightly).
asan:
    RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/asan" \
        cargo +nightly test --target "$(rustc -vV | sed -n 's/^host: //p')" -p girok-engine --lib

# What is too long for every push: loom, AddressSanitizer, many seeds, the fuzz targets, the benches.
nightly: loom asan (sim "100000") (fuzz "batches" "600") (fuzz "decompression" "600") (fuzz "recovery" "600") (fuzz "offsets_records" "600") bench

# Kafka's own tools on what we wrote; fails where Java or Maven is missing instead of skipping.
kafka-tools:
    GIROK_REQUIRE_KAFKA_TOOLS=1 cargo test -p girok --test kafka_tools -- --nocapture
