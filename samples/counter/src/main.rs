//! Prints a counted line at an interval, then ends the way its environment asks for.

use std::io::Write;
use std::time::Duration;

fn main() {
    let count = number("COUNT", 0);
    let interval = Duration::from_millis(number("INTERVAL_MS", 1000));
    let mut line: u64 = 0;
    while count == 0 || line < count {
        line += 1;
        println!("count {line}");
        let _ = std::io::stdout().flush();
        if count == 0 || line < count {
            std::thread::sleep(interval);
        }
    }
    if std::env::var("CRASH").as_deref() == Ok("1") {
        eprintln!("counter: crashing as asked");
        std::process::abort();
    }
    let code = number("EXIT_CODE", 0);
    eprintln!("counter: exiting with code {code}");
    std::process::exit(i32::try_from(code).unwrap_or(1));
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
