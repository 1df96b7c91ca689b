//! How late watchers hear of a write.

use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use crate::harness::Https;
use crate::measure::load::Kept;
use crate::measure::{milliseconds, percentile, row};
use crate::now;

/// Events that all watchers together are sent.
const EVENTS: usize = 25_000;
const WRITE_EVERY: Duration = Duration::from_millis(10);

pub fn late(https: &Https, watchers: usize, who: &str) {
    let writes = EVENTS / watchers;
    // A thousand events at once take longer than one write after the other.
    let pause = if watchers > 100 { WRITE_EVERY * 10 } else { WRITE_EVERY };
    let path = "/api/v1/namespaces/bench-watches/configmaps";
    let ready = Barrier::new(watchers + 1);
    let late = Mutex::new(Vec::<Duration>::new());
    std::thread::scope(|scope| {
        for _ in 0..watchers {
            scope.spawn(|| {
                let mut connection = Kept::open(https);
                connection.watch(&format!("{path}?watch=true&resourceVersion=0"));
                ready.wait();
                let begun = now();
                let mut own = Vec::with_capacity(writes);
                while own.len() < writes {
                    let stamps = connection.chunk(|bytes| {
                        let seen = now();
                        let text = String::from_utf8_lossy(bytes);
                        let parts = text.split("\"stamp\":\"").skip(1);
                        let stamps = parts.filter_map(|rest| rest.split('"').next()?.parse::<u128>().ok());
                        // What was there before is no news.
                        let news = stamps.filter(|stamp| *stamp >= begun);
                        news.map(|stamp| seen.saturating_sub(stamp)).collect::<Vec<_>>()
                    });
                    // A server that ends a watch early is seen in the count of the row.
                    let Some(stamps) = stamps else { break };
                    own.extend(stamps.iter().map(|nanoseconds| Duration::from_nanos(*nanoseconds as u64)));
                }
                late.lock().unwrap().append(&mut own);
            });
        }
        ready.wait();
        std::thread::sleep(Duration::from_millis(200));
        let mut connection = Kept::open(https);
        for number in 0..writes {
            let next = Instant::now() + pause;
            let body = crate::config_map(&format!("w{watchers}-{number}"), now());
            assert_eq!(connection.exchange("POST", path, &body).status, 201);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    let mut late = late.into_inner().unwrap();
    let heard = late.len() as f64 / (watchers * writes) as f64 * 100.0;
    row(
        &format!("write sent to event received, {watchers} watchers{who}"),
        &format!(
            "p50 {}, p99 {}, worst {}; {heard:.0} % of the events came",
            milliseconds(percentile(&mut late, 0.5)),
            milliseconds(percentile(&mut late, 0.99)),
            milliseconds(percentile(&mut late, 1.0))
        ),
        if watchers == 50 { "p99 ≤ 10 ms" } else { "" },
    );
}
