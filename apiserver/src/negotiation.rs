//! Which form of an answer a client accepts: encoding, and whole objects, their metadata, or a Table.

use coracle_client::ApiError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    #[default]
    Object,
    /// `PartialObjectMetadata` and its list.
    Metadata,
    Table,
}

/// The best of what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub shape: Shape,
    /// `v1` or `v1beta1` of `meta.k8s.io`, for the shapes other than the object.
    pub beta: bool,
}

/// One clause of an Accept header, its parameters in lower case keys.
pub struct Clause<'a> {
    pub media_type: &'a str,
    pub parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Clause<'_> {
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    }
}

/// The clauses, best first; equally good ones in the order given.
pub fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = accept
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media_type = parts.next().filter(|t| !t.is_empty())?;
            let parameters: Vec<(&str, &str)> = parts
                .filter_map(|p| p.split_once('='))
                .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
                .collect();
            let quality = parameters
                .iter()
                .find(|(name, _)| *name == "q")
                .and_then(|(_, value)| value.parse().ok())
                .unwrap_or(1.0);
            Some(Clause { media_type, parameters, quality })
        })
        .filter(|clause| clause.quality > 0.0)
        .collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

/// No header accepts JSON. `watch`: streams come in JSON only.
pub fn negotiate(accept: Option<&str>, watch: bool) -> Result<Accepted, ApiError> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else { return Ok(Accepted::default()) };
    for clause in clauses(accept) {
        let encoding = match clause.media_type.to_ascii_lowercase().as_str() {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" if !watch => Encoding::Yaml,
            _ => continue,
        };
        let beta = match clause.parameter("v") {
            None | Some("v1") => false,
            Some("v1beta1") => true,
            Some(_) => continue,
        };
        let shape = match clause.parameter("as") {
            None => return Ok(Accepted { encoding, ..Accepted::default() }),
            Some("Table") => Shape::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Shape::Metadata,
            Some(_) => continue,
        };
        if clause.parameter("g").is_some_and(|g| g == "meta.k8s.io") {
            return Ok(Accepted { encoding, shape, beta });
        }
    }
    Err(ApiError::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_form_wins() {
        let (json, yaml) = (Encoding::Json, Encoding::Yaml);
        const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, want) in [
            ("", Some((json, Shape::Object))),
            ("*/*", Some((json, Shape::Object))),
            ("application/yaml", Some((yaml, Shape::Object))),
            ("application/yaml;q=0.5, application/json", Some((json, Shape::Object))),
            (KUBECTL, Some((json, Shape::Table))),
            ("application/json;as=Table;v=v9;g=meta.k8s.io, application/json", Some((json, Shape::Object))),
            ("application/json;as=Other;v=v1;g=meta.k8s.io", None),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some((json, Shape::Metadata)),
            ),
            ("application/vnd.kubernetes.protobuf,application/json", Some((json, Shape::Object))),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
            ("application/json;q=0", None),
        ] {
            let got = negotiate(Some(accept), false).map(|a| (a.encoding, a.shape));
            assert_eq!(got.clone().ok(), want, "{accept}");
            assert!(got.is_ok() || got.is_err_and(|e| e.code() == 406));
        }
        assert!(negotiate(Some("application/yaml"), true).is_err());
        assert!(negotiate(Some("application/json;stream=watch"), true).is_ok());
    }
}
