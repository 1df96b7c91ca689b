//! Misbehaves on purpose: takes memory without end, or spins without ever calling the host.

use std::hint::black_box;

const CHUNK_BYTES: usize = 1 << 20;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("memory") => take_memory(),
        Some("cpu") => spin(),
        Some("trap") => std::process::abort(),
        other => {
            eprintln!("usage: hog memory|cpu|trap (got {other:?})");
            std::process::exit(2);
        }
    }
}

fn take_memory() {
    println!("hog: taking memory, 1 MiB at a time");
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; CHUNK_BYTES]);
        black_box(&held);
    }
}

fn spin() {
    println!("hog: spinning");
    let mut turns: u64 = 0;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}
