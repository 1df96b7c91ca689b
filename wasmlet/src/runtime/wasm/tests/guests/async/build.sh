#!/bin/sh
# Rebuilds the guests of this workspace into the .wasm files one directory up. Needs what samples/build.sh needs.
set -eu
cd "$(dirname "$0")"
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
host_libraries=$(rustc --print sysroot)/lib/rustlib
if [ -d "$host_libraries/wasm32-wasip2" ]; then
    guest_cargo="cargo" build_std=""
else
    guest_cargo="cargo +coracle-guest"
    build_std="-Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size"
    linkers=$host_libraries/$(uname -m)-unknown-linux-gnu/bin
    export RUSTC_BOOTSTRAP=1 PATH="$linkers:$linkers/gcc-ld:$PATH"
    export RUSTFLAGS="-Clink-self-contained=no -Lnative=/usr/lib/wasm32-wasi"
    export CARGO_TARGET_WASM32_WASIP2_LINKER=wasm-component-ld
fi
for guest in p3probe p3server storeprobe; do
    # shellcheck disable=SC2086  # the variables hold argument lists
    $guest_cargo rustc --quiet --release -p "$guest" --target wasm32-wasip2 $build_std
    cp "$CARGO_TARGET_DIR/wasm32-wasip2/release/$guest.wasm" "../$guest.wasm"
done
