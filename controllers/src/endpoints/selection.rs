//! Which services select a pod, without looking at every service.

use std::collections::{BTreeMap, HashMap, HashSet};

use coracle_client::{Change, Head, Key};
use parking_lot::Mutex;
use serde::Deserialize;

type Pair = (Box<str>, Box<str>, Box<str>);

/// Services by one pair of their selector; a pod is looked up by each of its labels. Bounded by the services.
#[derive(Default)]
pub struct Selections {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    selectors: HashMap<Key, BTreeMap<String, String>>,
    by_pair: HashMap<Pair, HashSet<Key>>,
}

#[derive(Deserialize)]
struct View {
    spec: Option<Spec>,
}

#[derive(Deserialize)]
struct Spec {
    selector: Option<BTreeMap<String, String>>,
}

impl Selections {
    pub fn observe(&self, change: &Change) {
        let key = change.key();
        let selector = change
            .new
            .as_ref()
            .and_then(|service| service.decode::<View>().ok()?.spec?.selector)
            .filter(|selector| !selector.is_empty());
        let mut state = self.state.lock();
        if let Some(old) = state.selectors.remove(&key)
            && let Some(pair) = pair(&key, &old)
            && let Some(keys) = state.by_pair.get_mut(&pair)
        {
            keys.remove(&key);
            if keys.is_empty() {
                state.by_pair.remove(&pair);
            }
        }
        if let Some(selector) = selector {
            if let Some(pair) = pair(&key, &selector) {
                state.by_pair.entry(pair).or_default().insert(key.clone());
            }
            state.selectors.insert(key, selector);
        }
    }

    pub fn selecting(&self, pod: &Head) -> Vec<Key> {
        let state = self.state.lock();
        let mut found = Vec::new();
        for (label, value) in pod.labels.iter() {
            let pair = (Box::from(&*pod.namespace), Box::from(&**label), Box::from(&**value));
            for key in state.by_pair.get(&pair).into_iter().flatten() {
                let all = state
                    .selectors
                    .get(key)
                    .is_some_and(|selector| selector.iter().all(|(k, v)| pod.label(k) == Some(v)));
                if all {
                    found.push(key.clone());
                }
            }
        }
        found
    }
}

fn pair(key: &Key, selector: &BTreeMap<String, String>) -> Option<Pair> {
    let (label, value) = selector.iter().next()?;
    Some((Box::from(&*key.namespace), label.as_str().into(), value.as_str().into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_client::Object;
    use serde_json::{Value, json};

    use super::*;

    fn object(value: Value) -> Arc<Object> {
        Object::parse(value.to_string().into(), &[]).unwrap()
    }

    #[test]
    fn pods_find_their_services() {
        let selections = Selections::default();
        let service = |name: &str, selector: Value| {
            object(json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"selector": selector}}))
        };
        let add = |service: Arc<Object>| selections.observe(&Change { old: None, new: Some(service) });
        add(service("both", json!({"app": "web", "tier": "1"})));
        add(service("app", json!({"app": "web"})));
        add(service("none", json!({})));
        let found = |labels: Value| {
            let pod = object(json!({"metadata": {"namespace": "ns", "name": "p", "labels": labels}}));
            let mut names: Vec<String> =
                selections.selecting(&pod.head).iter().map(|k| k.name.to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(found(json!({"app": "web"})), ["app"]);
        assert_eq!(found(json!({"app": "web", "tier": "1", "x": "y"})), ["app", "both"]);
        assert!(found(json!({"tier": "1"})).is_empty());
        add(service("app", json!({"app": "db"})));
        assert!(found(json!({"app": "web"})).is_empty());
        selections.observe(&Change { old: Some(service("app", json!({"app": "db"}))), new: None });
        assert!(found(json!({"app": "db"})).is_empty());
    }
}
