#!/bin/sh
# Rebuilds every sample's .wasm from its source.
#
# With rustup's wasm targets (`rustup target add wasm32-wasip1 wasm32-wasip2`) plain cargo does it.
# Where rustup cannot download them, Debian's guest toolchain is used, installed when missing.
set -eu
cd "$(dirname "$0")"
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR

say() { printf 'samples: %s\n' "$*"; }

host_libraries=$(rustc --print sysroot)/lib/rustlib
if [ -d "$host_libraries/wasm32-wasip1" ] && [ -d "$host_libraries/wasm32-wasip2" ]; then
    guest_cargo="cargo" build_std="" command_args="" proxy_args=""
elif rustup target add wasm32-wasip1 wasm32-wasip2 2>/dev/null; then
    guest_cargo="cargo" build_std="" command_args="" proxy_args=""
else
    say "rustup has no wasm targets here; using Debian's guest toolchain"
    if [ ! -e /usr/lib/wasm32-wasi/crt1-command.o ] || [ ! -x /usr/bin/rustc ] || [ ! -x /usr/bin/cargo ] ||
        [ ! -e /usr/lib/rustlib/src ]; then
        say "installing by apt-get (about 150 MB): rustc-web cargo-web rust-web-src wasi-libc"
        sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
        $sudo apt-get update -qq
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            rustc-web cargo-web rust-web-src wasi-libc
    fi
    rustup toolchain link coracle-guest /usr
    guest_cargo="cargo +coracle-guest"
    build_std="-Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size"
    command_args="-Clink-arg=/usr/lib/wasm32-wasi/crt1-command.o"
    proxy_args="-Clink-arg=--wasi-adapter=proxy"
    # rust-lld and wasm-component-ld come with the host's own toolchain.
    linkers=$host_libraries/x86_64-unknown-linux-gnu/bin
    [ -d "$linkers" ] || linkers=$host_libraries/aarch64-unknown-linux-gnu/bin
    export RUSTC_BOOTSTRAP=1 PATH="$linkers:$linkers/gcc-ld:$PATH"
    export RUSTFLAGS="-Clink-self-contained=no -Lnative=/usr/lib/wasm32-wasi"
    export CARGO_TARGET_WASM32_WASIP1_LINKER=rust-lld
    export CARGO_TARGET_WASM32_WASIP2_LINKER=wasm-component-ld
fi

# build PACKAGE TARGET BUILT-NAME OUTPUT LINK-ARGS [CARGO-ARGS...]
build() {
    package=$1 target=$2 built=$3 output=$4 link_args=$5
    shift 5
    # shellcheck disable=SC2086  # the variables hold argument lists
    $guest_cargo rustc --quiet --release -p "$package" --target "$target" $build_std "$@" -- $link_args
    cp "$CARGO_TARGET_DIR/$target/release/$built" "$output"
    say "$output $(wc -c <"$output") bytes"
}

build counter wasm32-wasip1 counter.wasm counter/counter.wasm "$command_args"
build job-hello wasm32-wasip1 job-hello.wasm job-hello/job-hello.wasm "$command_args"
build hog wasm32-wasip1 hog.wasm hog/hog.wasm "$command_args"
build toolbox wasm32-wasip1 toolbox.wasm toolbox/toolbox.wasm "$command_args"
build tcp-echo wasm32-wasip2 tcp-echo.wasm tcp-echo/tcp-echo.wasm "$command_args"
build hello-http wasm32-wasip2 hello_http.wasm hello-http/hello-http.wasm "$proxy_args"
build hello-http wasm32-wasip2 hello_http.wasm hello-http/hello-http-v2.wasm "$proxy_args" --features v2
