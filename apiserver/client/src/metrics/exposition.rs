//! The text format that Prometheus' and upstream's own readers take (version 0.0.4), out of OpenMetrics.

use std::collections::HashSet;
use std::fmt::Write;

/// What a scrape is answered with.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// OpenMetrics names a counter without its `_total`, and ends with a mark.
pub fn plain(text: &str) -> String {
    let types = || text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let counters: HashSet<&str> =
        types().filter(|(_, type_)| *type_ == "counter").map(|(name, _)| name).collect();
    let infos: HashSet<&str> = types().filter(|(_, type_)| *type_ == "info").map(|(name, _)| name).collect();
    let mut out = String::with_capacity(text.len() + counters.len() * 12);
    for line in text.lines() {
        let about = line.strip_prefix("# HELP ").map(|rest| ("HELP", rest));
        let about = about.or_else(|| line.strip_prefix("# TYPE ").map(|rest| ("TYPE", rest)));
        let written = match about.and_then(|(what, rest)| Some((what, rest.split_once(' ')?))) {
            Some((what, (name, rest))) if counters.contains(name) => {
                writeln!(out, "# {what} {name}_total {rest}")
            }
            Some((what, (name, rest))) if infos.contains(name) => {
                let rest = if what == "TYPE" { "gauge" } else { rest };
                writeln!(out, "# {what} {name}_info {rest}")
            }
            _ if line == "# EOF" => Ok(()),
            _ => writeln!(out, "{line}"),
        };
        // A string takes everything.
        let _ = written;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_whole_name() {
        let text = "# HELP a A.\n# TYPE a counter\na_total{x=\"1\"} 2\n# HELP b B.\n# TYPE b gauge\nb 1\n# HELP k K.\n# TYPE k info\nk_info{v=\"1\"} 1\n# EOF\n";
        let want = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\"} 2\n# HELP b B.\n# TYPE b gauge\nb 1\n# HELP k_info K.\n# TYPE k_info gauge\nk_info{v=\"1\"} 1\n";
        assert_eq!(plain(text), want);
    }
}
