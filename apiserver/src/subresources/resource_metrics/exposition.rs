//! What a node says in its `/metrics/resource`: the use of CPU and memory of the node and its containers so far.

use std::collections::HashMap;

/// What has been used until a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// By the node's clock, in milliseconds since 1970.
    pub at: i64,
    /// CPU time since the start.
    pub cpu_nanos: u64,
    pub memory_bytes: u64,
    /// When it started, by the same clock; a node does not say.
    pub started: Option<i64>,
}

/// What a node said at once.
#[derive(Debug, Default, PartialEq)]
pub struct Sample {
    pub node: Option<Point>,
    /// By `namespace/name`, then by the container's name.
    pub pods: HashMap<String, HashMap<String, Point>>,
}

const NODE_CPU: &str = "node_cpu_usage_seconds_total";
const NODE_MEMORY: &str = "node_memory_working_set_bytes";
const CONTAINER_CPU: &str = "container_cpu_usage_seconds_total";
const CONTAINER_MEMORY: &str = "container_memory_working_set_bytes";
const CONTAINER_START: &str = "container_start_time_seconds";

/// One line that is a sample.
struct Line<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
    at: Option<i64>,
}

impl<'a> Line<'a> {
    /// None for comments, and for what is no sample.
    fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (name, labels, rest) = match line.find(['{', ' ']) {
            Some(at) if line[at..].starts_with('{') => {
                let end = closing(&line[at..])? + at;
                (&line[..at], &line[at + 1..end], &line[end + 1..])
            }
            Some(at) => (&line[..at], "", &line[at..]),
            None => return None,
        };
        let mut words = rest.split_ascii_whitespace();
        let value = words.next()?.parse().ok()?;
        Some(Self { name, labels, value, at: words.next().and_then(|at| at.parse().ok()) })
    }

    /// The value of a label. Those of names in Kubernetes need no escapes.
    fn label(&self, wanted: &str) -> Option<&'a str> {
        let mut rest = self.labels;
        loop {
            let (name, after) = rest.trim_start_matches([',', ' ']).split_once("=\"")?;
            let end = unescaped_quote(after)?;
            if name == wanted {
                return after.get(..end);
            }
            rest = after.get(end + 1..)?;
        }
    }
}

/// Where the labels end: braces may stand within a value.
fn closing(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescaped_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// What of the text is known. `now`: when it was read, where the text has no times.
pub fn parse(text: &str, now: i64) -> Sample {
    let mut sample = Sample::default();
    // Saturate, as casts from floats do.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let (nanos, bytes, millis) = (
        |seconds: f64| (seconds * 1e9) as u64,
        |value: f64| value as u64,
        |seconds: f64| (seconds * 1e3) as i64,
    );
    for line in text.lines().filter_map(Line::parse) {
        let point = match line.name {
            NODE_CPU | NODE_MEMORY => sample.node.get_or_insert_default(),
            CONTAINER_CPU | CONTAINER_MEMORY | CONTAINER_START => {
                let (Some(namespace), Some(pod), Some(container)) =
                    (line.label("namespace"), line.label("pod"), line.label("container"))
                else {
                    continue;
                };
                let containers = sample.pods.entry(format!("{namespace}/{pod}")).or_default();
                containers.entry(container.to_owned()).or_default()
            }
            _ => continue,
        };
        match line.name {
            NODE_CPU | CONTAINER_CPU => {
                (point.cpu_nanos, point.at) = (nanos(line.value), line.at.unwrap_or(now));
            }
            NODE_MEMORY | CONTAINER_MEMORY => point.memory_bytes = bytes(line.value),
            _ => point.started = Some(millis(line.value)),
        }
    }
    // Without its CPU time nothing can be said of how much it uses.
    sample.node = sample.node.filter(|point| point.at != 0);
    for containers in sample.pods.values_mut() {
        containers.retain(|_, point| point.at != 0);
    }
    sample.pods.retain(|_, containers| !containers.is_empty());
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kubelet_says_is_read() {
        let text = r##"# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 4.710169 1690440340000
container_cpu_usage_seconds_total{container="only-cpu",namespace="ns",pod="p"} 1
container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 1.253376e+07 1690440340000
container_memory_working_set_bytes{container="no-cpu",namespace="ns",pod="q"} 5 1690440340000
container_start_time_seconds{container="c",namespace="ns",pod="p"} 1.69e+09 1690440340000
node_cpu_usage_seconds_total 357.35491 1690440341000
node_memory_working_set_bytes 1.616273408e+09 1690440341000
container_cpu_usage_seconds_total{container="without a pod"} 1
other{text="a } \" brace",x="y"} NaN
broken{
resource_scrape_error 0
"##;
        let sample = parse(text, 7);
        let node = Point {
            at: 1_690_440_341_000,
            cpu_nanos: 357_354_910_000,
            memory_bytes: 1_616_273_408,
            started: None,
        };
        assert_eq!(sample.node, Some(node));
        let c = Point {
            at: 1_690_440_340_000,
            cpu_nanos: 4_710_169_000,
            memory_bytes: 12_533_760,
            started: Some(1_690_000_000_000),
        };
        let only_cpu = Point { at: 7, cpu_nanos: 1_000_000_000, ..Point::default() };
        assert_eq!(sample.pods.len(), 1);
        let want = HashMap::from([("c".to_owned(), c), ("only-cpu".to_owned(), only_cpu)]);
        assert_eq!(sample.pods["ns/p"], want);
        assert_eq!(parse("", 7), Sample::default());
        assert_eq!(Line::parse(r#"a{x="}",y="q\"",z="1"} 1"#).unwrap().label("z"), Some("1"));
    }
}
