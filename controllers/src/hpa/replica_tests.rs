//! How many replicas metrics ask for, case by case.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::hpa::metrics::{PodMetrics, Sample};
use crate::hpa::replicas::{
    Asked, Proposal, Tolerance, WarmUp, by_average, by_utilization, by_value, by_value_per_pod,
};

const NOW: i64 = 1_000_000;

fn at(ago: i64) -> Timestamp {
    Timestamp::from_second(NOW - ago).unwrap()
}

fn asked(replicas: i32) -> Asked {
    let warm_up = WarmUp { cpu: Duration::from_secs(300), readiness: Duration::from_secs(30) };
    Asked { replicas, tolerance: Tolerance { up: 0.1, down: 0.1 }, warm_up, now: at(0) }
}

/// `r`: ready for long, `u`: unready since its start, `l`: lately unready, `p`: pending, `f`: failed, `d`: going,
/// `y`: young and ready, sampled since. Each asks for a whole CPU.
fn pods(text: &str) -> Vec<Pod> {
    let one = |(n, c): (usize, char)| {
        let (phase, ready, started, changed) = match c {
            'u' => ("Running", "False", 3600, 3590),
            'l' => ("Running", "False", 3600, 60),
            'p' => ("Pending", "False", 10, 10),
            'f' => ("Failed", "False", 3600, 60),
            'y' => ("Running", "True", 120, 110),
            _ => ("Running", "True", 3600, 3500),
        };
        let mut pod = json!({"metadata": {"name": format!("p{n}")},
            "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "memory": "1k"}}}]},
            "status": {"phase": phase, "startTime": at(started), "conditions":
                [{"type": "Ready", "status": ready, "lastTransitionTime": at(changed)}]}});
        if c == 'd' {
            pod["metadata"]["deletionTimestamp"] = json!(at(5));
        }
        serde_json::from_value(pod).unwrap()
    };
    text.chars().enumerate().map(one).collect()
}

/// In thousandths; -1: there is none.
fn metrics(values: &[i64]) -> PodMetrics {
    let sample = |milli: i64| Sample { milli, at: at(0), window: Duration::from_secs(60) };
    let known = values.iter().enumerate().filter(|(_, value)| **value >= 0);
    known.map(|(n, value)| (format!("p{n}"), sample(*value))).collect()
}

#[test]
fn utilization_of_requests() {
    for (what, text, values, current, target, replicas, utilization) in [
        ("up", "rrr", vec![300, 500, 700], 3, 30, 5, 50),
        ("down", "rrrrr", vec![100, 300, 500, 250, 250], 5, 50, 3, 28),
        ("as it is", "rrr", vec![1010, 1030, 1020], 3, 100, 3, 102),
        ("within tolerance", "rrr", vec![1090, 1090, 1090], 3, 100, 3, 109),
        ("beyond tolerance", "rrr", vec![1120, 1120, 1120], 3, 100, 4, 112),
        ("unready ones do not count when it shrinks", "rru", vec![300, 300, 900], 3, 60, 1, 30),
        ("unready ones count as idle when it grows", "rru", vec![900, 900, 900], 3, 60, 3, 90),
        ("pending ones as well", "rp", vec![900, -1], 2, 30, 3, 90),
        ("one that was ready before counts", "rl", vec![900, 900], 2, 30, 6, 90),
        ("failed ones are ignored", "rrf", vec![300, 300, -1], 2, 30, 2, 30),
        ("going ones are ignored", "rrd", vec![500, 500, 500], 3, 25, 4, 50),
        ("missing ones use all when it shrinks", "rrr", vec![200, 200, -1], 3, 50, 3, 20),
        ("missing ones use all, and still it shrinks", "rrrr", vec![10, 10, 10, -1], 4, 90, 2, 1),
        ("missing ones use nothing when it grows", "rrr", vec![900, 900, -1], 3, 50, 4, 90),
        ("missing ones keep it from growing", "rrr", vec![600, 600, -1], 3, 50, 3, 60),
        ("young ones count once they were sampled", "yr", vec![900, 900], 2, 30, 6, 90),
    ] {
        let found = by_utilization(&pods(text), &metrics(&values), "cpu", None, target, &asked(current));
        let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((found.replicas, found.utilization), (replicas, Some(utilization)), "{what}");
    }
}

#[test]
fn averages() {
    for (what, text, values, current, target, replicas, average) in [
        ("up", "rrr", vec![20_000, 10_000, 30_000], 3, 15_000, 4, 20_000),
        ("down", "rrrrr", vec![12_000; 5], 5, 20_000, 3, 12_000),
        ("as it is", "rrr", vec![20_000, 21_000, 21_000], 3, 20_000, 3, 20_666),
        ("missing when it shrinks", "rrr", vec![1_000, 1_000, -1], 3, 10_000, 2, 1_000),
        ("missing when it grows", "rrr", vec![30_000, 30_000, -1], 3, 15_000, 4, 30_000),
        ("pending when it grows", "rp", vec![50_000, -1], 2, 15_000, 4, 50_000),
        ("unready ones count: it is no CPU", "ru", vec![30_000, 30_000], 2, 15_000, 4, 30_000),
    ] {
        let found = by_average(&pods(text), &metrics(&values), "", target, &asked(current));
        let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((found.replicas, found.average), (replicas, Some(average)), "{what}");
    }
}

#[test]
fn figures_of_the_whole() {
    for (what, text, usage, target, current, replicas) in [
        ("up", "rrr", 20_000, 15_000, 3, 4),
        ("down", "rrrrr", 12_000, 20_000, 5, 3),
        ("as it is", "rrr", 15_500, 15_000, 3, 3),
        ("only ready pods count", "rrpp", 30_000, 15_000, 4, 4),
        ("from none", "", 45_000, 15_000, 0, 3),
        ("to none", "rr", 0, 15_000, 2, 0),
    ] {
        let want = Proposal { replicas, value: Some(usage), ..Proposal::default() };
        assert_eq!(by_value(&pods(text), usage, target, &asked(current)), want, "{what}");
    }
    for (what, usage, target, present, replicas, average) in [
        ("up", 80_000, 20_000, 3, 4, 26_667),
        ("down", 30_000, 20_000, 5, 2, 6_000),
        ("as it is", 61_000, 20_000, 3, 3, 20_334),
        ("to none", 0, 20_000, 3, 0, 0),
    ] {
        let want = Proposal { replicas, average: Some(average), ..Proposal::default() };
        assert_eq!(by_value_per_pod(present, usage, target, &asked(present)), want, "{what}");
    }
}

#[test]
fn tolerances_may_differ_by_direction() {
    let asked = Asked { tolerance: Tolerance { up: 0.0, down: 0.5 }, ..asked(2) };
    let figure =
        |value: i64| by_average(&pods("rr"), &metrics(&[value, value]), "", 1000, &asked).unwrap().replicas;
    assert_eq!((figure(1010), figure(1000), figure(600), figure(400)), (3, 2, 2, 1));
}

#[test]
fn what_cannot_be_known_is_said() {
    let wrong = |text: &str, values: &[i64], resource: &str| {
        by_utilization(&pods(text), &metrics(values), resource, None, 50, &asked(1)).unwrap_err()
    };
    assert_eq!(wrong("", &[], "cpu"), "no pods returned by selector while calculating replica count");
    let unready = "did not receive metrics for targeted pods (pods might be unready)";
    assert_eq!(wrong("rr", &[], "cpu"), unready);
    assert_eq!(wrong("u", &[500], "cpu"), unready);
    assert_eq!(wrong("r", &[500], "disk"), "missing request for disk in container a of Pod p0");
}
