//! Images on a node as its users meet them: pulled from a registry, kept while they are used, removed when the disk fills.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Cluster, ClusterOptions, Registry, coracle, eventually, repository};

fn listed(cluster: &Cluster) -> String {
    let output = coracle().args(["image", "list", "--data-dir"]).arg(cluster.data()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_full_disk_takes_images_that_no_pod_uses_and_no_others() {
    let module = std::fs::read(repository("samples/hello-http/hello-http-v2.wasm")).unwrap();
    let registry = Registry::start(&[("team/hello:v1", module)]);
    let image = registry.image("team/hello:v1");
    // Any disk is fuller than one percent.
    let arguments =
        ["--image-gc-high-threshold=1", "--image-gc-low-threshold=0", "--minimum-image-ttl-duration=1s"];
    let cluster = Cluster::start_with(ClusterOptions {
        arguments: arguments.map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    });
    cluster.import("hello-http/hello-http.wasm", "hello-http:v1");
    cluster.kubectl(&format!("run hello --image={image} --port=8080"));
    cluster.kubectl("wait --for=condition=Ready pod/hello --timeout=60s");

    // The node looks for images to remove, and finds none: one is in use, the other could not be pulled again.
    eventually("a look in vain", || {
        let events = cluster.kubectl(
            "get events -A --field-selector=reason=FreeDiskSpaceFailed -o jsonpath={.items[*].message}",
        );
        match events.contains("but only found 0 bytes eligible to free") {
            true => Ok(()),
            false => Err(format!("«{events}»")),
        }
    });
    let both = listed(&cluster);
    assert!(both.contains(&image) && both.contains("coracle.dev/samples/hello-http:v1"), "{both}");
    assert_eq!(cluster.field("pod/hello", ".status.containerStatuses[0].restartCount"), "0");

    cluster.kubectl("delete pod hello --wait --grace-period=1");
    eventually("removal", || {
        let left = listed(&cluster);
        if left.contains(&image) { Err(left) } else { Ok(()) }
    });
    let left = listed(&cluster);
    assert!(left.contains("coracle.dev/samples/hello-http:v1"), "imported images stay: {left}");

    // Whoever needs it again gets it again.
    let pulls = registry.pulls();
    cluster.kubectl(&format!("run again --image={image} --port=8080"));
    cluster.kubectl("wait --for=condition=Ready pod/again --timeout=60s");
    assert!(registry.pulls() > pulls);
}

#[test]
fn an_image_that_was_pushed_runs_from_the_registry() {
    let registry = Registry::guarded("bWU6c2VjcmV0");
    let cluster = Cluster::start();
    cluster.import("hello-http/hello-http.wasm", "hello-http:v1");
    let (here, there) = ("coracle.dev/samples/hello-http:v1", registry.image("team/hello:v9"));
    let push = |arguments: &[&str]| {
        let mut command = coracle();
        command.args(["image", "push", "--data-dir"]).arg(cluster.data()).args(arguments);
        let output = command.env("DOCKER_CONFIG", cluster.data()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (pushed, _, error) = push(&[here, "--as", &there]);
    assert!(!pushed && error.contains(&format!("push {there}: push access denied")), "{error}");
    let (pushed, _, error) = push(&["no/such:v1"]);
    assert!(!pushed && error.contains("image \"no/such:v1\" is not on this node"), "{error}");

    let address = registry.image("");
    let config = format!(r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#, address.trim_end_matches('/'));
    std::fs::write(cluster.data().join("config.json"), config).unwrap();
    let (pushed, said, error) = push(&[here, "--as", &there]);
    assert!(pushed && said.starts_with(&format!("pushed {there} sha256:")), "{said} {error}");

    cluster.kubectl(&format!("run hello --image={there} --port=8080"));
    cluster.kubectl("wait --for=condition=Ready pod/hello --timeout=60s");
    let output =
        coracle().args(["image", "inspect", &there, "--data-dir"]).arg(cluster.data()).output().unwrap();
    let inspected = String::from_utf8(output.stdout).unwrap();
    assert!(inspected.contains("wasi:http/incoming-handler"), "{inspected}");
    let (_, compiled) = inspected.split_once("compiled:\n").unwrap();
    assert!(compiled.contains("KiB)"), "the pod has compiled it: {inspected}");
    let digest = said.rsplit(' ').next().unwrap();
    let id = cluster.field("pod/hello", ".status.containerStatuses[0].imageID");
    assert!(id.ends_with(&format!("team/hello@{digest}")), "{id}");
}
