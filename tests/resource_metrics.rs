//! What nodes and pods use, as `kubectl top` and other readers of `metrics.k8s.io` see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Cluster, ClusterOptions, ControlPlane, KUBECTL_MINORS, eventually, http_get};
use serde_json::{Value, json};

/// A pod that computes without end, at a fifth of a core.
fn spinning(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": {
        "containers": [
            {"name": "spin", "image": "coracle.dev/samples/hog:v1", "args": ["cpu"],
             "resources": {"limits": {"cpu": "200m", "memory": "64Mi"}}},
            {"name": "rest", "image": "coracle.dev/samples/hello-http:v1"},
        ],
    }})
    .to_string()
}

/// `250m` of a line of `kubectl top`, in thousandths.
fn millis(word: &str) -> u64 {
    word.strip_suffix('m').and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("«{word}»"))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn kubectl_top_shows_what_a_wasm_guest_burns() {
    let cluster = Cluster::start_with(ClusterOptions {
        arguments: vec!["--metric-resolution".into(), "2s".into()],
        ..ClusterOptions::default()
    });
    cluster.import("hog/hog.wasm", "hog:v1");
    cluster.import("hello-http/hello-http.wasm", "hello-http:v1");
    assert!(cluster.try_kubectl("top pods").stderr.contains("No resources found"));
    cluster.apply(&spinning("burner"));
    cluster.kubectl("wait --for=condition=Ready pod/burner --timeout=60s");
    let line = eventually("a fifth of a core", || {
        let output = cluster.try_kubectl("top pod burner --no-headers");
        let cpu = output.stdout.split_whitespace().nth(1).map(millis);
        match cpu {
            Some(150..=250) => Ok(output.stdout),
            _ => Err(format!("{} {}", output.stdout, output.stderr)),
        }
    });
    assert!(line.starts_with("burner "), "{line}");

    for minor in KUBECTL_MINORS {
        let kubectl = cluster.kubectl_version(minor);
        let containers = kubectl.run("top pods -A --containers --sort-by=cpu --no-headers");
        let rows: Vec<Vec<&str>> = containers.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 2, "{containers}");
        assert_eq!(rows[0][..3], ["default", "burner", "spin"], "{containers}");
        assert_eq!(rows[1][..3], ["default", "burner", "rest"], "{containers}");
        assert!(millis(rows[0][3]) >= 100 && millis(rows[1][3]) <= 50, "{containers}");
        let nodes = kubectl.run("top nodes --no-headers");
        let words: Vec<_> = nodes.split_whitespace().collect();
        assert!(words.len() == 5 && millis(words[1]) >= 100 && words[2].ends_with('%'), "{nodes}");
        assert!(words[3].ends_with("Mi") && words[4].ends_with('%'), "{nodes}");
    }

    // The API itself: selectors, one by name, tables, what is not there.
    let base = "/apis/metrics.k8s.io/v1beta1";
    let raw = |path: &str| cluster.try_kubectl(&format!("get --raw {base}{path}"));
    let list = parsed(&raw("/pods?labelSelector=app%3Dburner").stdout);
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("PodMetricsList"), &json!("metrics.k8s.io/v1beta1"))
    );
    assert_eq!(list["items"][0]["metadata"]["labels"]["app"], "burner");
    assert_eq!(parsed(&raw("/pods?labelSelector=app%3Dother").stdout)["items"], json!([]));
    assert_eq!(parsed(&raw("/namespaces/kube-system/pods").stdout)["items"], json!([]));
    let one = parsed(&raw("/namespaces/default/pods/burner").stdout);
    assert_eq!(one["containers"].as_array().unwrap().len(), 2, "{one}");
    assert!(one["window"].as_str().unwrap().ends_with('s') && one["timestamp"].is_string(), "{one}");
    let missing = raw("/namespaces/default/pods/nobody").stderr;
    assert!(missing.contains("pods.metrics.k8s.io \"default/nobody\" not found"), "{missing}");
    let table = cluster.kubectl("get pods.metrics.k8s.io burner");
    assert_eq!(table.split_whitespace().take(4).collect::<Vec<_>>(), ["NAME", "CPU", "MEMORY", "WINDOW"]);
    let refused = cluster.try_kubectl("delete pods.metrics.k8s.io burner").stderr;
    assert!(refused.contains("the server does not allow this method"), "{refused}");
    assert_eq!(cluster.field("pod/burner", ".kind"), "Pod", "a pod is still a pod");
    let service = parsed(&cluster.kubectl("get apiservice v1beta1.metrics.k8s.io -o json"));
    assert_eq!(service["spec"]["groupPriorityMinimum"], 100);
    assert_eq!(service["status"]["conditions"][0]["status"], "True");
    let resources = parsed(&raw("").stdout);
    let verbs: Vec<_> = resources["resources"].as_array().unwrap().iter().map(|r| &r["verbs"]).collect();
    assert_eq!(verbs, [&json!(["get", "list"]), &json!(["get", "list"])]);

    // Who may view may see it; who may not, may not.
    cluster.kubectl("create serviceaccount viewer");
    cluster.kubectl("create clusterrolebinding viewer --clusterrole=view --serviceaccount=default:viewer");
    let account = "--as=system:serviceaccount:default:viewer";
    eventually("the view role has it", || {
        let output = cluster.try_kubectl(&format!("top pods {account}"));
        if output.stdout.contains("burner") { Ok(()) } else { Err(output.stderr) }
    });
    let refused = cluster.try_kubectl("top pods --as=system:serviceaccount:default:default").stderr;
    assert!(refused.contains("cannot list resource \"pods\" in API group \"metrics.k8s.io\""), "{refused}");
}

/// The value of the sample with this name and these labels.
fn sample(text: &str, name: &str, labels: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels))?;
    line.rsplit_once("} ")?.1.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_node_says_what_its_guests_do() {
    let cluster = Cluster::start();
    cluster.import("hog/hog.wasm", "hog:v1");
    cluster.import("hello-http/hello-http.wasm", "hello-http:v1");
    cluster.apply(&spinning("burner"));
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "trapper"}, "spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "coracle.dev/samples/hog:v1", "args": ["trap"]}]}})
        .to_string(),
    );
    cluster.kubectl("wait --for=condition=Ready pod/burner --timeout=60s");
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Failed pod/trapper --timeout=60s");
    let server = format!("{}:8080", cluster.field("pod/burner", ".status.podIP"));
    for path in ["/", "/", "/nope"] {
        eventually("an answer", || http_get(&server, path));
    }
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    let get = |path: &str| cluster.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/{path}"));
    let (spin, rest) = ("pod=\"burner\",container=\"spin\"", "pod=\"burner\",container=\"rest\"");
    let text = eventually("three requests", || {
        let text = get("metrics");
        let answered = format!("{rest},outcome=\"answered\"");
        let count = sample(&text, "coracle_container_requests_total", &answered);
        // A client that gave up waiting may have been counted, too.
        if count >= Some(3.0) { Ok(text) } else { Err(format!("{count:?}")) }
    });
    let of =
        |name: &str, labels: &str| sample(&text, name, labels).unwrap_or_else(|| panic!("{name}: {text}"));
    let within = of("coracle_container_request_duration_seconds_bucket", &format!("{rest},le=\"+Inf\""));
    assert_eq!(within, of("coracle_container_request_duration_seconds_count", rest));
    assert_eq!(of("coracle_container_instances", spin), 1.0);
    assert!(of("coracle_container_cpu_throttled_seconds_total", spin) > 0.0);
    assert_eq!(of("coracle_container_traps_total", "pod=\"trapper\""), 1.0);
    assert_eq!(of("coracle_container_traps_total", spin), 0.0);
    assert!(text.contains("kubelet_running_pods 1\n"), "{text}");

    let text = get("metrics/cadvisor");
    let of =
        |name: &str, labels: &str| sample(&text, name, labels).unwrap_or_else(|| panic!("{name}: {text}"));
    let spin = "container=\"spin\"";
    assert_eq!(of("container_spec_cpu_quota", spin), 20_000.0);
    assert_eq!(of("container_spec_memory_limit_bytes", spin), f64::from(64 << 20));
    assert!(of("container_cpu_usage_seconds_total", spin) > 0.0);
    assert!(of("container_cpu_cfs_throttled_seconds_total", spin) > 0.0);
    assert!(!text.contains("trapper"), "{text}");
    assert!(get("metrics/resource").contains("resource_scrape_error 0"));
    let summary = parsed(&get("stats/summary"));
    let containers = summary["pods"][0]["containers"].as_array().unwrap();
    let spin = containers.iter().find(|c| c["name"] == "spin").unwrap();
    assert!(spin["memory"]["availableBytes"].is_u64() && spin["startTime"].is_string(), "{spin}");
}

#[test]
fn kubectl_top_shows_virtual_nodes() {
    let mut cluster = ControlPlane::start_with(&["--metric-resolution", "1s"]);
    cluster.play("node", 3, &[]);
    let deployment = |name: &str, cpu: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name}, "annotations":
                    {"coracle.dev/fake-cpu-usage": cpu, "coracle.dev/fake-memory-usage": "10Mi"}},
                "spec": {"containers": [{"name": "c", "image": "any:v1"}]},
            },
        }})
    };
    cluster.apply(&deployment("small", "100m").to_string());
    cluster.apply(&deployment("large", "300m").to_string());
    for name in ["small", "large"] {
        cluster.kubectl(&format!("rollout status deployment/{name} --timeout=60s"));
    }
    eventually("what the annotations say", || {
        let rows = cluster.try_kubectl("top pods -A --sort-by=cpu --no-headers").stdout;
        let used: Vec<_> = rows.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
        let near = |word: &&str, want: u64| millis(word).abs_diff(want) <= 1;
        let right = used.len() == 6
            && used[..3].iter().all(|word| near(word, 300))
            && used[3..].iter().all(|word| near(word, 100));
        if right { Ok(()) } else { Err(rows) }
    });
    eventually("the nodes' sum", || {
        let rows = cluster.kubectl("top nodes --no-headers");
        let used: u64 = rows.lines().filter_map(|l| l.split_whitespace().nth(1)).map(millis).sum();
        if rows.lines().count() == 3 && used.abs_diff(1200) < 10 { Ok(()) } else { Err(rows) }
    });
    assert_eq!(cluster.kubectl("top nodes node-1 --no-headers").lines().count(), 1);

    // A node that does not answer is left out, and nobody waits for it.
    cluster.kubectl("annotate node node-0 coracle.dev/fake-silent=true");
    eventually("nothing is known of it", || {
        let rows = cluster.kubectl("top nodes --no-headers");
        let unknown: Vec<_> = rows.lines().filter(|line| line.contains("<unknown>")).collect();
        if unknown.len() == 1 && unknown[0].starts_with("node-0") { Ok(()) } else { Err(rows) }
    });
    let list = parsed(&cluster.kubectl("get --raw /apis/metrics.k8s.io/v1beta1/nodes"));
    let names: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|n| n["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["node-1", "node-2"]);
}
