//! The caches as one: order, windows, index and watchers, over changes made up here.

use bytes::Bytes;
use coracle_client::selector::{FieldSelector, Selector};
use coracle_client::{Resource, WatchEventKind};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};

use super::resource::Stored;
use super::*;

fn pod(name: &str, node: &str, app: &str) -> Bytes {
    format!(
        r#"{{"kind":"Pod","metadata":{{"labels":{{"app":"{app}"}},"name":"{name}","namespace":"ns"}},"spec":{{"nodeName":"{node}"}}}}"#
    )
    .into()
}

struct Pods(Arc<ResourceCache>);

impl Pods {
    fn new() -> Self {
        let cache = Arc::new(ResourceCache::new(Resource::of::<Pod>()));
        cache.replace(Vec::new(), 1);
        Self(cache)
    }

    fn put(&self, revision: u64, name: &str, node: &str, app: &str) {
        self.0.apply(&format!("ns/{name}"), revision, Some(&pod(name, node, app)));
    }

    fn remove(&self, revision: u64, name: &str) {
        self.0.apply(&format!("ns/{name}"), revision, None);
    }

    fn names(&self, filter: &Filter, start: Option<&str>, limit: Option<usize>, at: Option<u64>) -> String {
        let page = self.0.list(filter, start, limit, at, 0).unwrap();
        let names: Vec<&str> = page.objects.iter().map(|o| &*o.head.name).collect();
        let more = page.last_key.map_or(String::new(), |key| format!(" +{} after {key}", page.remaining));
        format!("{}{more}", names.join(" "))
    }
}

fn select(labels: &str, fields: &str) -> Filter {
    Filter {
        namespace: None,
        labels: Selector::parse(labels).unwrap(),
        fields: FieldSelector::parse(fields).unwrap(),
    }
}

fn drain(subscription: &mut Subscription) -> String {
    let mut seen: Vec<Delivery> = std::mem::take(&mut subscription.initial);
    while let Ok(delivery) = subscription.receiver.try_recv() {
        seen.push(delivery);
    }
    let line =
        |d: &Delivery| format!("{:?} {}@{}", d.kind, d.object.head.name, d.object.head.resource_version);
    seen.iter().map(line).collect::<Vec<_>>().join(", ")
}

#[test]
fn lists_show_any_revision_that_history_reaches() {
    let pods = Pods::new();
    for (revision, name) in [(2, "a"), (3, "b"), (4, "c"), (5, "d")] {
        pods.put(revision, name, "", "x");
    }
    pods.remove(6, "b");
    pods.put(7, "e", "", "x");
    pods.put(8, "a", "n1", "y");
    let all = Filter::default();
    for (at, want) in [
        (None, "a c d e"),
        (Some(8), "a c d e"),
        (Some(6), "a c d"),
        (Some(5), "a b c d"),
        (Some(3), "a b"),
        (Some(1), ""),
    ] {
        assert_eq!(pods.names(&all, None, None, at), want, "{at:?}");
    }
    assert_eq!(pods.names(&all, None, Some(2), Some(5)), "a b +2 after ns/b");
    assert_eq!(pods.names(&all, Some("ns/b"), Some(2), Some(5)), "c d");
    assert_eq!(pods.names(&select("app=x", ""), None, None, Some(7)), "a c d e");
    assert_eq!(pods.names(&select("app=x", ""), None, None, None), "c d e");
    assert_eq!(pods.names(&select("", "spec.nodeName=n1"), None, None, None), "a");
    assert_eq!(pods.names(&select("", "spec.nodeName=n1"), None, None, Some(7)), "");
    let elsewhere = Filter { namespace: Some("n".into()), ..Filter::default() };
    assert_eq!(pods.names(&elsewhere, None, None, None), "");
    assert_eq!(pods.0.list(&all, None, None, Some(0), 0).unwrap_err(), TooOld { oldest: 1 });
}

#[test]
fn an_encoded_list_is_kept_until_something_changes() {
    let pods = Pods::new();
    pods.put(2, "a", "", "x");
    let whole = |namespace| {
        let (revision, items) = pods.0.whole(namespace, Packing::Json, 3, |_, _| Ok(())).unwrap();
        (revision, items.bytes.clone())
    };
    let (revision, items) = whole(None);
    assert_eq!(revision, 3);
    assert_eq!(whole(None).1.as_ptr(), items.as_ptr());
    assert_eq!(whole(Some("other")).1, "");
    assert_eq!(whole(Some("ns")).1, items);
    pods.put(4, "b", "", "x");
    let (revision, items) = whole(Some("ns"));
    assert_eq!(revision, 4);
    let list: serde_json::Value =
        serde_json::from_str(&format!("[{}]", String::from_utf8_lossy(&items))).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    pods.remove(5, "a");
    pods.remove(6, "b");
    assert_eq!(whole(Some("ns")), (6, Bytes::new()));
}

#[test]
fn watchers_see_selection_come_and_go() {
    let pods = Pods::new();
    pods.put(2, "a", "", "x");
    let watch = |filter| pods.0.watch(filter, From::Now, 2).unwrap();
    let mut all = watch(Filter::default());
    let mut node = watch(select("", "spec.nodeName=n1"));
    let mut label = watch(select("app=x", ""));
    let mut past = pods.0.watch(Filter::default(), From::After(1), 2).unwrap();
    let mut future = pods.0.watch(Filter::default(), From::After(9), 2).unwrap();
    assert_eq!(pods.0.watchers(), 5);
    pods.put(3, "a", "n1", "x");
    pods.put(4, "a", "n1", "y");
    pods.put(5, "b", "n2", "y");
    pods.remove(6, "a");
    assert_eq!(drain(&mut all), "Added a@2, Modified a@3, Modified a@4, Added b@5, Deleted a@6");
    assert_eq!(drain(&mut node), "Added a@3, Modified a@4, Deleted a@6");
    assert_eq!(drain(&mut label), "Added a@2, Modified a@3, Deleted a@4");
    assert_eq!(drain(&mut past), "Added a@2, Modified a@3, Modified a@4, Added b@5, Deleted a@6");
    assert_eq!(drain(&mut future), "");
    assert_eq!(pods.0.watch(Filter::default(), From::After(0), 2).err(), Some(TooOld { oldest: 1 }));
    drop((all, node, label, past, future));
    assert_eq!(pods.0.watchers(), 0);
}

#[test]
fn a_deleted_object_is_its_last_state_under_the_new_version() {
    let pods = Pods::new();
    let mut all = pods.0.watch(Filter::default(), From::Now, 1).unwrap();
    let mut label = pods.0.watch(select("app=x", ""), From::Now, 1).unwrap();
    pods.put(2, "a", "n1", "x");
    pods.put(3, "a", "n2", "y");
    let added = all.receiver.try_recv().unwrap();
    assert_eq!(
        added.frame.as_deref().map(|f| f.starts_with(br#"{"type":"ADDED","object":{"kind":"Pod""#)),
        Some(true)
    );
    assert!(added.frame.unwrap().ends_with(b"}}\n"));
    assert_eq!(label.receiver.try_recv().unwrap().kind, WatchEventKind::Added);
    let left = label.receiver.try_recv().unwrap();
    assert_eq!((left.kind, left.frame), (WatchEventKind::Deleted, None));
    let json: serde_json::Value = serde_json::from_slice(&left.object.json).unwrap();
    assert_eq!(json["metadata"]["resourceVersion"], "3");
    assert_eq!(json["spec"]["nodeName"], "n1");
}

#[test]
fn a_watcher_that_does_not_read_is_ended() {
    let pods = Pods::new();
    let mut slow = pods.0.watch(Filter::default(), From::Now, 1).unwrap();
    for revision in 2..queue::EVENTS_MAX as u64 + 4 {
        pods.put(revision, "a", "", "x");
    }
    assert_eq!(pods.0.watchers(), 0);
    let mut got = 0;
    while slow.receiver.try_recv().is_ok() {
        got += 1;
    }
    assert_eq!(got, queue::EVENTS_MAX);
    assert!(slow.receiver.is_closed());
}

#[test]
fn what_is_no_object_is_left_out() {
    let cache = WatchCache::new([Resource::of::<ConfigMap>()]);
    let maps = cache.resource(&Resource::of::<ConfigMap>()).unwrap();
    for bad in ["", "[]", "{}", r#"{"metadata":{"labels":3}}"#] {
        maps.apply("ns/a", 2, Some(&Bytes::from_static(bad.as_bytes())));
    }
    assert!(maps.is_empty());
    assert_eq!(split_key("/registry/deployments.apps/ns/a"), Some(("deployments.apps", "ns/a")));
    assert_eq!(store_key(&Resource::of::<ConfigMap>(), "ns/a"), "/registry/configmaps/ns/a");
}

#[test]
fn changes_that_overtake_the_first_snapshot_are_kept_and_counted_once() {
    let pods = Pods(Arc::new(ResourceCache::new(Resource::of::<Pod>())));
    pods.0.await_snapshot();
    pods.put(5, "a", "n1", "old");
    pods.put(8, "b", "n1", "new");
    pods.remove(9, "c");
    assert_eq!(pods.names(&Filter::default(), None, None, None), "");
    let stored = |name: &str, revision| Stored {
        key: format!("ns/{name}").into(),
        revision,
        value: pod(name, "n1", "snapshot"),
    };
    pods.0.start_from(vec![stored("a", 6), stored("c", 4)], 7);
    assert_eq!(pods.names(&Filter::default(), None, None, None), "a b");
    assert_eq!(pods.names(&select("app=snapshot", ""), None, None, None), "a");
    // The feed is behind the snapshot.
    pods.remove(6, "a");
    assert_eq!(pods.names(&Filter::default(), None, None, None), "a b");
    let mut watch = pods.0.watch(Filter::default(), From::After(7), 9).unwrap();
    assert_eq!(drain(&mut watch), "Added b@8, Deleted c@9");
    pods.0.close();
    assert_eq!(watch.receiver.try_recv().unwrap_err(), tokio::sync::mpsc::error::TryRecvError::Disconnected);
}
