//! Options of requests as the query carries them, with upstream's errors for what they may not be.

use coracle_client::request::escape_query;
use coracle_client::status::Cause;
use coracle_client::{ApiError, ListOptions, Resource, WriteOptions};

use crate::field_error::Errors;
use crate::request_info::percent_decoded;

/// The decoded pairs of a query, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// Longest name of a field manager, as upstream.
const FIELD_MANAGER_CHARS_MAX: usize = 128;

impl Query {
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    /// The first value; None where it is not there or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.first(key).filter(|v| !v.is_empty())
    }

    /// The first value, also where it is empty.
    pub fn first(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn contains(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// As upstream converts query values: there and neither `false` nor `0`.
    pub fn flag(&self, key: &str) -> bool {
        self.first(key).is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError> {
        self.first(key)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
                })
            })
            .transpose()
    }

    /// As it came, with a leading `?`, of those parameters that are wanted; empty where there are none.
    pub fn encode(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        for (key, value) in self.0.iter().filter(|(key, _)| wanted(key)) {
            text.push(if text.is_empty() { '?' } else { '&' });
            escape_query(key, &mut text);
            text.push('=');
            escape_query(value, &mut text);
        }
        text
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// dryRun, fieldManager, fieldValidation and force of a write; `kind`: what upstream calls the options.
    pub fn write_options(&self, kind: &str) -> Result<WriteOptions, ApiError> {
        let mut errors = Errors::default();
        if self.all("dryRun").any(|value| value != "All") {
            let values: Vec<&str> = self.all("dryRun").collect();
            errors.not_supported_value("dryRun", &values, &["All"]);
        }
        if let Some(value) = self.get("fieldValidation")
            && !matches!(value, "Ignore" | "Warn" | "Strict")
        {
            errors.not_supported("fieldValidation", value, &["", "Ignore", "Strict", "Warn"]);
        }
        if self.get("fieldManager").is_some_and(|m| m.len() > FIELD_MANAGER_CHARS_MAX) {
            errors.too_long("fieldManager", FIELD_MANAGER_CHARS_MAX);
        }
        if !errors.is_empty() {
            return Err(invalid(kind, errors.into_causes()));
        }
        Ok(WriteOptions {
            dry_run: self.get("dryRun") == Some("All"),
            field_manager: self.get("fieldManager").map(str::to_owned),
            field_validation: self.get("fieldValidation").map(str::to_owned),
            force: self.flag("force"),
        })
    }

    pub fn list_options(&self) -> Result<ListOptions, ApiError> {
        let text = |key| self.get(key).map(str::to_owned);
        self.number::<i64>("timeoutSeconds")?;
        Ok(ListOptions {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            metric_label_selector: text("metricLabelSelector"),
            // A negative limit means none, as upstream.
            limit: self.number::<i64>("limit")?.and_then(|l| u64::try_from(l).ok()),
            continue_token: text("continue"),
            resource_version: text("resourceVersion"),
            resource_version_match: text("resourceVersionMatch"),
        })
    }
}

/// 422 for options that contradict themselves.
pub fn invalid(kind: &str, causes: Vec<Cause>) -> ApiError {
    ApiError::invalid(&Resource::new("meta.k8s.io", "v1", "", kind, false), "", causes)
}

fn decode(text: &str) -> String {
    percent_decoded(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_decode_as_upstream() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=1&pretty&limit=5&x=%zz&empty=");
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(query.get("x"), Some("%zz"));
        assert_eq!(query.get("empty"), None);
        assert!(query.contains("empty"));
        assert_eq!(query.number::<i64>("limit").unwrap(), Some(5));
        assert!(query.number::<i64>("labelSelector").is_err());
        for (text, want) in [
            ("watch=1", true),
            ("watch=true", true),
            ("watch=0", false),
            ("watch=False", false),
            ("watch", true),
            ("", false),
        ] {
            assert_eq!(Query::parse(text).flag("watch"), want, "{text}");
        }
        let error = Query::parse("dryRun=Some").write_options("CreateOptions").unwrap_err();
        assert_eq!(
            error.message(),
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""
        );
        assert_eq!(query.encode(|name| name == "labelSelector"), "?labelSelector=a%3Db%2Cc%20in%20%28d%29");
    }
}
