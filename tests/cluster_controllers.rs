//! What controllers do to a cluster as its users see it: namespaces vanish, owners take along what is theirs, tokens
//! count as long as their Secrets, the cluster's description is signed, taints drive pods away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::process::Command;

use harness::{Cluster, ControlPlane, Output, eventually, python};
use serde_json::json;

fn says(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in:\n{text}");
}

fn create(cluster: &Cluster, manifest: &str) {
    cluster.kubectl_version(33).with_input(&["create", "-f", "-"], manifest).success();
}

/// Waits until the command prints exactly this.
fn prints(cluster: &Cluster, what: &str, command: &str, wanted: &str) {
    eventually(what, || {
        let output = cluster.try_kubectl(command);
        let got = format!("{}{}", output.stdout.trim(), output.stderr.trim());
        if got == wanted { Ok(()) } else { Err(got) }
    });
}

fn gone(cluster: &Cluster, object: &str) {
    eventually(&format!("{object} to be gone"), || {
        let output = cluster.try_kubectl(&format!("get {object} -o name"));
        if output.stderr.contains("NotFound") { Ok(()) } else { Err(format!("{output:?}")) }
    });
}

const WIDGETS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
"#;

/// An object in a namespace, owned by others: (kind with version, name, uid, blocking).
fn owned(kind: &str, name: &str, owners: &[(&str, &str, &str, bool)]) -> String {
    let version = |kind: &str| if kind == "Widget" { "example.com/v1" } else { "v1" };
    let references: Vec<String> = owners
        .iter()
        .map(|(kind, name, uid, block)| {
            format!(
                r#"{{"apiVersion":"{}","kind":"{kind}","name":"{name}","uid":"{uid}","blockOwnerDeletion":{block}}}"#,
                version(kind)
            )
        })
        .collect();
    format!(
        r#"{{"apiVersion":"{}","kind":"{kind}","metadata":{{"name":"{name}","ownerReferences":[{}]}}}}"#,
        version(kind),
        references.join(",")
    )
}

#[test]
fn namespaces_vanish_and_owners_take_along_what_is_theirs() {
    let cluster = Cluster::start();
    let k = |command: &str| cluster.kubectl(command);
    cluster.apply(WIDGETS);
    k("wait --for condition=established crd/widgets.example.com --timeout 30s");

    // A namespace with content of all sorts, one of which is held.
    k("create namespace doomed");
    k("create configmap held -n doomed");
    k(r#"patch configmap held -n doomed --type merge -p {"metadata":{"finalizers":["example.com/hold"]}}"#);
    k("create serviceaccount robot -n doomed");
    k("create quota q -n doomed --hard=count/widgets.example.com=5");
    cluster
        .kubectl_version(33)
        .with_input(&["create", "-n", "doomed", "-f", "-"], &owned("Widget", "w", &[]))
        .success();
    prints(
        &cluster,
        "custom resources count",
        "get quota q -n doomed -o jsonpath={.status.used}",
        r#"{"count/widgets.example.com":"1"}"#,
    );
    k("delete namespace doomed --wait=false");
    eventually("the namespace to say what holds it", || {
        let conditions = k("get namespace doomed -o jsonpath={.status.conditions[*].message}");
        let wanted = [
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
            "Some resources are remaining: configmaps. has 1 resource instances",
            "All resources successfully discovered",
        ];
        if wanted.iter().all(|w| conditions.contains(w)) { Ok(()) } else { Err(conditions) }
    });
    assert_eq!(k("get widgets,serviceaccounts,quota -n doomed -o name"), "");
    let refused = cluster.try_kubectl("create configmap late -n doomed").failure();
    says(&refused, "because it is being terminated");
    k(r#"patch configmap held -n doomed --type merge -p {"metadata":{"finalizers":null}}"#);
    gone(&cluster, "namespace/doomed");

    // Quotas follow what goes.
    k("create quota q --hard=count/widgets.example.com=1");
    prints(
        &cluster,
        "the quota is shown",
        "get quota q -o jsonpath={.status.used}",
        r#"{"count/widgets.example.com":"0"}"#,
    );
    create(&cluster, &owned("Widget", "one", &[]));
    let two = cluster
        .kubectl_version(33)
        .with_input(&["create", "-f", "-"], &owned("Widget", "two", &[]))
        .failure();
    says(
        &two,
        "exceeded quota: q, requested: count/widgets.example.com=1, used: count/widgets.example.com=1",
    );
    k("delete widget one");
    prints(
        &cluster,
        "room again",
        "get quota q -o jsonpath={.status.used}",
        r#"{"count/widgets.example.com":"0"}"#,
    );
    k("delete quota q");

    // A custom resource owns a built-in one, and that another custom one.
    let uid = |object: &str| k(&format!("get {object} -o jsonpath={{.metadata.uid}}"));
    create(&cluster, &owned("Widget", "root", &[]));
    create(&cluster, &owned("ConfigMap", "middle", &[("Widget", "root", &uid("widget/root"), true)]));
    create(&cluster, &owned("Widget", "leaf", &[("ConfigMap", "middle", &uid("configmap/middle"), true)]));
    k("delete widget root --cascade=foreground --timeout 60s");
    assert_eq!(k("get widgets -o name"), "");
    gone(&cluster, "configmap/middle");

    // Orphans stay, without their owner.
    create(&cluster, &owned("Widget", "root", &[]));
    create(&cluster, &owned("ConfigMap", "orphan", &[("Widget", "root", &uid("widget/root"), true)]));
    k("delete widget root --cascade=orphan");
    assert_eq!(k("get configmap orphan -o jsonpath={.metadata.ownerReferences}"), "");

    // Each waits for the next, and the last for the first: no reason to wait for ever.
    for name in ["c1", "c2", "c3"] {
        create(&cluster, &owned("ConfigMap", name, &[]));
    }
    for (name, owner) in [("c1", "c3"), ("c2", "c1"), ("c3", "c2")] {
        let owner_uid = uid(&format!("configmap/{owner}"));
        k(&format!(
            r#"patch configmap {name} --type merge -p {{"metadata":{{"ownerReferences":[{{"apiVersion":"v1","kind":"ConfigMap","name":"{owner}","uid":"{owner_uid}","controller":true,"blockOwnerDeletion":true}}]}}}}"#
        ));
    }
    k("delete configmap c1 --cascade=foreground --timeout 60s");
    gone(&cluster, "configmap/c2");
    gone(&cluster, "configmap/c3");

    // An owner made anew under its name is another owner; one of two that stays is enough.
    create(&cluster, &owned("ConfigMap", "first", &[]));
    create(&cluster, &owned("ConfigMap", "second", &[]));
    let (first, second) = (uid("configmap/first"), uid("configmap/second"));
    let both = [("ConfigMap", "first", first.as_str(), true), ("ConfigMap", "second", second.as_str(), true)];
    create(&cluster, &owned("ConfigMap", "shared", &both));
    create(&cluster, &owned("ConfigMap", "only-first", &both[..1]));
    k("delete configmap first --cascade=foreground --timeout 60s");
    create(&cluster, &owned("ConfigMap", "first", &[]));
    gone(&cluster, "configmap/only-first");
    prints(
        &cluster,
        "the absent owner is dropped",
        "get configmap shared -o jsonpath={.metadata.ownerReferences[*].name}",
        "second",
    );

    // Owners are not looked for in other namespaces, and that is said.
    k("create namespace elsewhere");
    let far = k("create configmap far -n elsewhere -o jsonpath={.metadata.uid}");
    create(&cluster, &owned("ConfigMap", "near", &[("ConfigMap", "far", &far, true)]));
    eventually("the wrong owner to be reported", || {
        let events =
            k("get events --field-selector reason=OwnerRefInvalidNamespace -o jsonpath={.items[*].message}");
        if events.contains("does not exist in namespace \"default\"") { Ok(()) } else { Err(events) }
    });

    // A policy says which of its expressions cannot be.
    cluster.apply(
        r#"{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicy","metadata":{"name":"typed"},"spec":{
            "matchConstraints":{"resourceRules":[{"apiGroups":["apps"],"apiVersions":["v1"],"operations":["CREATE"],"resources":["deployments"]}]},
            "validations":[{"expression":"object.spec.replicas > 1"},{"expression":"object.foo > 1"}]}}"#,
    );
    eventually("the policy's types to be checked", || {
        let status = k("get validatingadmissionpolicy typed -o jsonpath={.status}");
        let wanted = [
            r#""observedGeneration":1"#,
            r#""fieldRef":"spec.validations[1].expression""#,
            "apps/v1, Kind=Deployment: ERROR: \\u003cinput\\u003e:1:7: undefined field 'foo'",
        ];
        let fits = wanted.iter().all(|w| status.contains(w)) && !status.contains("validations[0]");
        if fits { Ok(()) } else { Err(status) }
    });

    // A node port is one service's, and free when that lets go of it.
    let service = |name: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}"}},"spec":{{"type":"NodePort","ports":[{{"port":80,"nodePort":31234}}]}}}}"#
        )
    };
    create(&cluster, &service("has-it"));
    let refused =
        cluster.kubectl_version(33).with_input(&["create", "-f", "-"], &service("wants-it")).failure();
    says(&refused, "provided port is already allocated");
    k("delete service has-it");
    create(&cluster, &service("wants-it"));
    k(r#"patch service wants-it -p {"spec":{"type":"ClusterIP","ports":[{"port":80,"nodePort":null}]}}"#);
    eventually("the port to be free", || {
        let output = cluster.kubectl_version(33).with_input(&["create", "-f", "-"], &service("third"));
        if output.code == Some(0) { Ok(()) } else { Err(output.stderr) }
    });

    // Endpoints that somebody wrote are mirrored.
    create(
        &cluster,
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"outside"},"spec":{"ports":[{"port":5432}]}}"#,
    );
    create(
        &cluster,
        r#"{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"outside"},"subsets":[{"addresses":[{"ip":"192.0.2.7"}],"ports":[{"port":5432}]}]}"#,
    );
    let slices = "get endpointslices -l kubernetes.io/service-name=outside,endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io -o jsonpath={.items[*].endpoints[*].addresses[*]}";
    prints(&cluster, "mirrored", slices, "192.0.2.7");
    k("delete endpoints outside");
    prints(&cluster, "no longer mirrored", slices, "");
}

fn with_token(cluster: &Cluster, token: &str, command: &str) -> Output {
    let ca = cluster.data().join("pki/ca.crt");
    let mut words: Vec<&str> =
        vec!["--kubeconfig", "/dev/null", "--server", cluster.server(), "--token", token];
    words.extend(["--certificate-authority", ca.to_str().unwrap()]);
    words.extend(command.split(' '));
    cluster.kubectl_version(33).attempt(&words)
}

/// Verifies a detached signature: its arguments are signature, token secret and content.
const VERIFY: &str = r#"
import base64, hashlib, hmac, sys
signature, key, content = sys.argv[1:]
url = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
header, empty, tag = signature.split(".")
assert empty == ""
good = url(hmac.new(key.encode(), f"{header}.{url(content.encode())}".encode(), hashlib.sha256).digest())
print("good" if hmac.compare_digest(good, tag) else "bad")
"#;

#[test]
fn tokens_live_as_long_as_their_secrets_and_sign_the_clusters_description() {
    let cluster = Cluster::start();
    let k = |command: &str| cluster.kubectl(command);
    k("create serviceaccount robot");
    create(
        &cluster,
        r#"{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/service-account-token","metadata":{"name":"robot-token","annotations":{"kubernetes.io/service-account.name":"robot"}}}"#,
    );
    let token = eventually("a token in the Secret", || {
        let token = k("get secret robot-token -o go-template={{.data.token|base64decode}}");
        if token.matches('.').count() == 2 { Ok(token) } else { Err(token) }
    });
    assert_eq!(k("get secret robot-token -o go-template={{.data.namespace|base64decode}}"), "default");
    says(&k(r"get secret robot-token -o jsonpath={.data.ca\.crt}"), "LS0t");
    says(&with_token(&cluster, &token, "auth whoami").success(), "system:serviceaccount:default:robot");
    eventually("its use to be noted", || {
        let labels = k("get secret robot-token -o jsonpath={.metadata.labels}");
        if labels.contains("kubernetes.io/legacy-token-last-used") { Ok(()) } else { Err(labels) }
    });
    says(
        &k(
            "get configmap kube-apiserver-legacy-service-account-token-tracking -n kube-system -o jsonpath={.data.since}",
        ),
        "20",
    );
    k("label secret robot-token kubernetes.io/legacy-token-invalid-since=2026-01-01");
    eventually("an invalid token to be refused", || {
        let output = with_token(&cluster, &token, "auth whoami");
        if output.stderr.contains("Unauthorized") { Ok(()) } else { Err(format!("{output:?}")) }
    });
    k("label secret robot-token kubernetes.io/legacy-token-invalid-since-");
    eventually("the token to count again", || {
        let output = with_token(&cluster, &token, "auth whoami");
        if output.code == Some(0) { Ok(()) } else { Err(format!("{output:?}")) }
    });
    k("delete serviceaccount robot");
    gone(&cluster, "secret/robot-token");
    says(&with_token(&cluster, &token, "auth whoami").failure(), "Unauthorized");

    // What the cluster says of itself, to whoever asks.
    let join = std::fs::read_to_string(cluster.data().join("node-token")).unwrap();
    let parts: Vec<&str> = join.trim().split('.').collect();
    let [_, _, id, secret] = parts[..] else { panic!("{join}") };
    let public = "/api/v1/namespaces/kube-public/configmaps";
    let https = cluster.https();
    let info = eventually("a signature", || {
        let info = https.anonymous("GET", &format!("{public}/cluster-info"), &[]).json();
        if info["data"][format!("jws-kubeconfig-{id}")].is_string() {
            Ok(info)
        } else {
            Err(info.to_string())
        }
    });
    let kubeconfig = info["data"]["kubeconfig"].as_str().unwrap();
    says(kubeconfig, cluster.server());
    let signature = info["data"][format!("jws-kubeconfig-{id}")].as_str().unwrap();
    let verdict = |secret: &str| {
        let output =
            Command::new(python()).args(["-c", VERIFY, signature, secret, kubeconfig]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(verdict(secret), "good");
    assert_eq!(verdict("0123456789abcdef"), "bad");
    assert_eq!(https.anonymous("GET", public, &[]).status, 403);

    // A token that is over goes, and does not sign.
    create(
        &cluster,
        r#"{"apiVersion":"v1","kind":"Secret","type":"bootstrap.kubernetes.io/token","metadata":{"name":"bootstrap-token-abcdef","namespace":"kube-system"},"stringData":{"token-id":"abcdef","token-secret":"0123456789abcdef","usage-bootstrap-signing":"true","expiration":"2020-01-01T00:00:00Z"}}"#,
    );
    gone(&cluster, "secret/bootstrap-token-abcdef -n kube-system");
}

#[test]
fn taints_drive_pods_away_when_their_time_is_over() {
    let cluster = Cluster::start();
    let k = |command: &str| cluster.kubectl(command);
    let node = k("get nodes -o jsonpath={.items[0].metadata.name}");
    let pod = |name: &str, tolerations: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":1,"nodeName":"{node}","tolerations":[{tolerations}],"containers":[{{"name":"c","image":"nowhere.invalid/none:v1"}}]}}}}"#
        )
    };
    let tolerate =
        |seconds: &str| format!(r#"{{"key":"test","operator":"Exists","effect":"NoExecute"{seconds}}}"#);
    create(&cluster, &pod("at-once", ""));
    create(&cluster, &pod("soon", &tolerate(r#","tolerationSeconds":3"#)));
    create(&cluster, &pod("later", &tolerate(r#","tolerationSeconds":3600"#)));
    create(&cluster, &pod("never", &tolerate("")));
    k(&format!("taint node {node} test=x:NoExecute"));
    gone(&cluster, "pod/at-once");
    gone(&cluster, "pod/soon");
    let names = k("get pods -o jsonpath={.items[*].metadata.name}");
    assert_eq!(names, "later never");
    eventually("the events", || {
        let events =
            k("get events --field-selector reason=TaintManagerEviction -o jsonpath={.items[*].message}");
        let wanted = ["Marking for deletion Pod default/at-once", "Marking for deletion Pod default/soon"];
        if wanted.iter().all(|w| events.contains(w)) { Ok(()) } else { Err(events) }
    });
    k(&format!("taint node {node} test-"));
    eventually("the reprieve", || {
        let events =
            k("get events --field-selector reason=TaintManagerEviction -o jsonpath={.items[*].message}");
        if events.contains("Cancelling deletion of Pod default/later") { Ok(()) } else { Err(events) }
    });
}

#[test]
fn services_of_two_families_have_addresses_and_slices_of_each() {
    let cluster = ControlPlane::start_with(&["--service-cidr", "10.96.0.0/16,fd00:96::/112"]);
    let ranges = cluster.kubectl("get servicecidr kubernetes -o jsonpath={.spec.cidrs}");
    assert_eq!(ranges, r#"["10.96.0.0/16","fd00:96::/112"]"#);
    cluster.apply(
        r#"
apiVersion: v1
kind: Service
metadata: {name: both}
spec: {ipFamilyPolicy: RequireDualStack, selector: {app: x}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: one}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-a}
"#,
    );
    let families =
        |name: &str| cluster.kubectl(&format!("get service {name} -o jsonpath={{.spec.ipFamilies}}"));
    assert_eq!(families("both"), r#"["IPv4","IPv6"]"#);
    assert_eq!(families("one"), r#"["IPv4"]"#);
    let addresses = cluster.kubectl("get service both -o jsonpath={.spec.clusterIPs[*]}");
    for address in addresses.split_whitespace() {
        let parent =
            cluster.kubectl(&format!("get ipaddress {address} -o jsonpath={{.spec.parentRef.name}}"));
        assert_eq!(parent, "both", "{address}");
    }
    assert_eq!(addresses.split_whitespace().count(), 2, "{addresses}");

    // A pod as a node of two families would show it: each slice has the address of its family.
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "x"}},
        "spec": {"nodeName": "node-a", "containers": [{"name": "c", "image": "i"}]}});
    let api = cluster.https();
    eventually("the pod", || {
        let made = api.post(pods, pod.to_string());
        if made.status == 201 { Ok(()) } else { Err(made.text()) }
    });
    let mut pod = api.get(&format!("{pods}/p")).json();
    pod["status"] = json!({"phase": "Running", "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}, {"ip": "fd00:244::9"}],
        "conditions": [{"type": "Ready", "status": "True"}]});
    let shown = api.put(&format!("{pods}/p/status"), &pod);
    assert_eq!(shown.status, 200, "{}", shown.text());
    let slices = || {
        let list = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dboth";
        let list = api.get(list).json();
        let shown = list["items"].as_array().unwrap().iter().map(|slice| {
            format!("{} {}", slice["addressType"], slice["endpoints"][0]["addresses"]).replace('"', "")
        });
        let mut shown: Vec<String> = shown.collect();
        shown.sort_unstable();
        shown
    };
    eventually("a slice of each family", || {
        let found = slices();
        if found == ["IPv4 [10.244.0.9]", "IPv6 [fd00:244::9]"] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    cluster.kubectl("patch service both --type merge -p {\"spec\":{\"ipFamilyPolicy\":\"SingleStack\"}}");
    eventually("one slice", || {
        let found = slices();
        if found == ["IPv4 [10.244.0.9]"] { Ok(()) } else { Err(format!("{found:?}")) }
    });
}
