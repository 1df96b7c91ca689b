//! Prometheus' text format, as kubelets write it: families with their samples, with the time of the reading or without.

use std::fmt::Write;

use jiff::Timestamp;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text that grows by families.
pub struct Exposition {
    text: String,
    name: &'static str,
    /// In milliseconds since 1970.
    at: Option<i64>,
}

#[derive(Clone, Copy)]
pub enum Sort {
    Counter,
    Gauge,
    Histogram,
}

impl Exposition {
    /// Samples of this moment.
    pub fn now() -> Self {
        Self { text: String::new(), name: "", at: None }
    }

    /// Samples that say when they were read.
    pub fn at(time: Timestamp) -> Self {
        Self { at: Some(time.as_millisecond()), ..Self::now() }
    }

    pub fn family(&mut self, name: &'static str, sort: Sort, help: &str) -> &mut Self {
        self.name = name;
        let sort = match sort {
            Sort::Counter => "counter",
            Sort::Gauge => "gauge",
            Sort::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {sort}");
        self
    }

    /// Of the last family.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.named("", labels, value)
    }

    /// As [`Self::sample`], with a name that goes on after the family's (`_sum`).
    fn named(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = write!(self.text, " {value}");
        if let Some(at) = self.at {
            let _ = write!(self.text, " {at}");
        }
        self.text.push('\n');
        self
    }

    /// A histogram: how many were within each bound but not the one before, and at last beyond all; and their sum.
    #[allow(clippy::cast_precision_loss)]
    pub fn histogram(&mut self, labels: &[(&str, &str)], bounds: &[f64], counts: &[u64], sum: f64) {
        let mut below = 0u64;
        for (index, count) in counts.iter().enumerate() {
            below += count;
            let bound = bounds.get(index).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.named("_bucket", &labels, below as f64);
        }
        self.named("_sum", labels, sum).named("_count", labels, below as f64);
    }

    pub fn text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written() {
        let mut text = Exposition::at(Timestamp::from_millisecond(5).unwrap());
        text.family("a", Sort::Gauge, "what a is")
            .sample(&[], 1.5)
            .sample(&[("x", "q\"\\\n"), ("y", "")], 2.0);
        assert_eq!(
            text.text(),
            "# HELP a what a is\n# TYPE a gauge\na 1.5 5\na{x=\"q\\\"\\\\\\n\",y=\"\"} 2 5\n"
        );
        let mut text = Exposition::now();
        text.family("h", Sort::Histogram, "times").histogram(&[("p", "x")], &[0.1, 1.0], &[2, 0, 1], 3.25);
        assert_eq!(
            text.text(),
            "# HELP h times\n# TYPE h histogram\nh_bucket{p=\"x\",le=\"0.1\"} 2\nh_bucket{p=\"x\",le=\"1\"} 2\n\
             h_bucket{p=\"x\",le=\"+Inf\"} 3\nh_sum{p=\"x\"} 3.25\nh_count{p=\"x\"} 3\n"
        );
    }
}
