//! The plan of a DaemonSet, case by case.

use coracle_client::Object;
use serde_json::{Value, json};

use super::*;
use crate::testing::from;

const NOW: &str = "2026-01-01T01:00:00Z";
const ON_DELETE: &str = r#"{"type": "OnDelete"}"#;

fn rolling(unavailable: &str) -> String {
    format!(
        r#"{{"type": "RollingUpdate", "rollingUpdate": {{"maxUnavailable": {unavailable}, "maxSurge": 0}}}}"#
    )
}

fn surging(surge: &str) -> String {
    format!(r#"{{"type": "RollingUpdate", "rollingUpdate": {{"maxUnavailable": 0, "maxSurge": {surge}}}}}"#)
}

fn set(strategy: &str, more: Value) -> DaemonSet {
    let strategy: Value = serde_json::from_str(strategy).unwrap();
    let mut value = json!({"metadata": {"namespace": "ns", "name": "d", "uid": "d"},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {}, "updateStrategy": strategy}});
    for (field, wanted) in more.as_object().unwrap() {
        value["spec"][field] = wanted.clone();
    }
    from(value)
}

/// `a1`: pod 1 of node a, available and of the wanted template. After it: `o` of an old template, `n` not ready,
/// `j` ready just now, `f` failed, `s` succeeded, `t` terminating, `u` unbound.
fn daemon(text: &str) -> Daemon {
    let (id, flags) = text.split_at(2);
    let has = |flag: char| flags.contains(flag);
    let phase = match () {
        () if has('f') => "Failed",
        () if has('s') => "Succeeded",
        () if has('n') || has('u') => "Pending",
        () => "Running",
    };
    let since = if has('j') { "2026-01-01T00:59:55Z" } else { "2026-01-01T00:00:00Z" };
    let node = &id[..1];
    let pinned = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}});
    let mut value = json!({
        "metadata": {"namespace": "ns", "name": id, "uid": id,
            "creationTimestamp": format!("2026-01-01T00:00:0{}Z", &id[1..]),
            "labels": {"controller-revision-hash": if has('o') { "old" } else { "new" }}},
        "spec": if has('u') { json!({"affinity": pinned}) } else { json!({"nodeName": node}) },
        "status": {"phase": phase, "conditions": [{"type": "Ready", "lastTransitionTime": since,
            "status": if phase == "Running" { "True" } else { "False" }}]}});
    if has('t') {
        value["metadata"]["deletionTimestamp"] = json!(NOW);
    }
    let object = Object::parse(value.to_string().into(), &["spec.nodeName", "status.phase"]).unwrap();
    Daemon::parse(&object).unwrap()
}

/// `a` a node that suits, `a-` one where daemons may stay only, `a!` one where they may not.
fn node(text: &str) -> (Arc<Node>, Fit) {
    let fit = match &text[1..] {
        "-" => Fit { run: false, stay: true },
        "!" => Fit::default(),
        _ => Fit { run: true, stay: true },
    };
    (Arc::new(Node { name: text[..1].into(), ..Node::default() }), fit)
}

/// `+a` a pod for node a, `-a1` pod a1 goes.
fn shown(plan: &Plan) -> String {
    let create = plan.create.iter().map(|node| format!("+{node}"));
    let delete = plan.delete.iter().map(|pod| format!("-{}", pod.name()));
    create.chain(delete).collect::<Vec<_>>().join(" ")
}

fn planned(set: &DaemonSet, nodes: &str, daemons: &str, held: &str) -> Plan {
    let nodes: Vec<_> = nodes.split_whitespace().map(node).collect();
    let daemons: Vec<_> = daemons.split_whitespace().map(daemon).collect();
    let wait = |node: &str| held.contains(node).then_some(Duration::from_secs(7));
    let state = State { set, hash: "new", nodes: &nodes, daemons: &daemons, wait: &wait };
    plan(&state, NOW.parse().unwrap())
}

fn check(strategy: &str, more: Value, cases: &[(&str, &str, &str)]) {
    let set = set(strategy, more);
    for (nodes, daemons, want) in cases {
        assert_eq!(
            shown(&planned(&set, nodes, daemons, "")),
            *want,
            "nodes «{nodes}» pods «{daemons}» {strategy}"
        );
    }
}

#[test]
fn every_node_that_suits_has_one() {
    for strategy in [rolling("1"), ON_DELETE.into(), surging("1")] {
        check(
            &strategy,
            json!({}),
            &[
                ("", "", ""),
                ("a b c", "", "+a +b +c"),
                ("a b c", "a1 c1", "+b"),
                ("a b c", "a1 b1 c1", ""),
                ("a b! c-", "", "+a"),
                // What runs stays where it may, and goes where it may not.
                ("a b! c-", "a1 b1 c1", "-b1"),
                ("a!", "a1t", ""),
                ("a!", "a1n a2", "-a1 -a2"),
                // Not bound yet is there already.
                ("a b", "a1u", "+b"),
                // A node that is gone: what waits for it goes, what is bound the pod collector takes.
                ("a", "a1 b1u", "-b1"),
                ("a", "a1 b1", ""),
            ],
        );
    }
}

#[test]
fn of_two_on_a_node_the_oldest_stays() {
    check(
        ON_DELETE,
        json!({}),
        &[
            ("a", "a1 a2", "-a2"),
            ("a", "a2 a1n a3", "-a2 -a3"),
            // The bound one is meant, whatever its age.
            ("a", "a1u a2", "-a1"),
            ("a", "a1t a2", ""),
        ],
    );
}

#[test]
fn what_is_over_is_replaced_after_a_while() {
    let set = set(&rolling("1"), json!({}));
    for (daemons, held, want, over, again) in [
        ("a1f", "", "-a1", 1, None),
        ("a1s", "", "-a1", 1, None),
        ("a1s", "a", "-a1", 1, None),
        ("a1ft", "", "+a", 0, None),
        ("a1f", "a", "", 0, Some(Duration::from_secs(7))),
        ("a1f b1f", "a", "-b1", 1, Some(Duration::from_secs(7))),
        ("a1f a2 b1", "", "-a1", 1, None),
    ] {
        let nodes = if daemons.contains('b') { "a b" } else { "a" };
        let plan = planned(&set, nodes, daemons, held);
        assert_eq!(
            (shown(&plan).as_str(), plan.over.len(), plan.again),
            (want, over, again),
            "{daemons} {held}"
        );
    }
}

#[test]
fn an_update_replaces_as_many_as_may_be_unavailable() {
    check(
        &rolling("1"),
        json!({}),
        &[
            ("a b c", "a1o b1o c1o", "-a1"),
            ("a b c", "a1ot b1o c1o", ""),
            ("a b c", "b1o c1o", "+a"),
            ("a b c", "a2n b1o c1o", ""),
            ("a b c", "a2 b1o c1o", "-b1"),
            ("a b c", "a2 b2 c1o", "-c1"),
            ("a b c", "a2 b2 c2", ""),
            // What is not available anyway goes at once.
            ("a b c", "a1o b1on c1on", "-b1 -c1 -a1"),
            ("a b c", "a2n b1on c1o", "-b1"),
            // One that may only stay is updated too, which empties its node.
            ("a- b", "a1o b1", "-a1"),
        ],
    );
    check(&rolling("2"), json!({}), &[("a b c", "a1o b1o c1o", "-a1 -b1"), ("a b c", "a1ot b1o c1o", "-b1")]);
    // Rounded up.
    check(&rolling(r#""50%""#), json!({}), &[("a b c", "a1o b1o c1o", "-a1 -b1")]);
    check(&rolling(r#""1%""#), json!({}), &[("a b c", "a1o b1o c1o", "-a1")]);
    check(&rolling(r#""100%""#), json!({}), &[("a b c", "a1o b1o c1o", "-a1 -b1 -c1")]);
    check(&rolling("0"), json!({}), &[("a b c", "a1o b1o c1o", "-a1")]);
    check(ON_DELETE, json!({}), &[("a b c", "a1o b1on c1o", "")]);
}

#[test]
fn a_new_one_counts_once_it_was_ready_for_long_enough() {
    let slow = json!({"minReadySeconds": 10});
    check(&rolling("1"), slow.clone(), &[("a b", "a2j b1o", ""), ("a b", "a2 b1o", "-b1")]);
    check(&surging("1"), slow, &[("a", "a1o a2j", ""), ("a", "a1o a2", "-a1")]);
    check(&rolling("1"), json!({"minReadySeconds": 3}), &[("a b", "a2j b1o", "-b1")]);
}

#[test]
fn a_surge_starts_the_new_one_beside_the_old() {
    check(
        &surging("1"),
        json!({}),
        &[
            ("a b", "a1o b1o", "+a"),
            ("a b", "a1o a2n b1o", ""),
            ("a b", "a1o a2 b1o", "-a1"),
            ("a b", "a1ot a2 b1o", "+b"),
            ("a b", "a2 b1o", "+b"),
            ("a b", "a2 b2", ""),
            // An old one that does not serve is replaced at once, beyond the surge.
            ("a b c", "a1on b1on c1o", "+a +b +c"),
            ("a b", "a1on a2n b1o", "-a1"),
            // One that goes does not hold the next one up.
            ("a b", "a1t b1", "+a"),
            ("a-", "a1t", ""),
            // More than two on a node: one of each stays.
            ("a", "a1o a2o a3n", "-a2"),
            ("a", "a1 a2", "-a2"),
        ],
    );
    check(&surging("2"), json!({}), &[("a b c", "a1o b1o c1o", "+a +b"), ("a b c", "a1o a2n b1o c1o", "+b")]);
    check(&surging(r#""50%""#), json!({}), &[("a b c", "a1o b1o c1o", "+a +b")]);
}

#[test]
fn a_surge_keeps_what_serves_where_nodes_no_longer_suit() {
    check(
        &surging("1"),
        json!({}),
        &[
            // The daemon of a serves until that of b is available.
            ("a- b", "a1o b1n", ""),
            ("a- b", "a1o b1", "-a1"),
            ("a- b", "a1on b1n", "-a1"),
        ],
    );
}

#[test]
fn one_sync_does_so_much_and_no_more() {
    let set = set(&rolling("1"), json!({}));
    let nodes: Vec<_> = (0..600)
        .map(|i| {
            (
                Arc::new(Node { name: format!("n{i:03}").into(), ..Node::default() }),
                Fit { run: true, stay: true },
            )
        })
        .collect();
    let state = State { set: &set, hash: "new", nodes: &nodes, daemons: &[], wait: &|_| None };
    assert_eq!(plan(&state, NOW.parse().unwrap()).create.len(), BURST);
}

#[test]
fn the_status_counts_nodes() {
    let set = set(&rolling("1"), json!({"minReadySeconds": 10}));
    for (nodes, daemons, want) in [
        ("a b c", "", [3, 0, 0, 0, 0, 0, 3]),
        ("a b c", "a1 b1o c1n", [3, 3, 0, 2, 2, 2, 1]),
        ("a b- c!", "a1j b1 c1", [1, 1, 2, 1, 0, 1, 1]),
        ("a", "a1o a2", [1, 1, 0, 1, 1, 0, 0]),
        ("a", "a1ft", [1, 0, 0, 0, 0, 0, 1]),
        ("a b", "a1u", [2, 1, 0, 0, 0, 1, 2]),
    ] {
        let nodes: Vec<_> = nodes.split_whitespace().map(node).collect();
        let daemons: Vec<_> = daemons.split_whitespace().map(daemon).collect();
        let s = super::super::status::status(&set, "new", &nodes, &daemons, 0, true, NOW.parse().unwrap());
        let got = [
            s.desired_number_scheduled,
            s.current_number_scheduled,
            s.number_misscheduled,
            s.number_ready,
            s.number_available.unwrap_or(0),
            s.updated_number_scheduled.unwrap_or(0),
            s.number_unavailable.unwrap_or(0),
        ];
        assert_eq!(got, want, "{daemons:?}");
    }
}
