//! GET of a collection: selectors, pages at one revision, and which revision a client may ask for.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use coracle_client::selector::{FieldSelector, Selector};
use coracle_client::{ApiError, ListOptions, Object};
use serde::{Deserialize, Serialize};

use super::options;
use crate::api::{Api, Served};
use crate::decode::json_fault;
use crate::field_error::Errors;
use crate::negotiation::{Encoding, Form};
use crate::protobuf::{self, Message};
use crate::subresources::computed;
use crate::watch_cache::{Filter, Items, Packing, Page, TooOld};

/// A list, or a page of one.
#[derive(Debug, Default)]
pub struct Listed {
    pub objects: Vec<Arc<Object>>,
    pub revision: u64,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

/// Which state a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Newest,
    AtHand,
    NotOlderThan(u64),
    Exactly(u64),
}

pub async fn list(
    api: &Api,
    kind: &Served,
    namespace: Option<&str>,
    options: ListOptions,
) -> Result<Listed, ApiError> {
    check(&options)?;
    let filter =
        filter(kind, namespace, options.label_selector.as_deref(), options.field_selector.as_deref())?;
    if kind.def.computed {
        let objects = computed::objects(api, kind, &filter).await?;
        return Ok(Listed { objects, ..Listed::default() });
    }
    let token = options.continue_token.as_deref().filter(|t| !t.is_empty()).map(Token::parse).transpose()?;
    let wanted = match &token {
        None => wanted(&options)?,
        Some(token) => {
            forbid_with_continue(&options)?;
            if token.rv > 0 { Wanted::Exactly(token.rv as u64) } else { Wanted::Newest }
        }
    };
    let at = match wanted {
        Wanted::Newest => {
            api.cache.catch_up(&*api.store).await?;
            None
        }
        Wanted::AtHand => None,
        Wanted::NotOlderThan(revision) => {
            api.cache.wait_for(revision).await?;
            None
        }
        Wanted::Exactly(revision) => {
            api.cache.wait_for(revision).await?;
            Some(revision)
        }
    };
    let start = token.as_ref().map(|t| t.start.as_str());
    // What is at hand comes whole, as upstream's cache has it.
    let limit = options
        .limit
        .filter(|_| wanted != Wanted::AtHand)
        .filter(|l| *l > 0)
        .map(|l| usize::try_from(l).unwrap_or(usize::MAX));
    let page = kind.cache.list(&filter, start, limit, at, api.cache.revision());
    let page = page.map_err(|TooOld { .. }| match &token {
        Some(token) => token.expired(),
        None => ApiError::expired("The resourceVersion for the provided list is too old."),
    })?;
    let Page { objects, revision, last_key, remaining, .. } = page;
    let continue_token = last_key.map(|key| Token::new(revision, &key).encode());
    Ok(Listed {
        objects: kind.presented(objects.iter().map(|o| kind.shown(o)).collect::<Result<_, _>>()?).await?,
        revision,
        remaining: continue_token.as_ref().filter(|_| filter.is_plain()).map(|_| remaining),
        continue_token,
    })
}

/// A list document: its items, shared with other requests, and what stands around them.
pub struct Whole {
    pub head: Bytes,
    pub items: Arc<Items>,
    pub end: Bytes,
}

/// The whole present list; None where the options ask for a part or for the past, or its form is not shared.
pub async fn whole(
    api: &Api,
    kind: &Served,
    namespace: Option<&str>,
    options: &ListOptions,
    form: Form,
) -> Result<Option<Whole>, ApiError> {
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let packing = match form.encoding {
        Encoding::Json if !form.pretty => Packing::Json,
        Encoding::Protobuf => Packing::Protobuf,
        _ => return Ok(None),
    };
    let whole = empty(&options.label_selector)
        && empty(&options.field_selector)
        && empty(&options.continue_token)
        && options.limit.unwrap_or(0) == 0
        && kind.shows_stored()
        && !kind.def.computed;
    if !whole {
        return Ok(None);
    }
    check(options)?;
    match wanted(options)? {
        Wanted::Newest => api.cache.catch_up(&*api.store).await?,
        Wanted::AtHand => {}
        Wanted::NotOlderThan(revision) => api.cache.wait_for(revision).await?,
        Wanted::Exactly(_) => return Ok(None),
    }
    let message = if packing == Packing::Protobuf { Some(message(kind)?) } else { None };
    let put = |object: &Object, out: &mut Vec<u8>| put_protobuf(message, object, out);
    let (revision, items) = kind.cache.whole(namespace, packing, api.cache.revision(), put)?;
    let listed = Listed { revision, ..Listed::default() };
    let (head, end) = match packing {
        Packing::Json => {
            let mut head = head(&kind.def.list_kind, &kind.resource().api_version(), &listed);
            head.push_str("\"items\":[");
            (head.into(), Bytes::from_static(b"]}"))
        }
        Packing::Protobuf => around(kind, &listed, items.bytes.len()),
    };
    Ok(Some(Whole { head, items, end }))
}

fn message(kind: &Served) -> Result<&'static Message, ApiError> {
    kind.message()
        .ok_or_else(|| ApiError::internal(format!("a {} has no form in protobuf", kind.resource().kind())))
}

fn put_protobuf(message: Option<&Message>, object: &Object, out: &mut Vec<u8>) -> Result<(), ApiError> {
    let Some(message) = message else { return Ok(()) };
    protobuf::item(protobuf::table(), message, &object.json, out).map_err(ApiError::internal)
}

fn around(kind: &Served, listed: &Listed, items: usize) -> (Bytes, Bytes) {
    let part = protobuf::ListPart {
        revision: listed.revision,
        continue_token: listed.continue_token.as_deref(),
        remaining: listed.remaining,
    };
    protobuf::list(&kind.resource().api_version(), &kind.def.list_kind, part, items)
}

/// The list document in protobuf.
pub fn protobuf(kind: &Served, listed: &Listed) -> Result<Whole, ApiError> {
    let message = Some(message(kind)?);
    let put = |object: &Object, out: &mut Vec<u8>| put_protobuf(message, object, out);
    let items = Items::encode(&listed.objects, Packing::Protobuf, put)?;
    let (head, end) = around(kind, listed, items.bytes.len());
    Ok(Whole { head, items, end })
}

/// Selectors as the cache applies them; a field that cannot be selected is 400.
pub fn filter(
    kind: &Served,
    namespace: Option<&str>,
    labels: Option<&str>,
    fields: Option<&str>,
) -> Result<Filter, ApiError> {
    let unreadable =
        |error: coracle_client::selector::SelectorError| ApiError::bad_request(error.to_string());
    let labels = Selector::parse(labels.unwrap_or_default()).map_err(unreadable)?;
    let resource = kind.resource();
    let mut fields = FieldSelector::parse(fields.unwrap_or_default()).map_err(unreadable)?;
    for term in &mut fields.terms {
        if let Some(alias) = &kind.def.alias
            && let Some((_, stored)) = alias.fields.iter().find(|(path, _)| *path == term.path)
        {
            term.path = (*stored).to_owned();
            continue;
        }
        let path = term.path.as_str();
        let known = path == "metadata.name"
            || (path == "metadata.namespace" && resource.namespaced())
            || kind.def.selectable_fields.contains(&path);
        if !known {
            return Err(ApiError::bad_request(match kind.def.selectable_fields {
                [] => format!(
                    "{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                ),
                _ => format!("field label not supported: {path}"),
            }));
        }
    }
    // A name or namespace outside the URL's selects nothing, which the terms themselves see to.
    Ok(Filter { namespace: namespace.map(str::to_owned), labels, fields })
}

/// A resourceVersion of a query, or what is wrong with it; None where it is unset.
pub fn parse_version(text: Option<&str>) -> Result<Option<u64>, String> {
    match text.unwrap_or_default() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            format!(
                "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            )
        }),
    }
}

/// Of a get or a watch; upstream has no better code for it.
pub fn version_of_one(text: Option<&str>) -> Result<Option<u64>, ApiError> {
    parse_version(text).map_err(|why| ApiError::new(500, "", why))
}

/// What is wrong with a list's options as upstream checks them before anything else.
fn check(options: &ListOptions) -> Result<(), ApiError> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (version, rule) = (text(&options.resource_version), text(&options.resource_version_match));
    if rule.is_empty() {
        return Ok(());
    }
    let mut errors = Errors::default();
    if version.is_empty() {
        errors.forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        );
    }
    if !text(&options.continue_token).is_empty() {
        errors
            .forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
    }
    if !matches!(rule.as_str(), "Exact" | "NotOlderThan") {
        errors.not_supported("resourceVersionMatch", &rule, &["Exact", "NotOlderThan", ""]);
    }
    if rule == "Exact" && version == "0" {
        errors.forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        );
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(options::invalid("ListOptions", errors.into_causes()))
}

fn wanted(options: &ListOptions) -> Result<Wanted, ApiError> {
    let version = parse_version(options.resource_version.as_deref())
        .map_err(|why| ApiError::bad_request(format!("invalid resource version: {why}")))?;
    let rule = options.resource_version_match.as_deref().unwrap_or_default();
    Ok(match (version, rule) {
        (None, _) => Wanted::Newest,
        (Some(0), _) => Wanted::AtHand,
        (Some(version), "Exact") => Wanted::Exactly(version),
        // As upstream's legacy rule: a limited list at a version is a list of exactly that version.
        (Some(version), "") if options.limit.is_some_and(|l| l > 0) => Wanted::Exactly(version),
        (Some(version), _) => Wanted::NotOlderThan(version),
    })
}

fn forbid_with_continue(options: &ListOptions) -> Result<(), ApiError> {
    if !matches!(options.resource_version.as_deref().unwrap_or_default(), "" | "0") {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    Ok(())
}

/// What a continue token says. Opaque to clients, and in upstream's form.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Token {
    v: String,
    /// -1: the rest of the newest state, whatever that is.
    rv: i64,
    start: String,
}

/// As Go reads it: what is left of the last character says nothing.
const TOKEN_TEXT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));
const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Token {
    fn new(revision: u64, last_key: &str) -> Self {
        Self { v: TOKEN_VERSION.into(), rv: i64::try_from(revision).unwrap_or(-1), start: last_key.into() }
    }

    pub fn encode(&self) -> String {
        // A struct of strings and numbers always encodes.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// A token of a query; 400 where it is none.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let invalid = |why: String| {
            ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let json =
            TOKEN_TEXT.decode(text.trim_end_matches('=')).map_err(|error| invalid(error.to_string()))?;
        if let Some(fault) = json_fault(&json) {
            return Err(invalid(fault));
        }
        let token: Self = serde_json::from_slice(&json).map_err(|error| invalid(error.to_string()))?;
        if token.v != TOKEN_VERSION {
            return Err(invalid(format!("server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 {
            return Err(invalid(format!(
                "incorrect encoded start resourceVersion (version {TOKEN_VERSION})"
            )));
        }
        if token.start.is_empty() {
            return Err(invalid(format!("empty start key (version {TOKEN_VERSION})")));
        }
        Ok(token)
    }

    /// 410, with a token for who would rather go on inconsistently than begin anew.
    fn expired(&self) -> ApiError {
        let mut status = ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        )
        .status()
        .clone();
        let onward = Self { v: self.v.clone(), rv: -1, start: self.start.clone() };
        status.metadata.continue_token = onward.encode();
        ApiError::from_status(status)
    }
}

/// How a list document begins, up to the first item.
pub fn head(kind: &str, api_version: &str, listed: &Listed) -> String {
    // What nobody stores is of no revision.
    let mut metadata = match listed.revision {
        0 => String::new(),
        revision => format!("\"resourceVersion\":\"{revision}\""),
    };
    if let Some(token) = &listed.continue_token {
        metadata.push_str(&format!(",\"continue\":\"{token}\""));
    }
    if let Some(remaining) = listed.remaining {
        metadata.push_str(&format!(",\"remainingItemCount\":{remaining}"));
    }
    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{{{metadata}}},")
}

/// The list document: the objects' own bytes, one after the other.
pub fn encode(kind: &Served, listed: &Listed) -> Bytes {
    let head = head(&kind.def.list_kind, &kind.resource().api_version(), listed);
    let size = head.len() + 16 + listed.objects.iter().map(|o| o.json.len() + 1).sum::<usize>();
    let mut out = BytesMut::with_capacity(size);
    out.put_slice(head.as_bytes());
    out.put_slice(b"\"items\":[");
    for (i, object) in listed.objects.iter().enumerate() {
        if i > 0 {
            out.put_u8(b',');
        }
        out.put_slice(&object.json);
    }
    out.put_slice(b"]}");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_a_list_shows() {
        let ask = |version: &str, rule: &str, limit: Option<u64>| {
            let options = ListOptions {
                resource_version: Some(version.into()),
                resource_version_match: Some(rule.into()),
                limit,
                ..ListOptions::default()
            };
            check(&options)?;
            wanted(&options)
        };
        for (version, rule, limit, want) in [
            ("", "", None, Wanted::Newest),
            ("", "", Some(5), Wanted::Newest),
            ("0", "", None, Wanted::AtHand),
            ("0", "NotOlderThan", Some(1), Wanted::AtHand),
            ("7", "", None, Wanted::NotOlderThan(7)),
            ("7", "", Some(0), Wanted::NotOlderThan(7)),
            ("7", "", Some(5), Wanted::Exactly(7)),
            ("7", "NotOlderThan", Some(5), Wanted::NotOlderThan(7)),
            ("7", "Exact", None, Wanted::Exactly(7)),
        ] {
            assert_eq!(ask(version, rule, limit).unwrap(), want, "{version} {rule} {limit:?}");
        }
        for (version, rule, message) in [
            (
                "",
                "Exact",
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                "0",
                "Exact",
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            ("1", "Some", "resourceVersionMatch: Unsupported value: \"Some\""),
            ("x", "", "resourceVersion: Invalid value: \"x\""),
        ] {
            let error = ask(version, rule, None).unwrap_err();
            assert!(error.message().contains(message), "{}", error.message());
        }
    }

    #[test]
    fn tokens_survive_the_journey_and_nothing_else_is_one() {
        let token = Token::new(42, "ns/name");
        assert_eq!(Token::parse(&token.encode()).unwrap(), token);
        for bad in ["", "x", "e30", "!!", &URL_SAFE_NO_PAD.encode(r#"{"v":"v9","rv":1,"start":"a"}"#)] {
            assert_eq!(Token::parse(bad).unwrap_err().code(), 400, "{bad}");
        }
        let error = token.expired();
        assert_eq!(error.code(), 410);
        let onward = Token::parse(&error.status().metadata.continue_token).unwrap();
        assert_eq!((onward.rv, onward.start.as_str()), (-1, "ns/name"));
    }
}
