//! Who may do what, as kubectl and guests meet it: roles, tokens, impersonation, certificates, reviews.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Cluster, eventually};

fn says(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in:\n{text}");
}

/// kubectl with a token and nothing else.
fn with_token(cluster: &Cluster, token: &str, command: &str) -> harness::Output {
    let ca = cluster.data().join("pki/ca.crt");
    let mut words: Vec<&str> =
        vec!["--kubeconfig", "/dev/null", "--server", cluster.server(), "--token", token];
    words.extend(["--certificate-authority", ca.to_str().unwrap()]);
    words.extend(command.split(' '));
    cluster.kubectl_version(33).attempt(&words)
}

#[test]
fn roles_give_and_take() {
    let cluster = Cluster::start();
    let k = |command: &str| cluster.kubectl(command);
    let forbidden = cluster.try_kubectl("get pods --as jane").failure();
    says(
        &forbidden,
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
    );

    // Upstream's roles are there, and gathered.
    let view = k("get clusterrole view -o jsonpath={.rules[*].resources}");
    says(&view, "pods/log");
    assert!(!view.contains("secrets"), "{view}");
    k("create rolebinding jane --clusterrole view --user jane");
    k("get pods --as jane");
    assert_eq!(cluster.try_kubectl("auth can-i get secrets --as jane").stdout.trim(), "no");
    k("create clusterrole more --verb get --resource secrets");
    k("label clusterrole more rbac.authorization.k8s.io/aggregate-to-view=true");
    eventually("the rule in view", || {
        let answer = cluster.try_kubectl("auth can-i get secrets --as jane").stdout;
        if answer.trim() == "yes" { Ok(()) } else { Err(answer) }
    });
    says(&k("auth can-i --list --as jane"), "pods/log");
    k("delete rolebinding jane");
    says(&cluster.try_kubectl("get pods --as jane").failure(), "forbidden");

    // Nobody gives what they do not have.
    k(
        "create role granter --verb create,get,list --resource roles.rbac.authorization.k8s.io,rolebindings.rbac.authorization.k8s.io",
    );
    k("create rolebinding granter --role granter --group granters");
    let escalating = "create role mine --verb get --resource pods --as joe --as-group granters";
    says(
        &cluster.try_kubectl(escalating).failure(),
        "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}",
    );
    let binding = "create rolebinding mine --clusterrole edit --user joe --as joe --as-group granters";
    says(
        &cluster.try_kubectl(binding).failure(),
        "is attempting to grant RBAC permissions not currently held",
    );
    k(
        "create clusterrole binder --verb bind --resource clusterroles.rbac.authorization.k8s.io --resource-name edit",
    );
    k("create rolebinding binder --clusterrole binder --group granters");
    k(binding);

    let changed =
        cluster.try_kubectl("patch rolebinding binder --type merge -p {\"roleRef\":{\"name\":\"view\"}}");
    says(&changed.failure(), "cannot change roleRef");
    let reconciled = cluster.kubectl_version(33).with_input(
        &["auth", "reconcile", "-f", "-"],
        r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"r","namespace":"default"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}"#,
    );
    says(&reconciled.success(), "reconciled");
}

#[test]
fn somebody_else_is_acted_as_where_that_is_allowed() {
    let cluster = Cluster::start();
    let k = |command: &str| cluster.kubectl(command);
    let who = k("auth whoami --as jane --as-group devs --as-uid u1");
    for part in ["jane", "u1", "[devs system:authenticated]"] {
        says(&who, part);
    }
    says(
        &k("auth whoami --as system:serviceaccount:a:b"),
        "[system:serviceaccounts system:serviceaccounts:a system:authenticated]",
    );

    k("create serviceaccount robot");
    let token = k("create token robot");
    let refused = with_token(&cluster, &token, "get --raw /version --as jane").failure();
    says(&refused, "User \"system:serviceaccount:default:robot\" cannot impersonate");
    k("create clusterrole impersonator --verb impersonate --resource users --resource-name jane");
    k("create clusterrolebinding impersonator --clusterrole impersonator --serviceaccount default:robot");
    says(&with_token(&cluster, &token, "auth whoami --as jane").success(), "jane");
    says(&with_token(&cluster, &token, "get --raw /version --as joe").failure(), "cannot impersonate");
    says(
        &with_token(&cluster, &token, "get --raw /version --as jane --as-group system:masters").failure(),
        "forbidden",
    );
}

#[test]
fn tokens_are_bound_and_end() {
    let cluster = Cluster::start();
    let k = |command: &str| cluster.kubectl(command);
    k("create serviceaccount robot");
    let short = cluster.try_kubectl("create token robot --duration 10s").failure();
    says(&short, "may not specify a duration less than 10 minutes");
    let elsewhere = k("create token robot --audience vault");
    says(&with_token(&cluster, &elsewhere, "auth whoami").failure(), "Unauthorized");
    let review = format!(
        r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{{"token":"{}","audiences":["vault"]}}}}"#,
        elsewhere.trim()
    );
    let answer = cluster.https().post("/apis/authentication.k8s.io/v1/tokenreviews", review).json();
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");
    assert_eq!(answer["status"]["audiences"][0], "vault");
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:robot");

    k("create secret generic anchor");
    let bound = k("create token robot --bound-object-kind Secret --bound-object-name anchor");
    says(&with_token(&cluster, &bound, "auth whoami").success(), "JTI=");
    says(&with_token(&cluster, &bound, "get --raw /openid/v1/jwks").success(), "\"kty\":\"EC\"");
    k("delete secret anchor");
    says(&with_token(&cluster, &bound, "auth whoami").failure(), "Unauthorized");
}

/// The one file of that name below a directory.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(directory).ok()?.flatten().collect();
    entries.iter().find_map(|entry| {
        let path = entry.path();
        if entry.file_name() == name {
            return Some(path);
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) { find(&path, name) } else { None }
    })
}

#[test]
fn a_pod_has_its_accounts_token_until_it_is_gone() {
    let cluster = Cluster::start_with_samples();
    let k = |command: &str| cluster.kubectl(command);
    // In a namespace so new that its account is yet to come.
    let manifest = r#"
apiVersion: v1
kind: Namespace
metadata: {name: fresh}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: fresh}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "coracle.dev/samples/tcp-echo:v1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: without, namespace: fresh}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "coracle.dev/samples/tcp-echo:v1"}]
"#;
    cluster.apply(manifest);
    k("wait -n fresh pod/p pod/without --for condition=Ready --timeout 30s");
    let path = "-o jsonpath={.spec.containers[0].volumeMounts[*].mountPath}";
    assert_eq!(k(&format!("get pod -n fresh p {path}")), "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(k(&format!("get pod -n fresh without {path}")), "");

    let uid = k("get pod -n fresh p -o jsonpath={.metadata.uid}");
    let homes = [cluster.data(), PathBuf::from("/dev/shm")];
    let volume = homes.iter().find_map(|home| find(home, &uid).filter(|v| find(v, "token").is_some()));
    let volume = volume.unwrap_or_else(|| panic!("no volume of {uid}"));
    let read = |name: &str| std::fs::read_to_string(find(&volume, name).unwrap()).unwrap();
    assert_eq!(read("namespace"), "fresh");
    says(&read("ca.crt"), "BEGIN CERTIFICATE");
    let token = read("token");
    let who = with_token(&cluster, &token, "auth whoami").success();
    for part in ["system:serviceaccount:fresh:default", "pod-name", "node-name", &uid] {
        says(&who, part);
    }
    says(&with_token(&cluster, &token, "get pods -n fresh").failure(), "forbidden");
    k("create rolebinding own -n fresh --clusterrole view --serviceaccount fresh:default");
    says(&with_token(&cluster, &token, "get pods -n fresh").success(), "Running");
    k("delete pod -n fresh p");
    eventually("the token's end", || {
        let output = with_token(&cluster, &token, "auth whoami");
        if output.code == Some(0) { Err(output.stdout) } else { Ok(()) }
    });
}

#[test]
fn a_person_gets_a_certificate_when_somebody_may_approve_it() {
    let cluster = Cluster::start();
    let k = |command: &str| cluster.kubectl(command);
    let request = |name: &str, subject: &[(rcgen::DnType, &str)]| {
        let mut params = rcgen::CertificateParams::default();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let encoded = base64(&pem);
        let manifest = format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec: {{signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], request: {encoded}}}\n"
        );
        (key, cluster.kubectl_version(33).with_input(&["create", "-f", "-"], &manifest))
    };
    use rcgen::DnType::{CommonName, OrganizationName};
    let (_, refused) = request("master", &[(CommonName, "m"), (OrganizationName, "system:masters")]);
    says(&refused.failure(), "with system:masters group is not allowed");
    let (key, made) = request("jane", &[(CommonName, "jane"), (OrganizationName, "devs")]);
    made.success();
    k(
        "create clusterrole approver --verb get,update --resource certificatesigningrequests,certificatesigningrequests/approval",
    );
    k("create clusterrolebinding approver --clusterrole approver --user joe");
    says(
        &cluster.try_kubectl("certificate approve jane --as joe").failure(),
        "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\"",
    );
    cluster.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: signers}\nrules: [{apiGroups: [certificates.k8s.io], resources: [signers], resourceNames: [kubernetes.io/kube-apiserver-client], verbs: [approve]}]\n",
    );
    k("create clusterrolebinding signers --clusterrole signers --user joe");
    k("certificate approve jane --as joe");
    let certificate = eventually("the certificate", || {
        let encoded = k("get csr jane -o jsonpath={.status.certificate}");
        if encoded.is_empty() { Err("none yet".into()) } else { Ok(encoded) }
    });
    let directory = cluster.directory();
    let (file, key_file) = (directory.join("jane.crt"), directory.join("jane.key"));
    let decoded = Command::new("sh")
        .args(["-c", &format!("echo {certificate} | base64 -d > {}", file.display())])
        .status()
        .unwrap();
    assert!(decoded.success());
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let ca = cluster.data().join("pki/ca.crt");
    let words = [
        "--kubeconfig",
        "/dev/null",
        "--server",
        cluster.server(),
        "--certificate-authority",
        ca.to_str().unwrap(),
        "--client-certificate",
        file.to_str().unwrap(),
        "--client-key",
        key_file.to_str().unwrap(),
        "auth",
        "whoami",
    ];
    let who = cluster.kubectl_version(33).attempt(&words).success();
    for part in ["jane", "[devs system:authenticated]", "X509SHA256="] {
        says(&who, part);
    }
}

fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let letter = char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]);
            out.push(if at <= chunk.len() { letter } else { '=' });
        }
    }
    out
}
