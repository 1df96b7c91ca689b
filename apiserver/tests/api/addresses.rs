//! Cluster addresses of services: whose they are stands in the store, where several servers see it.

use std::collections::HashSet;
use std::sync::Arc;

use coracle_apiserver::api::{Api, Options};
use coracle_apiserver::authn::Identity;
use coracle_apiserver::direct::Direct;
use coracle_apiserver::upkeep;
use coracle_client::Client;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::Server;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn named(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

fn client(api: &Arc<Api>) -> Client {
    Client::new(Direct::new(api.clone(), Identity::new("tester", &["system:masters"])), "tests")
}

#[tokio::test]
async fn an_address_is_an_object_as_long_as_its_service_is() {
    let server = Server::start().await;
    let wish = || named("a", json!({"clusterIP": "10.96.7.7", "ports": [{"port": 80}]}));
    server.post(SERVICES, wish()).await.expect(201);
    let address = server.get(&format!("{ADDRESSES}/10.96.7.7")).await.expect(200);
    assert_eq!(
        address.json["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "a"})
    );
    assert_eq!(address.json["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv4");
    // A taken address is refused, and refusing takes nothing.
    let refused =
        server.post(SERVICES, named("b", json!({"clusterIP": "10.96.7.7", "ports": [{"port": 1}]}))).await;
    assert!(refused.expect(422).message().contains("provided IP is already allocated"));
    // A dry run takes nothing either.
    let wanted = named("b", json!({"clusterIP": "10.96.7.8", "ports": [{"port": 80}]}));
    server.post(&format!("{SERVICES}?dryRun=All"), wanted).await.expect(201);
    server.get(&format!("{ADDRESSES}/10.96.7.8")).await.expect(404);
    // Deleted and made again at once.
    for _ in 0..3 {
        server.delete(&format!("{SERVICES}/a")).await.expect(200);
        server.get(&format!("{ADDRESSES}/10.96.7.7")).await.expect(404);
        server.post(SERVICES, wish()).await.expect(201);
    }
    // A service that needs no address any more gives it back.
    let external = json!({"spec": {"type": "ExternalName", "externalName": "e.example.com", "clusterIP": null, "clusterIPs": null}});
    server.merge(&format!("{SERVICES}/a"), external).await.expect(200);
    server.post(SERVICES, named("c", json!({"ports": [{"port": 80}]}))).await.expect(201);
}

#[tokio::test]
async fn what_users_take_is_taken_and_their_ranges_are_used() {
    let server = Server::start().await;
    let parent = json!({"parentRef": {"group": "example.com", "resource": "things", "name": "t"}});
    server.post(ADDRESSES, named("10.96.9.9", parent)).await.expect(201);
    let wish = |name: &str, ip: &str| named(name, json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    let refused = server.post(SERVICES, wish("a", "10.96.9.9")).await.expect(422);
    assert!(refused.message().contains("provided IP is already allocated"), "{}", refused.message());

    let refused = server.post(SERVICES, wish("a", "10.200.0.5")).await.expect(422);
    assert!(refused.message().contains("the provided network does not match the current range"));
    server.post(RANGES, named("more", json!({"cidrs": ["10.200.0.0/28"]}))).await.expect(201);
    // Not before it is ready.
    server.post(SERVICES, wish("a", "10.200.0.5")).await.expect(422);
    let mut range = server.get(&format!("{RANGES}/more")).await.expect(200).json;
    range["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "reason": "R", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    server.put(&format!("{RANGES}/more/status"), range).await.expect(200);
    server.post(SERVICES, wish("a", "10.200.0.5")).await.expect(201);
    server.get(&format!("{ADDRESSES}/10.200.0.5")).await.expect(200);
}

#[tokio::test]
async fn services_of_two_families_have_an_address_of_each() {
    let options = Options { service_cidr: Some("10.96.0.0/24,fd00:96::/112".into()), ..Options::default() };
    let server = Server::with(options).await;
    let spec = |policy: &str| json!({"ipFamilyPolicy": policy, "ports": [{"port": 80}]});
    let made = server.post(SERVICES, named("a", spec("PreferDualStack"))).await.expect(201).json;
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.96.0.16", "fd00:96::100"]));
    let second = format!("{ADDRESSES}/fd00:96::100");
    let object = server.get(&second).await.expect(200).json;
    assert_eq!(object["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv6");
    assert_eq!(object["spec"]["parentRef"]["name"], "a");

    let less = json!({"spec": {"clusterIPs": ["10.96.0.16"], "ipFamilies": ["IPv4"]}});
    let service = format!("{SERVICES}/a");
    let refused = server.merge(&service, less).await.expect(422);
    assert!(refused.message().contains("must be 'SingleStack' to release the secondary cluster IP"));
    let turned = json!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}});
    let refused = server.merge(&service, turned).await.expect(422);
    assert!(refused.message().contains("expected an IPv6 value as indicated by"), "{}", refused.message());

    let policy = |policy: &str| json!({"spec": {"ipFamilyPolicy": policy}});
    let single = server.merge(&service, policy("SingleStack")).await.expect(200).json;
    assert_eq!(single["spec"]["clusterIPs"], json!(["10.96.0.16"]));
    assert_eq!(single["spec"]["ipFamilies"], json!(["IPv4"]));
    for _ in 0..200 {
        if server.get(&second).await.code == 404 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    server.get(&second).await.expect(404);
    let both = server.merge(&service, policy("RequireDualStack")).await.expect(200).json;
    assert_eq!(both["spec"]["clusterIPs"][0], "10.96.0.16");
    assert_eq!(both["spec"]["clusterIPs"].as_array().map(Vec::len), Some(2));
    server.delete(&service).await.expect(200);
    assert!(server.get(ADDRESSES).await.expect(200).names().is_empty());
}

#[tokio::test]
async fn a_cluster_gets_its_second_family_later() {
    let server = Server::start().await;
    let own = client(&server.api);
    upkeep::ensure(&server.api, &own, "10.96.0.0/12").await.unwrap();
    upkeep::ensure(&server.api, &own, "10.96.0.0/12,fd00:96::/112").await.unwrap();
    let range = server.get(&format!("{RANGES}/kubernetes")).await.expect(200).json;
    assert_eq!(range["spec"]["cidrs"], json!(["10.96.0.0/12", "fd00:96::/112"]));
    assert_eq!(range["status"]["conditions"][0]["type"], "Ready");
}

#[tokio::test]
async fn two_servers_over_one_store_never_hand_out_one_address() {
    let server =
        Server::with(Options { service_cidr: Some("10.96.0.0/24".into()), ..Options::default() }).await;
    let shutdown = CancellationToken::new();
    let options = Options { service_cidr: Some("10.96.0.0/24".into()), ..Options::default() };
    let other = Api::start(server.api.store.clone(), options, shutdown.clone()).await.unwrap();
    let clients = [client(&server.api), client(&other)];
    let created = (0..100).map(|i| {
        let client = clients[i % 2].clone();
        async move {
            let mut service: Service =
                serde_json::from_value(named(&format!("s{i}"), json!({"ports": [{"port": 80}]}))).unwrap();
            service.metadata.namespace = Some("default".into());
            client.create(&service).await.unwrap().decode().unwrap().spec.unwrap().cluster_ip.unwrap()
        }
    });
    let addresses: Vec<String> = futures::future::join_all(created).await;
    assert_eq!(addresses.iter().collect::<HashSet<_>>().len(), 100);
    assert_eq!(server.get(ADDRESSES).await.expect(200).names().len(), 100);
    shutdown.cancel();
}

#[tokio::test]
async fn the_server_s_own_objects_are_there_and_come_back() {
    let server = Server::start().await;
    let own = client(&server.api);
    upkeep::ensure(&server.api, &own, "10.96.0.0/12").await.unwrap();
    upkeep::ensure(&server.api, &own, "10.96.0.0/12").await.unwrap();
    const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
    assert_eq!(server.get(SCHEMAS).await.expect(200).names().len(), 11);
    let range = server.get(&format!("{RANGES}/kubernetes")).await.expect(200);
    assert_eq!(range.json["status"]["conditions"][0]["type"], "Ready");
    const GROUPS: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
    let local = server.get(&format!("{GROUPS}/v1.apps")).await.expect(200);
    assert_eq!(local.json["status"]["conditions"][0]["reason"], "Local");

    let shutdown = CancellationToken::new();
    let running = tokio::spawn(upkeep::run(server.api.clone(), own, shutdown.clone()));
    server.delete(&format!("{SCHEMAS}/catch-all")).await.expect(200);
    let remote = named(
        "v1.x.example.com",
        json!({"group": "x.example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "x"}}),
    );
    server.post(GROUPS, remote).await.expect(201);
    server.delete(&format!("{ADDRESSES}?labelSelector=none")).await.expect(200);
    server
        .post(SERVICES, named("s", json!({"clusterIP": "10.96.1.1", "ports": [{"port": 1}]})))
        .await
        .expect(201);
    server.delete(&format!("{ADDRESSES}/10.96.1.1")).await.expect(200);
    for _ in 0..200 {
        let schema = server.get(&format!("{SCHEMAS}/catch-all")).await;
        let found = server.get(&format!("{GROUPS}/v1.x.example.com")).await.expect(200);
        let address = server.get(&format!("{ADDRESSES}/10.96.1.1")).await;
        if schema.json["status"]["conditions"][0]["status"] == "False"
            && found.json["status"]["conditions"][0]["reason"] == "ServiceNotFound"
            && address.code == 200
        {
            shutdown.cancel();
            running.await.unwrap();
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("not mended in five seconds");
}
