//! The plan of a StatefulSet, case by case.

use serde_json::{Value, json};

use super::*;
use crate::testing::from;

const NOW: &str = "2026-01-01T01:00:00Z";

fn set(spec: Value) -> StatefulSet {
    let mut value = json!({"metadata": {"namespace": "ns", "name": "web", "uid": "set"},
        "spec": {"replicas": 3, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}}, "template": {},
            "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}});
    for (field, wanted) in spec.as_object().unwrap() {
        value["spec"][field] = wanted.clone();
    }
    from(value)
}

/// `2`: ordinal 2, ready. After it: `p` pending, `n` running and not ready, `j` ready just now, `f` failed,
/// `s` succeeded, `t` terminating, `o` of the old revision, `x` without its label.
fn member(set: &StatefulSet, text: &str) -> Member {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (digits, flags) = text.split_at(at);
    let has = |flag: char| flags.contains(flag);
    let name = format!("web-{digits}");
    let phase = match () {
        () if has('p') => "Pending",
        () if has('f') => "Failed",
        () if has('s') => "Succeeded",
        () => "Running",
    };
    let ready = phase == "Running" && !has('n');
    let since = if has('j') { "2026-01-01T00:59:55Z" } else { "2026-01-01T00:00:00Z" };
    let mut value = json!({
        "metadata": {"namespace": "ns", "name": name, "uid": name, "labels": {
            "controller-revision-hash": if has('o') { "web-1" } else { "web-2" },
            "statefulset.kubernetes.io/pod-name": if has('x') { "" } else { &name }}},
        "spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": format!("data-{name}")}}]},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
            "lastTransitionTime": since}]}});
    if has('t') {
        value["metadata"]["deletionTimestamp"] = json!(NOW);
    }
    let object = Object::parse(value.to_string().into(), &["status.phase"]).unwrap();
    Member::parse(&object, set, digits.parse().unwrap()).unwrap()
}

/// `2` a claim that nobody owns, `2s` one that the set owns, `2p` its pod, `2b` the pod before.
fn claim(text: &str) -> (String, Arc<Object>) {
    let (digits, flag) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let pod = format!("web-{digits}");
    let owner = |version: &str, kind: &str, name: &str, uid: &str| json!([{"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true}]);
    let owners = match flag {
        "s" => owner("apps/v1", "StatefulSet", "web", "set"),
        "p" => owner("v1", "Pod", &pod, &pod),
        "b" => owner("v1", "Pod", &pod, "before"),
        _ => json!([]),
    };
    let name = format!("data-{pod}");
    let value = json!({"metadata": {"namespace": "ns", "name": name, "ownerReferences": owners}});
    (name, Object::parse(value.to_string().into(), &[]).unwrap())
}

/// `+3` create, `+3o` of the old revision, `-3` delete, `c3` claims, `i3` identity, `w3` owners; stages by `|`.
fn shown(plan: &Plan) -> String {
    let action = |action: &Action| match action {
        Action::Create { ordinal, updated } => format!("+{ordinal}{}", if *updated { "" } else { "o" }),
        Action::Delete(m) => format!("-{}", m.ordinal),
        Action::CreateClaims(m) => format!("c{}", m.ordinal),
        Action::Conform(m) => format!("i{}", m.ordinal),
        Action::Own(m) => format!("w{}", m.ordinal),
    };
    let stage = |stage: &Vec<Action>| stage.iter().map(action).collect::<Vec<_>>().join(" ");
    plan.stages.iter().map(stage).collect::<Vec<_>>().join(" | ")
}

fn planned(set: &StatefulSet, pods: &str, claims: &str) -> Plan {
    let members: Vec<Member> = pods.split_whitespace().map(|text| member(set, text)).collect();
    let claims: Vec<(String, Arc<Object>)> = claims.split_whitespace().map(claim).collect();
    let find = |name: &str| claims.iter().find(|(n, _)| n == name).map(|(_, claim)| claim.clone());
    let state = State { set, members: &members, current: "web-1", update: "web-2", claim: &find };
    plan(&state, NOW.parse().unwrap())
}

fn check(spec: Value, cases: &[(&str, &str)]) {
    let set = set(spec);
    for (pods, want) in cases {
        assert_eq!(
            shown(&planned(&set, pods, "")),
            *want,
            "«{pods}» of {:?}",
            set.spec.pod_management_policy
        );
    }
}

#[test]
fn in_order_each_pod_waits_for_those_before_it() {
    check(
        json!({}),
        &[
            ("", "+0"),
            ("0p", ""),
            ("0n", ""),
            ("0t", ""),
            ("0", "+1"),
            ("0 1n", ""),
            ("0 1", "+2"),
            ("0 1 2", ""),
            ("0n 1 2", ""),
            // A gap is filled before anything else, however many follow.
            ("1 2", "+0"),
            ("0 2", "+1"),
            ("0n 2", ""),
        ],
    );
}

#[test]
fn what_is_over_is_made_again() {
    check(
        json!({}),
        &[
            ("0f 1 2", "-0"),
            ("0s 1 2", "-0"),
            ("0ft 1 2", ""),
            ("0 1f", "-1"),
            ("0n 1f", ""),
            ("0 1 2 3f", "-3"),
        ],
    );
    check(json!({"podManagementPolicy": "Parallel"}), &[("0f 1s 2", "-0 -1"), ("0f", "-0 +1 +2")]);
}

#[test]
fn in_order_the_last_goes_first_and_only_when_all_are_well() {
    check(
        json!({"replicas": 1}),
        &[
            ("0 1 2", "-2"),
            ("0 1 2t", ""),
            ("0n 1 2", ""),
            ("0 1n 2", "-2"),
            ("0 1 2n", "-2"),
            // The last is broken, but so is one before it, for which it waits.
            ("0 1n 2n", ""),
            ("0 1t 2n", ""),
        ],
    );
    check(json!({"replicas": 0}), &[("0", "-0"), ("0n", "-0"), ("0 1", "-1")]);
}

#[test]
fn in_parallel_everything_happens_at_once() {
    check(
        json!({"podManagementPolicy": "Parallel"}),
        &[
            ("", "+0 +1 +2"),
            ("0n", "+1 +2"),
            ("0t 1", "+2"),
            ("0 1 2 3 4n", "-4 -3"),
            ("0 3 4t", "+1 +2 | -3"),
        ],
    );
    check(json!({"podManagementPolicy": "Parallel", "replicas": 0}), &[("0 1n 2t", "-1 -0")]);
}

#[test]
fn ordinals_start_where_they_are_told_to() {
    check(
        json!({"ordinals": {"start": 5}}),
        &[
            ("", "+5"),
            ("5 6", "+7"),
            ("5 6 7", ""),
            ("5 6 7 8", "-8"),
            // Those below the start go too, after those above.
            ("4 5 6 7 8", "-8"),
            ("0 4 5 6 7", "-4"),
        ],
    );
    check(
        json!({"ordinals": {"start": 5}, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
        &[("5o 6o 7o", "-7"), ("5o 6o 7", ""), ("5o", "+6o"), ("5o 6o", "+7")],
    );
}

#[test]
fn an_update_replaces_pods_from_the_last_one_at_a_time() {
    check(
        json!({}),
        &[
            ("0o 1o 2o", "-2"),
            ("0o 1o 2ot", ""),
            ("0o 1o", "+2"),
            ("0o 1o 2p", ""),
            ("0o 1o 2n", ""),
            ("0o 1o 2", "-1"),
            ("0o 1 2", "-0"),
            ("0 1 2", ""),
            // A rollout that is stuck stays so until its broken pod is deleted.
            ("0o 1o 2on", ""),
            // Scaling goes before updating.
            ("0o 1o 2o 3o", "-3"),
        ],
    );
}

#[test]
fn a_partition_keeps_the_pods_below_it() {
    let partition =
        |n: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": n}}});
    check(partition(2), &[("0o 1o 2o", "-2"), ("0o 1o 2", ""), ("", "+0o"), ("0o 1o", "+2"), ("0o", "+1o")]);
    check(partition(3), &[("0o 1o 2o", ""), ("0o 1o", "+2o")]);
    check(partition(9), &[("0o 1o 2o", "")]);
    check(partition(1), &[("0o 1o 2", "-1")]);
}

#[test]
fn on_delete_replaces_only_what_is_deleted() {
    check(json!({"updateStrategy": {"type": "OnDelete"}}), &[("0o 1o 2o", ""), ("0o 2o", "+1"), ("", "+0")]);
}

#[test]
fn without_a_partition_new_pods_keep_the_revision_of_those_that_stay() {
    let mut set = set(json!({"updateStrategy": {"type": "RollingUpdate"}}));
    set.status = Some(from(json!({"replicas": 2, "currentReplicas": 2})));
    assert_eq!(shown(&planned(&set, "0o", "")), "+1o");
    assert_eq!(shown(&planned(&set, "0o 1o", "")), "+2");
}

#[test]
fn more_may_be_unavailable_where_it_is_said_so() {
    let rolling = |value: Value, policy: &str, replicas: i32| {
        json!({"replicas": replicas, "podManagementPolicy": policy,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": value}}})
    };
    check(
        rolling(json!(2), "OrderedReady", 5),
        &[
            ("0o 1o 2o 3o 4o", "-4 -3"),
            ("0o 1o 2o 3o 4ot", ""),
            ("0o 1o 2o 3o", "+4"),
            ("0o 1o 2o 3 4", "-2 -1"),
            ("0o 1 2 3 4", "-0"),
        ],
    );
    check(
        rolling(json!(2), "Parallel", 5),
        &[
            ("0o 1o 2o 3o 4o", "-4 -3"),
            ("0o 1o 2o 3o 4ot", "-3"),
            ("0o 1o 2o 3ot 4ot", ""),
            ("0o 1o 2o 3n 4", "-2"),
            ("0o 1o 2o 3n 4n", ""),
            ("0o 1o 2o 3o", "+4 | -3"),
            // What an old revision broke does not hold the new one up.
            ("0on 1on 2on 3on 4on", "-4 -3"),
            ("0on 1on 2on 3on 4n", "-3"),
        ],
    );
    check(
        rolling(json!(1), "Parallel", 3),
        &[("0on 1on 2on", "-2"), ("0on 1on 2n", ""), ("0on 1on 2", "-1")],
    );
    // Rounded down, and never to none.
    check(rolling(json!("50%"), "Parallel", 5), &[("0o 1o 2o 3o 4o", "-4 -3")]);
    check(rolling(json!("10%"), "Parallel", 5), &[("0o 1o 2o 3o 4o", "-4")]);
    check(rolling(json!("100%"), "Parallel", 3), &[("0o 1o 2o", "-2 -1 -0")]);
}

#[test]
fn ready_counts_once_it_has_lasted() {
    let slow = |policy: &str| json!({"minReadySeconds": 10, "podManagementPolicy": policy});
    check(
        slow("OrderedReady"),
        &[("0j", ""), ("0", "+1"), ("0 1 2 3j", "-3"), ("0o 1o 2j", ""), ("0o 1o 2", "-1")],
    );
    check(slow("Parallel"), &[("0j", "+1 +2"), ("0o 1o 2j", "")]);
    check(json!({"minReadySeconds": 4}), &[("0j", "+1")]);
}

#[test]
fn a_set_that_is_going_does_nothing() {
    let mut set = set(json!({}));
    set.metadata.deletion_timestamp = Some(from(json!(NOW)));
    for pods in ["", "0 1 2 3", "0f", "0o 1o 2o"] {
        assert_eq!(shown(&planned(&set, pods, "")), "", "{pods}");
    }
}

#[test]
fn an_adopted_pod_gets_its_identity() {
    check(json!({}), &[("0x", "i0 +1"), ("0xn", ""), ("0 1x 2", "i1")]);
    check(json!({"podManagementPolicy": "Parallel"}), &[("0xn 1 2", "i0")]);
}

#[test]
fn claims_are_made_kept_and_left_by_the_policy() {
    let claims = |when_scaled: &str, when_deleted: &str, policy: &str| {
        set(json!({"podManagementPolicy": policy,
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": when_scaled, "whenDeleted": when_deleted},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}))
    };
    for (when_scaled, when_deleted, policy, pods, present, want) in [
        ("Retain", "Retain", "OrderedReady", "0p", "", "c0"),
        ("Retain", "Retain", "OrderedReady", "0p", "0", ""),
        ("Retain", "Retain", "OrderedReady", "0 1 2", "", ""),
        ("Retain", "Retain", "Parallel", "0p 1p 2", "1", "c0"),
        ("Retain", "Retain", "OrderedReady", "0 1 2", "0s 1 2", "w0"),
        ("Retain", "Delete", "OrderedReady", "0 1 2", "0 1s 2s", "w0"),
        ("Retain", "Delete", "OrderedReady", "0 1 2 3", "0s 1s 2s 3s", "-3"),
        ("Delete", "Retain", "OrderedReady", "0 1 2 3", "0 1 2 3", "w3 | -3"),
        ("Delete", "Retain", "OrderedReady", "0 1 2 3", "0 1 2 3p", "-3"),
        ("Delete", "Retain", "OrderedReady", "0 1 2", "0 1 2p", "w2"),
        ("Delete", "Delete", "OrderedReady", "0 1 2 3", "0s 1s 2s 3s", "w3 | -3"),
        ("Delete", "Delete", "Parallel", "0 1 2 3 4", "0s 1s 2s 3s 4s", "w4 w3 | -4 -3"),
        // The claim of the pod before goes with it: the new pod waits for that.
        ("Delete", "Retain", "OrderedReady", "0 1", "0 1 2b", ""),
        ("Delete", "Retain", "Parallel", "0", "0 2b", "+1"),
        ("Retain", "Retain", "OrderedReady", "0 1", "0 1 2b", "+2"),
    ] {
        let set = claims(when_scaled, when_deleted, policy);
        let got = shown(&planned(&set, pods, present));
        assert_eq!(got, want, "{when_scaled}/{when_deleted} {policy} «{pods}» with «{present}»");
    }
}

#[test]
fn deletions_for_the_update_are_counted() {
    let set = set(json!({}));
    assert_eq!(planned(&set, "0o 1o 2o", "").outdated, 1);
    assert_eq!(planned(&set, "0o 1o 2o 3o", "").outdated, 0);
    let (creations, deletions) = planned(&set, "0o 1o 2o", "").pods();
    assert_eq!((creations, deletions), (0, vec![Box::from("web-2")]));
}
