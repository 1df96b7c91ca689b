//! Turns `deploy`, `pods`, `Deployment` or `deployments.apps` into a resource, by discovery.

use anyhow::bail;
use coracle_client::Resource;
use serde::Deserialize;

use super::connection::Connection;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[derive(Deserialize)]
struct Groups {
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: GroupMeta,
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
struct GroupMeta {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Discovered>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Discovered {
    resource: String,
    response_kind: ResponseKind,
    scope: String,
    #[serde(default)]
    singular_resource: String,
    #[serde(default)]
    short_names: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct ResponseKind {
    kind: String,
}

/// Everything the server has.
pub struct Resources(Vec<Known>);

struct Known {
    resource: Resource,
    singular: String,
    short_names: Vec<String>,
    categories: Vec<String>,
    verbs: Vec<String>,
}

impl Resources {
    pub async fn discover(connection: &Connection) -> anyhow::Result<Self> {
        let mut known = Vec::new();
        for path in ["/api", "/apis"] {
            let groups: Groups = serde_json::from_value(connection.get(path, AGGREGATED).await?)?;
            for group in groups.items {
                // The preferred version comes first.
                for version in group.versions {
                    known.extend(version.resources.into_iter().map(|r| Known {
                        resource: Resource::new(
                            &group.metadata.name,
                            &version.version,
                            &r.resource,
                            &r.response_kind.kind,
                            r.scope == "Namespaced",
                        ),
                        singular: r.singular_resource,
                        short_names: r.short_names,
                        categories: r.categories,
                        verbs: r.verbs,
                    }));
                }
            }
        }
        Ok(Self(known))
    }

    /// The resources that a word on the command line means: several for a category such as `all`, or for `a,b`.
    pub fn named(&self, words: &str) -> anyhow::Result<Vec<Resource>> {
        let mut found = Vec::new();
        for word in words.split(',') {
            let lower = word.to_lowercase();
            let one = self.0.iter().find(|k| k.is_called(&lower));
            if let Some(known) = one {
                found.push(known.resource.clone());
                continue;
            }
            let category: Vec<_> = self
                .0
                .iter()
                .filter(|k| k.categories.contains(&lower) && k.verbs.iter().any(|v| v == "list"))
                .map(|k| k.resource.clone())
                .collect();
            if category.is_empty() {
                bail!("the server doesn't have a resource type \"{word}\"");
            }
            found.extend(category);
        }
        Ok(found)
    }

    /// The resource of a manifest's `apiVersion` and `kind`.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> anyhow::Result<Resource> {
        let known =
            self.0.iter().find(|k| k.resource.api_version() == api_version && k.resource.kind() == kind);
        match known {
            Some(known) => Ok(known.resource.clone()),
            None => bail!("no matches for kind \"{kind}\" in version \"{api_version}\""),
        }
    }
}

impl Known {
    fn is_called(&self, word: &str) -> bool {
        let resource = &self.resource;
        resource.plural() == word
            || self.singular == word
            || resource.kind().to_lowercase() == word
            || self.short_names.iter().any(|s| s == word)
            || resource.qualified() == word
            || word
                .strip_prefix(resource.plural())
                .is_some_and(|rest| rest == format!(".{}.{}", resource.version(), resource.group()))
    }
}

/// `TYPE NAME…`, `TYPE/NAME…` or `TYPE`, as kubectl takes them.
pub fn targets(resources: &Resources, words: &[String]) -> anyhow::Result<Vec<(Resource, Option<String>)>> {
    let Some((first, rest)) = words.split_first() else {
        bail!("You must specify the type of resource, as in: deployment/web, or pods");
    };
    if words.iter().any(|w| w.contains('/')) {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !name.is_empty() => {
                    let mut found = resources.named(kind)?;
                    Ok((found.remove(0), Some(name.to_owned())))
                }
                _ => bail!(
                    "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form"
                ),
            })
            .collect();
    }
    let found = resources.named(first)?;
    if rest.is_empty() {
        return Ok(found.into_iter().map(|r| (r, None)).collect());
    }
    Ok(found.iter().flat_map(|r| rest.iter().map(|name| (r.clone(), Some(name.clone())))).collect())
}
