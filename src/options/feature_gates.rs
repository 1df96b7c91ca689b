//! Upstream's feature gates that this server knows.

use std::str::FromStr;

const IDENTITY: &str = "APIServerIdentity";
const STORAGE_VERSIONS: &str = "StorageVersionAPI";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    /// A Lease in kube-system for each server. Without a word: where several servers share a store.
    identity: Option<bool>,
    /// Servers say in which versions they store.
    pub storage_versions: bool,
}

impl FeatureGates {
    pub fn identity(&self, shared_store: bool) -> bool {
        self.identity.unwrap_or(shared_store || self.storage_versions)
    }
}

impl FromStr for FeatureGates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut gates = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or_else(|| format!("missing bool value for {part}"))?;
            let on: bool =
                value.parse().map_err(|_| format!("invalid value of {name}={value}: give true or false"))?;
            match name {
                IDENTITY => gates.identity = Some(on),
                STORAGE_VERSIONS => gates.storage_versions = on,
                _ => {
                    return Err(format!(
                        "unrecognized feature gate: {name}; known: {IDENTITY}, {STORAGE_VERSIONS}"
                    ));
                }
            }
        }
        if gates.storage_versions && gates.identity == Some(false) {
            return Err(format!("{STORAGE_VERSIONS} needs {IDENTITY}"));
        }
        Ok(gates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_known_and_fit_one_another() {
        for (text, want) in [
            ("", Ok((false, [false, true]))),
            ("APIServerIdentity=true", Ok((false, [true, true]))),
            ("APIServerIdentity=false", Ok((false, [false, false]))),
            ("StorageVersionAPI=true", Ok((true, [true, true]))),
            ("StorageVersionAPI=true,APIServerIdentity=true", Ok((true, [true, true]))),
            (
                "StorageVersionAPI=true,APIServerIdentity=false",
                Err("StorageVersionAPI needs APIServerIdentity"),
            ),
            ("StorageVersionAPI", Err("missing bool value for StorageVersionAPI")),
            ("StorageVersionAPI=1", Err("invalid value of StorageVersionAPI=1: give true or false")),
            (
                "Other=true",
                Err("unrecognized feature gate: Other; known: APIServerIdentity, StorageVersionAPI"),
            ),
        ] {
            let got = text.parse::<FeatureGates>();
            let got = got
                .as_ref()
                .map(|gates| (gates.storage_versions, [false, true].map(|shared| gates.identity(shared))))
                .map_err(String::as_str);
            assert_eq!(got, want, "{text}");
        }
    }
}
