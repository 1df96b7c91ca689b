//! A container's environment: envFrom, env with references and expansion, and Service variables. Pure.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Secret};

use super::downward::{FieldError, Fields};
use super::expansion::expand;

/// Which object of the pod's namespace a variable comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    ConfigMap(String),
    Secret(String),
}

/// What the referenced objects hold; None for an object that does not exist.
pub type Fetched = HashMap<Reference, Option<BTreeMap<String, Vec<u8>>>>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("configmap \"{0}\" not found")]
    ConfigMapNotFound(String),
    #[error("secret \"{0}\" not found")]
    SecretNotFound(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    ConfigMapKey { key: String, namespace: String, name: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    SecretKey { key: String, namespace: String, name: String },
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("environment variable {0}: fileKeyRef is not supported for Wasm containers")]
    FileKey(String),
    #[error("environment variable {0}: value of {1} is not UTF-8")]
    Encoding(String, String),
}

impl Reference {
    fn not_found(&self) -> EnvError {
        match self {
            Reference::ConfigMap(name) => EnvError::ConfigMapNotFound(name.clone()),
            Reference::Secret(name) => EnvError::SecretNotFound(name.clone()),
        }
    }

    fn no_key(&self, key: &str, namespace: &str) -> EnvError {
        let (key, namespace) = (key.to_owned(), namespace.to_owned());
        match self {
            Reference::ConfigMap(name) => EnvError::ConfigMapKey { key, namespace, name: name.clone() },
            Reference::Secret(name) => EnvError::SecretKey { key, namespace, name: name.clone() },
        }
    }
}

pub fn config_map_data(object: ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let binary = object.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0));
    object.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())).chain(binary).collect()
}

pub fn secret_data(object: Secret) -> BTreeMap<String, Vec<u8>> {
    object.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect()
}

/// The objects that the container's environment needs.
pub fn references(container: &Container) -> Vec<Reference> {
    let mut out = Vec::new();
    for from in container.env_from.iter().flatten() {
        out.extend(from.config_map_ref.iter().map(|r| Reference::ConfigMap(r.name.clone())));
        out.extend(from.secret_ref.iter().map(|r| Reference::Secret(r.name.clone())));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        out.extend(source.config_map_key_ref.iter().map(|r| Reference::ConfigMap(r.name.clone())));
        out.extend(source.secret_key_ref.iter().map(|r| Reference::Secret(r.name.clone())));
    }
    out.sort();
    out.dedup();
    out
}

/// The environment in order; a later variable of a name replaces an earlier one in place.
#[derive(Debug, Default)]
struct Environment {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Environment {
    fn set(&mut self, name: String, value: String) {
        match self.index.get(&name) {
            Some(at) => self.list[*at].1 = value,
            None => {
                self.index.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|at| self.list[*at].1.as_str())
    }
}

/// `services`: the variables of the Services the pod sees; the container's own ones win over them.
pub fn resolve(
    container: &Container,
    fetched: &Fetched,
    fields: &Fields<'_>,
    services: Vec<(String, String)>,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = fields.pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut env = Environment::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (reference, optional) = if let Some(r) = &from.config_map_ref {
            (Reference::ConfigMap(r.name.clone()), r.optional)
        } else if let Some(r) = &from.secret_ref {
            (Reference::Secret(r.name.clone()), r.optional)
        } else {
            continue;
        };
        match fetched.get(&reference).and_then(Option::as_ref) {
            // Keys that are no UTF-8 text cannot be variables; upstream takes only `data` of a ConfigMap too.
            Some(data) => data
                .iter()
                .filter_map(|(key, value)| Some((key, std::str::from_utf8(value).ok()?)))
                .for_each(|(key, value)| env.set(format!("{prefix}{key}"), value.to_owned())),
            None if optional == Some(true) => {}
            None => return Err(reference.not_found()),
        }
    }
    let services: Environment =
        services.into_iter().fold(Environment::default(), |mut all, (name, value)| {
            all.set(name, value);
            all
        });
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let lookup = |name: &str| env.get(name).or_else(|| services.get(name));
                Some(expand(variable.value.as_deref().unwrap_or_default(), lookup))
            }
            Some(source) => {
                if let Some(field) = &source.field_ref {
                    Some(fields.field(&field.field_path)?)
                } else if let Some(resource) = &source.resource_field_ref {
                    Some(fields.resource(resource, Some(container))?)
                } else if let Some(r) = &source.config_map_key_ref {
                    let reference = Reference::ConfigMap(r.name.clone());
                    key(&reference, &r.key, r.optional, namespace, fetched, &variable.name)?
                } else if let Some(r) = &source.secret_key_ref {
                    let reference = Reference::Secret(r.name.clone());
                    key(&reference, &r.key, r.optional, namespace, fetched, &variable.name)?
                } else if source.file_key_ref.is_some() {
                    return Err(EnvError::FileKey(variable.name.clone()));
                } else {
                    Some(String::new())
                }
            }
        };
        if let Some(value) = value {
            env.set(variable.name.clone(), value);
        }
    }
    for (name, value) in services.list {
        if env.get(&name).is_none() {
            env.set(name, value);
        }
    }
    Ok(env.list)
}

fn key(
    reference: &Reference,
    key: &str,
    optional: Option<bool>,
    namespace: &str,
    fetched: &Fetched,
    variable: &str,
) -> Result<Option<String>, EnvError> {
    let optional = optional == Some(true);
    let Some(data) = fetched.get(reference).and_then(Option::as_ref) else {
        return if optional { Ok(None) } else { Err(reference.not_found()) };
    };
    match data.get(key) {
        Some(value) => match std::str::from_utf8(value) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(EnvError::Encoding(variable.to_owned(), key.to_owned())),
        },
        None if optional => Ok(None),
        None => Err(reference.no_key(key, namespace)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fetched() -> Fetched {
        let config = [("K", "v"), ("OTHER", "o")].map(|(k, v)| (k.to_owned(), v.as_bytes().to_vec()));
        let secret = [("pw".to_owned(), b"s3cret".to_vec()), ("bin".to_owned(), vec![0xff])];
        HashMap::from([
            (Reference::ConfigMap("cfg".into()), Some(config.into())),
            (Reference::Secret("sec".into()), Some(secret.into())),
            (Reference::ConfigMap("gone".into()), None),
        ])
    }

    fn run(container: serde_json::Value) -> Result<Vec<(String, String)>, EnvError> {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}})).unwrap();
        let allocatable = BTreeMap::new();
        let fields = Fields {
            pod: &pod,
            pod_ips: vec![[10, 0, 0, 2].into()],
            host_ips: &[],
            allocatable: &allocatable,
        };
        let mut container = container;
        container["name"] = "c".into();
        let container: Container = serde_json::from_value(container).unwrap();
        resolve(&container, &fetched(), &fields, vec![("DB_SERVICE_HOST".into(), "10.96.0.7".into())])
    }

    #[test]
    fn environments() {
        for (what, container, want) in [
            (
                "values expand earlier ones",
                json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)"}, {"name": "C", "value": "3"}]}),
                vec![("A", "1"), ("B", "1$(C)"), ("C", "3")],
            ),
            (
                "values see services",
                json!({"env": [{"name": "A", "value": "http://$(DB_SERVICE_HOST)"}]}),
                vec![("A", "http://10.96.0.7")],
            ),
            (
                "own variables win over services",
                json!({"env": [{"name": "DB_SERVICE_HOST", "value": "mine"}]}),
                vec![("DB_SERVICE_HOST", "mine")],
            ),
            (
                "config map key",
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "K"}}}]}),
                vec![("A", "v")],
            ),
            (
                "secret key",
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "pw"}}}]}),
                vec![("A", "s3cret")],
            ),
            (
                "optional key missing",
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "x", "optional": true}}}]}),
                vec![],
            ),
            (
                "optional object missing",
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "x", "optional": true}}}]}),
                vec![],
            ),
            (
                "envFrom with prefix",
                json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "cfg"}}]}),
                vec![("P_K", "v"), ("P_OTHER", "o")],
            ),
            (
                "env wins over envFrom, in place",
                json!({"envFrom": [{"configMapRef": {"name": "cfg"}}], "env": [{"name": "K", "value": "mine"}]}),
                vec![("K", "mine"), ("OTHER", "o")],
            ),
            (
                "envFrom skips what is no text",
                json!({"envFrom": [{"secretRef": {"name": "sec"}}]}),
                vec![("pw", "s3cret")],
            ),
            (
                "optional envFrom",
                json!({"envFrom": [{"configMapRef": {"name": "gone", "optional": true}}]}),
                vec![],
            ),
            (
                "field",
                json!({"env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}),
                vec![("IP", "10.0.0.2")],
            ),
            (
                "envFrom is seen by values",
                json!({"envFrom": [{"configMapRef": {"name": "cfg"}}], "env": [{"name": "A", "value": "$(K)"}]}),
                vec![("K", "v"), ("OTHER", "o"), ("A", "v")],
            ),
        ] {
            let got = run(container).unwrap();
            let got: Vec<_> = got
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .filter(|(k, v)| *k != "DB_SERVICE_HOST" || *v == "mine")
                .collect();
            assert_eq!(got, want, "{what}");
        }
    }

    #[test]
    fn errors_are_upstreams() {
        for (container, want) in [
            (
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "x"}}}]}),
                "couldn't find key x in ConfigMap ns/cfg",
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "x"}}}]}),
                "couldn't find key x in Secret ns/sec",
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "x"}}}]}),
                "configmap \"gone\" not found",
            ),
            (json!({"envFrom": [{"secretRef": {"name": "none"}}]}), "secret \"none\" not found"),
            (
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
                "unsupported fieldPath: spec.x",
            ),
        ] {
            assert_eq!(run(container).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn references_are_found_once() {
        let container: Container = serde_json::from_value(json!({"name": "c",
            "envFrom": [{"configMapRef": {"name": "b"}}, {"secretRef": {"name": "s"}}],
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "b", "key": "k"}}}, {"name": "B", "value": "x"}]}))
        .unwrap();
        assert_eq!(references(&container), [Reference::ConfigMap("b".into()), Reference::Secret("s".into())]);
    }
}
