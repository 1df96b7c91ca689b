//! Prints one line and ends: a pod that runs to completion.

fn main() {
    let who = std::env::args().nth(1).unwrap_or_else(|| "world".into());
    let pod = std::env::var("POD_NAME").unwrap_or_else(|_| "unknown".into());
    println!("Hello, {who}, from job-hello! pod={pod}");
}
