//! The default policy reads as upstream's, and what is missing of it comes back.

use super::*;

#[test]
fn the_table_reads_as_upstreams_objects() {
    let policy = Policy::default_policy();
    let counts = (
        policy.cluster_roles.len(),
        policy.cluster_bindings.len(),
        policy.roles.len(),
        policy.bindings.len(),
    );
    // One role is metrics-server's.
    assert_eq!(counts, (70, 50, 8, 8));
    let role = |name: &str| {
        let named = |r: &&ClusterRole| r.metadata.name.as_deref() == Some(name);
        serde_json::to_value(policy.cluster_roles.iter().find(named).unwrap()).unwrap()
    };
    assert_eq!(
        role("cluster-admin")["rules"],
        serde_json::json!([
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]}
        ])
    );
    let edit = role("edit");
    assert_eq!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
    assert_eq!(
        edit["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"],
        serde_json::json!({"rbac.authorization.k8s.io/aggregate-to-edit": "true"})
    );
    let leader = policy
        .bindings
        .iter()
        .find(|b| b.metadata.name.as_deref() == Some("system::leader-locking-kube-scheduler"))
        .unwrap();
    assert_eq!(leader.metadata.namespace.as_deref(), Some("kube-system"));
    assert_eq!(leader.role_ref.kind, "Role");
    assert_eq!(leader.role_ref.name, "system::leader-locking-kube-scheduler");
    let subjects = leader.subjects.as_deref().unwrap();
    assert_eq!((subjects[0].kind.as_str(), subjects[0].name.as_str()), ("User", "system:kube-scheduler"));
    assert_eq!(subjects[1].kind, "ServiceAccount");
    assert_eq!(subjects[1].namespace.as_deref(), Some("kube-system"));
    assert_eq!(subjects[1].api_group, None);
}

#[test]
fn every_object_is_valid() {
    let policy = Policy::default_policy();
    let kinds = crate::kinds::all();
    let check = |kind: &str, object: &dyn crate::object::ApiObject| {
        let def = kinds.iter().find(|def| def.resource.kind() == kind).unwrap();
        let mut errors = crate::field_error::Errors::default();
        def.ops.validate(object, &mut errors);
        assert!(errors.is_empty(), "{kind} {:?}: {errors:?}", object.meta().name);
    };
    policy.cluster_roles.iter().for_each(|o| check("ClusterRole", o));
    policy.roles.iter().for_each(|o| check("Role", o));
    policy.cluster_bindings.iter().for_each(|o| check("ClusterRoleBinding", o));
    policy.bindings.iter().for_each(|o| check("RoleBinding", o));
}

#[test]
fn what_somebody_took_away_comes_back_and_what_they_added_stays() {
    let policy = Policy::default_policy();
    let wanted = policy.cluster_roles.iter().find(|r| r.metadata.name.as_deref() == Some("edit")).unwrap();
    let mut current = wanted.clone();
    assert!(!current.add_missing(wanted));
    current.metadata.labels = None;
    current.aggregation_rule = None;
    let own = PolicyRule {
        verbs: vec!["get".into()],
        api_groups: Some(vec!["example.com".into()]),
        resources: Some(vec!["things".into()]),
        ..PolicyRule::default()
    };
    current.rules = Some(vec![own.clone()]);
    assert!(current.add_missing(wanted));
    assert_eq!(current.aggregation_rule, wanted.aggregation_rule);
    assert_eq!(current.metadata.labels, wanted.metadata.labels);
    assert!(current.rules.unwrap().contains(&own));

    let wanted =
        policy.cluster_roles.iter().find(|r| r.metadata.name.as_deref() == Some("system:discovery")).unwrap();
    let mut current = wanted.clone();
    current.rules = Some(vec![own]);
    assert!(current.add_missing(wanted));
    assert!(missing(current.rules.as_deref().unwrap(), wanted.rules.as_deref().unwrap()).is_empty());

    let wanted = &policy.cluster_bindings[0];
    let mut current = wanted.clone();
    current.subjects = None;
    assert!(current.add_missing(wanted));
    assert_eq!(current.subjects, wanted.subjects);
    current.role_ref.name = "view".into();
    assert!(current.is_other(wanted));
}
