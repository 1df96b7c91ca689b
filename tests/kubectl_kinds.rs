//! kubectl over the whole API: `create` and `set` of everything that it can, every patch type, explain of every kind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::io::{Read, Write};

use harness::{Cluster, ControlPlane, KUBECTL_MINORS, Kubectl, PATIENCE, eventually};

/// A command that makes an object, and what the object then says.
const CREATED: &[(&str, &str, &str, &str)] = &[
    ("create namespace apart", "namespace/apart", ".status.phase", "Active"),
    ("create configmap settings --from-literal=a=b", "configmap/settings", ".data.a", "b"),
    ("create secret generic key --from-literal=k=v", "secret/key", ".type", "Opaque"),
    (
        "create secret docker-registry registry --docker-server=r.example --docker-username=u --docker-password=p",
        "secret/registry",
        ".type",
        "kubernetes.io/dockerconfigjson",
    ),
    ("create serviceaccount robot", "serviceaccount/robot", ".metadata.name", "robot"),
    ("create service clusterip inner --tcp=80:8080", "service/inner", ".spec.ports[0].targetPort", "8080"),
    ("create service nodeport outer --tcp=81:8080", "service/outer", ".spec.type", "NodePort"),
    ("create service loadbalancer balanced --tcp=82:8080", "service/balanced", ".spec.type", "LoadBalancer"),
    (
        "create service externalname elsewhere --external-name=example.com",
        "service/elsewhere",
        ".spec.externalName",
        "example.com",
    ),
    (
        "create deployment web --image=coracle.dev/samples/hello-http:v1 --replicas=0",
        "deployment/web",
        ".spec.strategy.rollingUpdate.maxSurge",
        "25%",
    ),
    (
        "create job once --image=coracle.dev/samples/job-hello:v1",
        "job/once",
        ".spec.template.spec.restartPolicy",
        "Never",
    ),
    (
        "create cronjob often --image=coracle.dev/samples/job-hello:v1 --schedule=*/5_*_*_*_*",
        "cronjob/often",
        ".spec.concurrencyPolicy",
        "Allow",
    ),
    (
        "create quota small --hard=configmaps=50,count/leases.coordination.k8s.io=5",
        "quota/small",
        ".spec.hard.configmaps",
        "50",
    ),
    (
        "create poddisruptionbudget keep --selector=app=web --min-available=1",
        "pdb/keep",
        ".spec.minAvailable",
        "1",
    ),
    ("create priorityclass urgent --value=1000 --description=soon", "priorityclass/urgent", ".value", "1000"),
    (
        "create ingress door --rule=example.com/*=inner:80",
        "ingress/door",
        ".spec.rules[0].http.paths[0].pathType",
        "Prefix",
    ),
    (
        "create role reader --verb=get,list --resource=pods,pods/log",
        "role/reader",
        ".rules[0].resources",
        "[\"pods\",\"pods/log\"]",
    ),
    (
        "create rolebinding readers --role=reader --serviceaccount=default:robot",
        "rolebinding/readers",
        ".subjects[0].name",
        "robot",
    ),
    (
        "create clusterrole looker --verb=get --resource=nodes",
        "clusterrole/looker",
        ".rules[0].verbs",
        "[\"get\"]",
    ),
    (
        "create clusterrolebinding lookers --clusterrole=looker --group=crew",
        "clusterrolebinding/lookers",
        ".roleRef.name",
        "looker",
    ),
    ("autoscale deployment web --min=1 --max=3 --cpu-percent=80", "hpa/web", ".spec.maxReplicas", "3"),
    ("run alone --image=coracle.dev/samples/counter:v1", "pod/alone", ".spec.containers[0].name", "alone"),
    ("expose deployment web --port=80 --target-port=8080", "service/web", ".spec.selector.app", "web"),
];

/// A change, and what the object then says.
const CHANGED: &[(&str, &str, &str, &str)] = &[
    (
        "set image deployment/web hello-http=coracle.dev/samples/hello-http:v2",
        "deployment/web",
        ".spec.template.spec.containers[0].image",
        "coracle.dev/samples/hello-http:v2",
    ),
    ("set env deployment/web A=1", "deployment/web", ".spec.template.spec.containers[0].env[0].name", "A"),
    (
        "set resources deployment/web --limits=cpu=1,memory=64Mi",
        "deployment/web",
        ".spec.template.spec.containers[0].resources.limits.memory",
        "64Mi",
    ),
    (
        "set serviceaccount deployment/web robot",
        "deployment/web",
        ".spec.template.spec.serviceAccountName",
        "robot",
    ),
    ("set subject rolebinding/readers --user=jane", "rolebinding/readers", ".subjects[1].name", "jane"),
    ("set selector service/inner app=other", "service/inner", ".spec.selector.app", "other"),
    ("label configmap settings tier=front", "configmap/settings", ".metadata.labels.tier", "front"),
    ("annotate configmap settings note=yes", "configmap/settings", ".metadata.annotations.note", "yes"),
    ("scale deployment/web --replicas=0 --current-replicas=0", "deployment/web", ".spec.replicas", "0"),
    (
        "patch configmap settings --type=merge -p {\"data\":{\"a\":\"c\"}}",
        "configmap/settings",
        ".data.a",
        "c",
    ),
    (
        "patch configmap settings --type=json -p [{\"op\":\"replace\",\"path\":\"/data/a\",\"value\":\"d\"}]",
        "configmap/settings",
        ".data.a",
        "d",
    ),
    (
        "patch deployment web -p {\"spec\":{\"minReadySeconds\":3}}",
        "deployment/web",
        ".spec.minReadySeconds",
        "3",
    ),
    (
        "patch deployment web --subresource=scale --type=merge -p {\"spec\":{\"replicas\":0}}",
        "deployment/web",
        ".spec.replicas",
        "0",
    ),
];

#[test]
fn every_kind_that_kubectl_makes_is_made_and_changed() {
    std::thread::scope(|scope| {
        for minor in KUBECTL_MINORS {
            scope.spawn(move || makes_and_changes(minor));
        }
    });
}

fn makes_and_changes(minor: u32) {
    let cluster = Cluster::start_with_samples();
    let kubectl = cluster.kubectl_version(minor);
    let mut faults = Vec::new();
    for (command, object, path, wanted) in CREATED.iter().chain(CHANGED) {
        let words: Vec<String> = command.split(' ').map(|word| word.replace('_', " ")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = kubectl.attempt(&words);
        if output.code != Some(0) {
            faults.push(format!("{command}: {}", output.stderr));
            continue;
        }
        let found = kubectl.attempt(&["get", object, "-o", &format!("jsonpath={{{path}}}")]);
        if found.stdout != *wanted {
            faults.push(format!("{command}: {object}{path} is {:?} {}", found.stdout, found.stderr));
        }
        // Its row and its description are there too.
        for words in [vec!["get", object, "-o", "wide"], vec!["describe", object]] {
            let output = kubectl.attempt(&words);
            if output.code != Some(0) || output.stdout.is_empty() {
                faults.push(format!("{words:?}: {}{}", output.stdout, output.stderr));
            }
        }
    }
    let all = kubectl.run("get all");
    for part in ["pod/alone", "deployment.apps/web", "service/inner", "job.batch/once", "cronjob.batch/often"]
    {
        if !all.contains(part) {
            faults.push(format!("get all does not show {part}"));
        }
    }
    assert!(faults.is_empty(), "kubectl 1.{minor}:\n{}", faults.join("\n"));
}

#[test]
fn every_resource_is_explained_listed_and_described() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl_version(35);
    let lines = kubectl.run("api-resources --no-headers --verbs=list");
    let mut faults = Vec::new();
    let mut count = 0;
    for line in lines.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, .., api_version, _, kind] = words[..] else { panic!("{line}") };
        let group = api_version.rsplit_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
        let explained = kubectl.attempt(&["explain", name, "--recursive", "--api-version", api_version]);
        if explained.code != Some(0) || !explained.stdout.contains(&format!("KIND:       {kind}")) {
            faults.push(format!("explain {name}: {}{}", explained.stdout, explained.stderr));
        }
        let listed = kubectl.attempt(&["get", &format!("{name}{group}"), "-A", "-o", "wide"]);
        if listed.code != Some(0) {
            faults.push(format!("get {name}: {}", listed.stderr));
        }
        count += 1;
    }
    assert!(count >= 50, "only {count} resources:\n{lines}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn replace_goes_by_the_resource_version_and_by_force() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl_version(33);
    kubectl.run("create configmap settings --from-literal=a=b");
    let uid = cluster.field("configmap/settings", ".metadata.uid");
    let yaml = kubectl.run("get configmap settings -o yaml");
    replaced(&kubectl, &yaml.replace("a: b", "a: c"), &[]);
    assert_eq!(cluster.field("configmap/settings", ".data.a"), "c");
    let stale = kubectl.with_input(&["replace", "-f", "-"], &yaml).failure();
    assert!(stale.contains("the object has been modified"), "{stale}");
    replaced(&kubectl, &yaml, &["--force"]);
    assert_ne!(cluster.field("configmap/settings", ".metadata.uid"), uid);
}

fn replaced(kubectl: &Kubectl, yaml: &str, more: &[&str]) {
    let arguments: Vec<&str> = ["replace", "-f", "-"].iter().chain(more).copied().collect();
    let said = kubectl.with_input(&arguments, yaml).success();
    assert!(said.contains("configmap/settings replaced"), "{said}");
}

const CONTROLLER: &str = r#"
apiVersion: v1
kind: ReplicationController
metadata: {name: primary, labels: {app: store}}
spec:
  replicas: 2
  selector: {app: store}
  template:
    metadata: {labels: {app: store}}
    spec:
      containers:
      - name: main
        image: example.com/store:v1
        ports: [{name: store, containerPort: 6379}]
"#;

/// What upstream's conformance tests do with kubectl, on nodes that only play their pods.
#[test]
fn a_replication_controller_and_its_pods_are_handled_by_kubectl() {
    let cluster = ControlPlane::with_nodes(2);
    let k = |command: &str| cluster.kubectl(command);
    let has = |text: String, parts: &[&str]| {
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    };
    let running = |count: usize| {
        eventually(&format!("{count} pods running"), || {
            let phases = k("get pods -l app=store -o jsonpath={.items[*].status.phase}");
            if phases == vec!["Running"; count].join(" ") { Ok(()) } else { Err(phases) }
        });
    };
    cluster.apply(CONTROLLER);
    running(2);
    for replicas in [1, 2] {
        k(&format!("scale rc primary --replicas={replicas} --timeout=60s"));
        running(replicas);
    }
    let pod = k("get pods -l app=store -o jsonpath={.items[0].metadata.name}");
    has(
        k(&format!("describe pod {pod}")),
        &[
            "Name:",
            "Namespace:",
            "app=store",
            "Running",
            "Controlled By:",
            "ReplicationController/primary",
            "example.com/store:v1",
            "6379/TCP",
        ],
    );
    has(
        k("describe rc primary"),
        &[
            "Replicas:",
            "2 current / 2 desired",
            "Pods Status:",
            "2 Running / 0 Waiting / 0 Succeeded / 0 Failed",
            "Pod Template:",
            "Events:",
        ],
    );
    k("expose rc primary --name=second --port=1234 --target-port=6379");
    k("expose service second --name=third --port=2345 --target-port=6379");
    for (service, port) in [("second", 1234), ("third", 2345)] {
        assert_eq!(
            cluster.field(&format!("service/{service}"), ".spec.ports[0]['port','targetPort']"),
            format!("{port} 6379")
        );
        eventually("endpoints", || {
            let ports = k(&format!(
                "get endpointslices -l kubernetes.io/service-name={service} -o jsonpath={{.items[0].ports[0].port}}"
            ));
            if ports == "6379" { Ok(()) } else { Err(ports) }
        });
    }
    has(
        k("describe service second"),
        &[
            "Selector:",
            "app=store",
            "Type:",
            "ClusterIP",
            "Port:",
            "1234/TCP",
            "Endpoints:",
            ":6379",
            "Session Affinity:",
        ],
    );
    let node = k(&format!("get pod {pod} -o jsonpath={{.spec.nodeName}}"));
    has(
        k(&format!("describe node {node}")),
        &[
            "Labels:",
            "Conditions:",
            "Capacity:",
            "Allocatable:",
            "Kubelet Version:",
            "Non-terminated Pods:",
            &pod,
        ],
    );
    has(k("describe namespace default"), &["Status:", "Active"]);

    for pod in k("get pods -l app=store -o name").lines() {
        has(k(&format!("patch {pod} -p {{\"metadata\":{{\"annotations\":{{\"x\":\"y\"}}}}}}")), &["patched"]);
        assert_eq!(cluster.field(pod, ".metadata.annotations.x"), "y");
    }
    k(&format!("label pod {pod} testing=yes"));
    has(k(&format!("get pod {pod} -L testing")), &["yes"]);
    k(&format!("label pod {pod} testing-"));
    assert!(!k(&format!("get pod {pod} -L testing")).contains("yes"));

    has(k("run lone --image=example.com/lone:v1 --restart=Never --labels=run=lone"), &["pod/lone created"]);
    assert_eq!(
        cluster
            .field("pod/lone", ".spec['containers','restartPolicy']")
            .matches("example.com/lone:v1")
            .count(),
        1
    );
    let image = r#"{"spec":{"containers":[{"name":"lone","image":"example.com/lone:v2"}]}}"#;
    let words = |dry: &str| format!("patch pod lone -p {image}{dry}");
    k(&words(" --dry-run=server"));
    assert_eq!(cluster.field("pod/lone", ".spec.containers[0].image"), "example.com/lone:v1");
    let client = Kubectl::new(33, &cluster.kubeconfig(), cluster.directory());
    let replaced = k("get pod lone -o json").replace("example.com/lone:v1", "example.com/lone:v3");
    client.with_input(&["replace", "-f", "-"], &replaced).success();
    assert_eq!(cluster.field("pod/lone", ".spec.containers[0].image"), "example.com/lone:v3");

    k("create deployment web --image=example.com/web:v1");
    let other = k("get deployment web -o json").replace("example.com/web:v1", "example.com/web:v2");
    let difference = client.with_input(&["diff", "-f", "-"], &other);
    assert_eq!(difference.code, Some(1), "{difference:?}");
    has(difference.stdout, &["-      - image: example.com/web:v1", "+      - image: example.com/web:v2"]);
    k(&format!("taint node {node} testing=yes:NoSchedule"));
    has(k(&format!("describe node {node}")), &["Taints:", "testing=yes:NoSchedule"]);
    k(&format!("taint node {node} testing:NoSchedule-"));
    assert!(!k(&format!("describe node {node}")).contains("testing=yes:NoSchedule"));

    has(k("api-versions"), &["v1\n", "apps/v1\n"]);
    has(k("cluster-info"), &["Kubernetes control plane", "is running at"]);
    has(
        k("version -o yaml"),
        &["clientVersion:", "serverVersion:", "major: \"1\"", "minor: \"37\"", "gitVersion: v1.37"],
    );

    let mut proxy = client.start(&["proxy", "--port=0", "--disable-filter"]);
    let line = proxy.line("the proxy listens", PATIENCE, |line| line.starts_with("Starting to serve on "));
    let address = line.trim_start_matches("Starting to serve on ").to_owned();
    let (status, body) = harness::http_get(&address, "/api/").unwrap();
    assert!(status == 200 && body.contains("\"versions\""), "{status} {body}");
    drop(proxy);
    let socket = cluster.directory().join("proxy.sock");
    let mut proxy =
        client.start(&["proxy", &format!("--unix-socket={}", socket.display()), "--disable-filter"]);
    proxy.line("the proxy listens", PATIENCE, |line| line.starts_with("Starting to serve on "));
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    stream.write_all(b"GET /api/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("200 OK") && answer.contains("\"versions\""), "{answer}");
    drop(proxy);

    k("delete rc primary --timeout=60s");
    eventually("no pods of it", || {
        let left = k("get pods -l app=store -o name");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}
