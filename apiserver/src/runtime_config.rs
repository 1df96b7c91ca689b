//! Which versions of the API are served beside those that always are: upstream's `--runtime-config`.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::kinds::{self, KindDef};

/// What names more than one version.
const ALL: &str = "api/all";
const ALPHA: &str = "api/alpha";
const ALWAYS: [&str; 2] = ["api/beta", "api/ga"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    on: BTreeSet<String>,
}

impl RuntimeConfig {
    /// By the version's name, such as `apps/v1`.
    pub fn serves(&self, api_version: &str) -> bool {
        self.on.contains(api_version)
    }

    /// The built-in kinds that are served.
    pub fn kinds(&self) -> Vec<KindDef> {
        let asked_for = |def: &KindDef| self.serves(&def.resource.api_version());
        kinds::all().into_iter().chain(kinds::off_by_default().into_iter().filter(asked_for)).collect()
    }
}

impl FromStr for RuntimeConfig {
    type Err = String;

    /// `VERSION=true|false,…`; later ones win, and a version by its name wins over `api/all` and `api/alpha`.
    fn from_str(text: &str) -> Result<Self, String> {
        let versions = |defs: Vec<KindDef>| -> BTreeSet<String> {
            defs.iter().map(|def| def.resource.api_version()).collect()
        };
        let (always, optional) = (versions(kinds::all()), versions(kinds::off_by_default()));
        let mut on = BTreeSet::new();
        let (mut named, mut broad) = (Vec::new(), Vec::new());
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, "true"));
            let wanted: bool =
                value.parse().map_err(|_| format!("{name}: {value:?} is neither true nor false"))?;
            match name {
                ALL | ALPHA => broad.push((name, wanted)),
                name if optional.contains(name) => named.push((name, wanted)),
                name if !wanted && (always.contains(name) || ALWAYS.contains(&name)) => {
                    return Err(format!("{name} is always served and cannot be switched off"));
                }
                name if always.contains(name) || ALWAYS.contains(&name) => {}
                name => {
                    let known: Vec<&str> = optional.iter().map(String::as_str).collect();
                    return Err(format!(
                        "unknown API version {name}; what can be switched on: {}",
                        known.join(", ")
                    ));
                }
            }
        }
        for (name, wanted) in broad {
            if !wanted && name == ALL {
                return Err(format!("{ALL}=false would leave no API"));
            }
            if wanted {
                on.extend(optional.iter().cloned());
            } else {
                on.clear();
            }
        }
        for (name, wanted) in named {
            if wanted {
                on.insert(name.to_owned());
            } else {
                on.remove(name);
            }
        }
        Ok(Self { on })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_asked_for_by_name() {
        let version = "internal.apiserver.k8s.io/v1alpha1";
        for (text, want) in [
            ("", Ok(false)),
            (version, Ok(true)),
            ("internal.apiserver.k8s.io/v1alpha1=true,apps/v1=true", Ok(true)),
            ("internal.apiserver.k8s.io/v1alpha1=false", Ok(false)),
            ("api/all=true", Ok(true)),
            ("api/alpha=true,api/ga=true", Ok(true)),
            ("internal.apiserver.k8s.io/v1alpha1=false,api/all=true", Ok(false)),
            ("api/alpha=false", Ok(false)),
            ("api/all=false", Err("api/all=false would leave no API")),
            ("apps/v1=false", Err("apps/v1 is always served and cannot be switched off")),
            (
                "apps/v9=true",
                Err(
                    "unknown API version apps/v9; what can be switched on: internal.apiserver.k8s.io/v1alpha1",
                ),
            ),
            ("api/all=yes", Err("api/all: \"yes\" is neither true nor false")),
        ] {
            let got = text.parse::<RuntimeConfig>();
            let got = got.as_ref().map(|config| config.serves(version)).map_err(String::as_str);
            assert_eq!(got, want, "{text}");
        }
        assert_eq!(RuntimeConfig::default().kinds().len(), kinds::all().len());
    }
}
