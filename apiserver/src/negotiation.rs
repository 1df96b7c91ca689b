//! Which form of an answer a client accepts: encoding, and whole objects, their metadata, or a Table.

use coracle_client::ApiError;
use http::{HeaderMap, header};

use crate::request_info::is_true;
use crate::verbs::options::Query;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Json,
    Yaml,
    Protobuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    #[default]
    Object,
    /// `PartialObjectMetadata`
    Metadata,
    /// `PartialObjectMetadataList`
    MetadataList,
    Table,
}

/// The best of what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub shape: Shape,
    /// `v1` or `v1beta1` of `meta.k8s.io`, for the shapes other than the object.
    pub beta: bool,
    pub pretty: bool,
}

/// What an endpoint can answer with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer {
    /// Objects have a form in protobuf; those of custom resources have none.
    pub protobuf: bool,
    /// A list, which may also be watched.
    pub list: bool,
    pub watch: bool,
}

/// How the documents of one request's answer are written, errors too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    pub encoding: Encoding,
    pub pretty: bool,
    /// Large ones may be compressed.
    pub gzip: bool,
}

impl Form {
    /// What holds for whatever the answer turns out to be.
    pub fn of(headers: &HeaderMap, query: &str) -> Self {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let clauses = clauses(text(header::ACCEPT));
        let best = clauses.iter().find_map(|clause| {
            let encoding = encodings(clause.media_type).first().copied()?;
            (!clause.parameters.iter().any(|(name, _)| matches!(*name, "as" | "stream")))
                .then_some((encoding, clause.parameter("pretty") == Some("1")))
        });
        let (encoding, asked) = best.unwrap_or_default();
        Self {
            encoding,
            pretty: asked || pretty(query, text(header::USER_AGENT)),
            gzip: takes_gzip(text(header::ACCEPT_ENCODING)),
        }
    }
}

/// Browsers and tools of the command line get what a human can read.
fn pretty(query: &str, agent: &str) -> bool {
    match Query::parse(query).get("pretty") {
        Some(said) => is_true(said),
        None => ["curl", "Wget", "Mozilla/5.0"].iter().any(|tool| agent.starts_with(tool)),
    }
}

pub fn takes_gzip(accept_encoding: &str) -> bool {
    accept_encoding.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.all(|quality| quality.replace(' ', "") != "q=0")
    })
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
        .collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

/// The encodings that a clause's media type stands for, best first.
fn encodings(media_type: &str) -> &'static [Encoding] {
    match media_type.to_ascii_lowercase().as_str() {
        JSON => &[Encoding::Json],
        YAML => &[Encoding::Yaml],
        PROTOBUF => &[Encoding::Protobuf],
        "*/*" | "application/*" => &[Encoding::Json, Encoding::Yaml, Encoding::Protobuf],
        _ => &[],
    }
}

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl Offer {
    fn allows(self, encoding: Encoding, shape: Shape) -> bool {
        match encoding {
            Encoding::Json => true,
            Encoding::Yaml => !self.watch,
            Encoding::Protobuf => match shape {
                Shape::Object => self.protobuf,
                Shape::Metadata | Shape::MetadataList => true,
                Shape::Table => false,
            },
        }
    }
}

/// No header accepts JSON.
pub fn negotiate(accept: Option<&str>, offer: Offer) -> Result<Accepted, ApiError> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else { return Ok(Accepted::default()) };
    let clauses = clauses(accept);
    let routed = |clause: &Clause<'_>| matches!(clause.media_type, JSON | YAML | PROTOBUF | "*/*");
    // As upstream, which asks its router first.
    if offer.protobuf && !clauses.iter().any(routed) {
        let streams = if offer.list || offer.watch {
            ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
        } else {
            ""
        };
        let message =
            format!("406: Not Acceptable\n\nAvailable representations: {JSON}, {YAML}, {PROTOBUF}{streams}");
        let mut error = ApiError::new(406, "NotAcceptable", message);
        error.details_mut();
        return Err(error);
    }
    let found = clauses.iter().find_map(|clause| {
        let (shape, beta) = shape(clause)?;
        let encoding = encodings(clause.media_type).iter().find(|e| offer.allows(**e, shape))?;
        let streams = matches!(clause.parameter("stream"), None | Some("watch"));
        let stream_of_yaml = clause.parameter("stream").is_some() && *encoding == Encoding::Yaml;
        let pretty = clause.parameter("pretty") == Some("1");
        (streams && !stream_of_yaml).then_some(Accepted { encoding: *encoding, shape, beta, pretty })
    });
    found.ok_or_else(|| {
        let accepted = if offer.watch {
            format!("{JSON};stream=watch, {PROTOBUF};stream=watch")
        } else {
            format!("{JSON}, {YAML}, {PROTOBUF}")
        };
        not_acceptable(&accepted)
    })
}

pub fn not_acceptable(accepted: &str) -> ApiError {
    ApiError::new(406, "NotAcceptable", format!("only the following media types are accepted: {accepted}"))
}

/// None: a shape that there is not.
fn shape(clause: &Clause<'_>) -> Option<(Shape, bool)> {
    let shape = match clause.parameter("as") {
        None => return Some((Shape::Object, false)),
        Some("Table") => Shape::Table,
        Some("PartialObjectMetadata") => Shape::Metadata,
        Some("PartialObjectMetadataList") => Shape::MetadataList,
        Some(_) => return None,
    };
    let beta = match (clause.parameter("g"), clause.parameter("v")) {
        (Some("meta.k8s.io"), Some("v1")) => false,
        (Some("meta.k8s.io"), Some("v1beta1")) => true,
        _ => return None,
    };
    Some((shape, beta))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

    #[test]
    fn the_best_form_wins() {
        let (json, yaml, protobuf) = (Encoding::Json, Encoding::Yaml, Encoding::Protobuf);
        const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, want) in [
            ("", Some((json, Shape::Object))),
            ("*/*", Some((json, Shape::Object))),
            ("application/yaml", Some((yaml, Shape::Object))),
            ("application/yaml;q=0.5, application/json", Some((json, Shape::Object))),
            (KUBECTL, Some((json, Shape::Table))),
            ("application/json;as=Table;v=v9;g=meta.k8s.io, application/json", Some((json, Shape::Object))),
            ("application/json;as=Other;v=v1;g=meta.k8s.io", None),
            ("application/json;as=Table", None),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some((json, Shape::MetadataList)),
            ),
            ("application/vnd.kubernetes.protobuf,application/json", Some((protobuf, Shape::Object))),
            ("application/vnd.kubernetes.protobuf", Some((protobuf, Shape::Object))),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io, application/json;as=Table;v=v1;g=meta.k8s.io",
                Some((json, Shape::Table)),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
                Some((protobuf, Shape::Metadata)),
            ),
            ("text/html", None),
            ("application/cbor", None),
            // As upstream: the worst, but accepted.
            ("application/json;q=0", Some((json, Shape::Object))),
        ] {
            let got = negotiate(Some(accept), Offer { protobuf: true, ..Offer::default() })
                .map(|a| (a.encoding, a.shape));
            assert_eq!(got.clone().ok(), want, "{accept}");
            assert!(got.is_ok() || got.is_err_and(|e| e.code() == 406));
        }
    }

    #[test]
    fn what_is_refused_says_what_there_is() {
        let offer = Offer { protobuf: true, list: true, watch: false };
        for (accept, offer, want) in [
            (
                "text/html",
                offer,
                "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            ),
            (
                "application/json;as=Nope;v=v1;g=meta.k8s.io",
                offer,
                "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ),
            (
                "application/yaml",
                Offer { watch: true, ..offer },
                "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            ),
            (
                PROTOBUF,
                Offer { protobuf: false, ..offer },
                "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ),
        ] {
            assert_eq!(negotiate(Some(accept), offer).unwrap_err().message(), want, "{accept}");
        }
        let watch = Offer { watch: true, ..offer };
        assert!(negotiate(Some("application/json;stream=watch"), watch).is_ok());
        assert_eq!(negotiate(Some(TABLE), watch).unwrap().shape, Shape::Table);
    }

    #[test]
    fn how_every_document_is_written() {
        let form = |pairs: &[(header::HeaderName, &'static str)], query: &str| {
            let headers = pairs.iter().map(|(k, v)| (k.clone(), http::HeaderValue::from_static(v))).collect();
            Form::of(&headers, query)
        };
        assert_eq!(form(&[], ""), Form::default());
        assert!(form(&[(header::USER_AGENT, "curl/8")], "").pretty);
        assert!(!form(&[(header::USER_AGENT, "curl/8")], "pretty=0").pretty);
        assert!(form(&[], "pretty=true").pretty);
        assert!(form(&[(header::ACCEPT_ENCODING, "br, gzip")], "").gzip);
        assert!(!form(&[(header::ACCEPT_ENCODING, "gzip;q=0")], "").gzip);
        let accept = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(form(&[(header::ACCEPT, accept)], "").encoding, Encoding::Protobuf);
        assert_eq!(form(&[(header::ACCEPT, TABLE)], "").encoding, Encoding::Json);
    }
}
