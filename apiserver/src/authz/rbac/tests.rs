//! Decisions over an index: bindings everywhere and in a namespace, accounts, groups, missing roles, changes, speed.

use std::time::Instant;

use coracle_client::Object;
use serde_json::{Value, json};

use super::*;

fn object(value: Value) -> Arc<Object> {
    Object::parse(serde_json::to_vec(&value).unwrap().into(), &[]).unwrap()
}

fn role(name: &str, namespace: &str, verb: &str, resource: &str) -> Arc<Object> {
    object(json!({
        "metadata": {"name": name, "namespace": namespace},
        "rules": [{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]
    }))
}

fn binding(name: &str, namespace: &str, role: (&str, &str), subject: Value) -> Arc<Object> {
    object(json!({
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1},
        "subjects": [{"kind": "User", "name": "nobody"}, subject]
    }))
}

fn set(index: &mut Index, part: Part, object: Arc<Object>) {
    let key: Arc<str> = match &*object.head.namespace {
        "" => (&*object.head.name).into(),
        namespace => format!("{namespace}/{}", object.head.name).into(),
    };
    index.set(part, &key, Some(object));
}

fn decide(index: &Index, identity: &Identity, namespace: &str, verb: &str) -> Result<String, Vec<String>> {
    let attributes = Attributes {
        verb: verb.into(),
        resource: "pods".into(),
        namespace: namespace.into(),
        ..Attributes::default()
    };
    super::decide(index, identity, &attributes).map(|grant| grant.to_string())
}

#[test]
fn a_binding_counts_where_it_is_for_whom_it_names() {
    let mut index = Index::default();
    set(&mut index, Part::ClusterRoles, role("reader", "", "get", "pods"));
    set(&mut index, Part::Roles, role("writer", "a", "create", "pods"));
    let account = json!({"kind": "ServiceAccount", "name": "robot"});
    let jane = json!({"kind": "User", "name": "jane"});
    let devs = json!({"kind": "Group", "name": "devs"});
    set(&mut index, Part::ClusterBindings, binding("all", "", ("ClusterRole", "reader"), devs));
    set(&mut index, Part::Bindings, binding("one", "a", ("ClusterRole", "reader"), jane.clone()));
    set(&mut index, Part::Bindings, binding("two", "a", ("Role", "writer"), account));
    set(&mut index, Part::Bindings, binding("lost", "b", ("Role", "gone"), jane));

    let jane = Identity::new("jane", &[]);
    let dev = Identity::new("joe", &["devs"]);
    let robot = Identity::new("system:serviceaccount:a:robot", &["system:serviceaccounts"]);
    let other = Identity::new("system:serviceaccount:b:robot", &["system:serviceaccounts"]);
    assert_eq!(
        decide(&index, &dev, "b", "get").unwrap(),
        r#"RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "reader" to Group "devs""#
    );
    assert_eq!(
        decide(&index, &jane, "a", "get").unwrap(),
        r#"RBAC: allowed by RoleBinding "one/a" of ClusterRole "reader" to User "jane""#
    );
    assert_eq!(
        decide(&index, &robot, "a", "create").unwrap(),
        r#"RBAC: allowed by RoleBinding "two/a" of Role "writer" to ServiceAccount "robot/a""#
    );
    assert!(decide(&index, &dev, "", "get").is_ok());
    let none: Vec<String> = Vec::new();
    assert_eq!(decide(&index, &jane, "", "get").unwrap_err(), none);
    assert_eq!(decide(&index, &jane, "a", "create").unwrap_err(), none);
    assert_eq!(decide(&index, &other, "a", "create").unwrap_err(), none);
    assert_eq!(
        decide(&index, &jane, "b", "get").unwrap_err(),
        [r#"role.rbac.authorization.k8s.io "gone" not found"#]
    );

    // What is changed or deleted counts no more.
    index.set(Part::ClusterBindings, &"all".into(), None);
    assert!(decide(&index, &dev, "b", "get").is_err());
    set(
        &mut index,
        Part::Bindings,
        binding("one", "a", ("ClusterRole", "reader"), json!({"kind": "User", "name": "joe"})),
    );
    assert!(decide(&index, &jane, "a", "get").is_err());
    assert!(decide(&index, &dev, "a", "get").is_ok());
    index.clear(Part::Bindings);
    assert!(decide(&index, &dev, "a", "get").is_err());
    assert!(decide(&index, &robot, "a", "create").is_err());
}

/// 1,000 roles and 10,000 bindings: what is not the sender's costs nothing.
#[test]
fn a_decision_is_cheap_however_many_bindings_there_are() {
    let mut small = Index::default();
    let mut large = Index::default();
    for index in [&mut small, &mut large] {
        set(index, Part::ClusterRoles, role("reader", "", "get", "pods"));
        let jane = json!({"kind": "User", "name": "jane"});
        set(index, Part::Bindings, binding("jane", "ns1", ("ClusterRole", "reader"), jane));
    }
    for i in 0..1_000 {
        set(&mut large, Part::Roles, role(&format!("r{i}"), &format!("ns{}", i % 100), "get", "pods"));
    }
    for i in 0..10_000 {
        let subject = json!({"kind": "User", "name": format!("user{}", i % 5_000)});
        let namespace = format!("ns{}", i % 100);
        let name = format!("b{i}");
        set(&mut large, Part::Bindings, binding(&name, &namespace, ("Role", "r1"), subject));
    }
    let jane = Identity::new("jane", &["devs", "ops", "others"]);
    let time = |index: &Index| {
        let started = Instant::now();
        for _ in 0..10_000 {
            assert!(decide(index, &jane, "ns1", "get").is_ok());
            assert!(decide(index, &jane, "ns2", "get").is_err());
        }
        started.elapsed()
    };
    let (few, many) = (time(&small), time(&large));
    println!("20,000 decisions: {few:?} with one binding, {many:?} with 10,001");
    assert!(many < few * 5, "{few:?} with one binding, {many:?} with 10,001");
}
