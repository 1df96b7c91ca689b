//! The names that OpenAPI documents use: of documents, tags and operations.

use coracle_client::Resource;

/// A group and version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupVersion {
    pub group: String,
    pub version: String,
}

impl GroupVersion {
    pub fn of(resource: &Resource) -> Self {
        Self { group: resource.group().to_owned(), version: resource.version().to_owned() }
    }

    /// `api/v1`, `apis/apps/v1`: the key in the index, and the path below `/openapi/v3/`.
    pub fn path(&self) -> String {
        if self.group.is_empty() {
            format!("api/{}", self.version)
        } else {
            format!("apis/{}/{}", self.group, self.version)
        }
    }

    /// `Core`, `Apps`, `RbacAuthorization`
    fn title(&self) -> String {
        if self.group.is_empty() {
            return "Core".to_owned();
        }
        self.short().split('.').map(capitalised).collect()
    }

    fn short(&self) -> &str {
        self.group.strip_suffix(".k8s.io").unwrap_or(&self.group)
    }

    /// `core_v1`, `rbacAuthorization_v1`
    pub fn tag(&self) -> String {
        let title = self.title();
        let mut letters = title.chars();
        let first = letters.next().map(|c| c.to_ascii_lowercase()).unwrap_or_default();
        format!("{first}{}_{}", letters.as_str(), self.version)
    }

    /// `listCoreV1NamespacedPod`: `verb` before the group and version, `what` after.
    pub fn operation(&self, verb: &str, what: &str) -> String {
        format!("{verb}{}{}{what}", self.title(), capitalised(&self.version))
    }
}

pub fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    match letters.next() {
        Some(first) => format!("{}{}", first.to_ascii_uppercase(), letters.as_str()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_upstream_names_them() {
        for (group, path, tag, operation) in [
            ("", "api/v1", "core_v1", "listCoreV1NamespacedPod"),
            ("apps", "apis/apps/v1", "apps_v1", "listAppsV1NamespacedPod"),
            ("events.k8s.io", "apis/events.k8s.io/v1", "events_v1", "listEventsV1NamespacedPod"),
            (
                "rbac.authorization.k8s.io",
                "apis/rbac.authorization.k8s.io/v1",
                "rbacAuthorization_v1",
                "listRbacAuthorizationV1NamespacedPod",
            ),
        ] {
            let gv = GroupVersion { group: group.into(), version: "v1".into() };
            assert_eq!(
                (gv.path().as_str(), gv.tag().as_str(), gv.operation("list", "NamespacedPod").as_str()),
                (path, tag, operation)
            );
        }
    }
}
