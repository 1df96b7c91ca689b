//! The v2 document in protobuf, as the messages of gnostic's `openapi.v2` have it.

use bytes::BufMut;
use serde_json::{Map, Value};

/// `openapi.v2.Document`
pub fn encoded(swagger: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &swagger["swagger"]);
    out.message(2, |info| {
        info.text(1, &swagger["info"]["title"]);
        info.text(2, &swagger["info"]["version"]);
    });
    out.message(8, |paths| {
        for (path, item) in fields(&swagger["paths"]) {
            paths.named(2, path, |out| path_item(out, item));
        }
    });
    out.message(9, |definitions| {
        for (name, definition) in fields(&swagger["definitions"]) {
            definitions.named(1, name, |out| schema(out, definition));
        }
    });
    for requirement in items(&swagger["security"]) {
        out.message(12, |out| {
            for (name, _) in fields(requirement) {
                out.named(1, name, |_| {});
            }
        });
    }
    out.message(13, |definitions| {
        for (name, key) in fields(&swagger["securityDefinitions"]) {
            definitions.named(1, name, |item| {
                item.message(2, |out| {
                    out.text(1, &key["type"]);
                    out.text(2, &key["name"]);
                    out.text(3, &key["in"]);
                    out.text(4, &key["description"]);
                });
            });
        }
    });
    out.bytes
}

fn path_item(out: &mut Message, item: &Value) {
    const METHODS: &[(u32, &str)] =
        &[(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    for (number, method) in METHODS {
        if let Some(operation_value) = item.get(method) {
            out.message(*number, |out| operation(out, operation_value));
        }
    }
    for parameter_value in items(&item["parameters"]) {
        out.message(9, |out| parameter(out, parameter_value));
    }
    out.extensions(10, item);
}

fn operation(out: &mut Message, operation: &Value) {
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    for parameter_value in items(&operation["parameters"]) {
        out.message(8, |out| parameter(out, parameter_value));
    }
    out.message(9, |responses| {
        for (code, response) in fields(&operation["responses"]) {
            responses.named(1, code, |value| {
                value.message(1, |out| {
                    out.text(1, &response["description"]);
                    if let Some(of) = response.get("schema") {
                        out.message(2, |item| item.message(1, |out| schema(out, of)));
                    }
                });
            });
        }
    });
    out.texts(10, &operation["schemes"]);
    out.extensions(13, operation);
}

/// A `ParametersItem`.
fn parameter(out: &mut Message, parameter: &Value) {
    out.message(1, |out| match parameter["in"].as_str() {
        Some("body") => out.message(1, |out| {
            out.text(1, &parameter["description"]);
            out.text(2, &parameter["name"]);
            out.text(3, &parameter["in"]);
            out.flag(4, &parameter["required"]);
            out.message(5, |out| schema(out, &parameter["schema"]));
        }),
        // In a path there is no "allowEmptyValue": its numbers are one less from the type on.
        Some("path") => out.message(2, |out| out.message(4, |out| simple(out, parameter, 5, 19))),
        _ => out.message(2, |out| out.message(3, |out| simple(out, parameter, 6, 20))),
    });
}

fn simple(out: &mut Message, parameter: &Value, type_number: u32, unique_number: u32) {
    out.flag(1, &parameter["required"]);
    out.text(2, &parameter["in"]);
    out.text(3, &parameter["description"]);
    out.text(4, &parameter["name"]);
    out.text(type_number, &parameter["type"]);
    out.flag(unique_number, &parameter["uniqueItems"]);
}

fn schema(out: &mut Message, of: &Value) {
    out.text(1, &of["$ref"]);
    out.text(2, &of["format"]);
    out.text(4, &of["description"]);
    if let Some(default) = of.get("default") {
        out.message(5, |out| any(out, default));
    }
    out.texts(19, &of["required"]);
    if let Some(additional) = of.get("additionalProperties") {
        out.message(21, |out| out.message(1, |out| schema(out, additional)));
    }
    if of["type"].is_string() {
        out.message(22, |out| out.text(1, &of["type"]));
    }
    if let Some(item) = of.get("items") {
        out.message(23, |out| out.message(1, |out| schema(out, item)));
    }
    if of.get("properties").is_some() {
        out.message(25, |properties| {
            for (name, property) in fields(&of["properties"]) {
                properties.named(1, name, |out| schema(out, property));
            }
        });
    }
    out.extensions(31, of);
}

/// An `Any`: its YAML, which JSON is.
fn any(out: &mut Message, value: &Value) {
    out.string(2, &format!("{value}\n"));
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A message being written.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn key(&mut self, number: u32, wire_type: u32) {
        self.varint(u64::from(number << 3 | wire_type));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.put_u8((value as u8) | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
    }

    fn string(&mut self, number: u32, text: &str) {
        self.key(number, 2);
        self.varint(text.len() as u64);
        self.bytes.put_slice(text.as_bytes());
    }

    /// A text, where there is one.
    fn text(&mut self, number: u32, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.string(number, text);
        }
    }

    fn texts(&mut self, number: u32, list: &Value) {
        items(list).iter().for_each(|text| self.text(number, text));
    }

    fn flag(&mut self, number: u32, value: &Value) {
        if value == true {
            self.key(number, 0);
            self.varint(1);
        }
    }

    fn message(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.key(number, 2);
        self.varint(inner.bytes.len() as u64);
        self.bytes.extend(inner.bytes);
    }

    /// A pair of a name (1) and a message (2).
    fn named(&mut self, number: u32, name: &str, write: impl FnOnce(&mut Self)) {
        self.message(number, |pair| {
            pair.string(1, name);
            pair.message(2, write);
        });
    }

    /// The `x-…` fields of a value.
    fn extensions(&mut self, number: u32, of: &Value) {
        for (name, value) in fields(of).filter(|(name, _)| name.starts_with("x-")) {
            self.named(number, name, |out| any(out, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages() {
        let mut out = Message::default();
        out.text(1, &json!("ab"));
        out.text(2, &json!(""));
        out.flag(3, &json!(true));
        out.named(4, "n", |out| out.string(1, "v"));
        assert_eq!(out.bytes, [0x0a, 2, b'a', b'b', 0x18, 1, 0x22, 8, 0x0a, 1, b'n', 0x12, 3, 0x0a, 1, b'v']);
        let mut long = Message::default();
        long.string(31, &"x".repeat(300));
        assert_eq!(long.bytes[..4], [0xfa, 0x01, 0xac, 0x02]);
    }

    #[test]
    fn extensions_are_yaml() {
        let mut out = Message::default();
        schema(&mut out, &json!({ "type": "object", "x-a": [{ "b": 1 }] }));
        let text = String::from_utf8_lossy(&out.bytes).into_owned();
        assert!(text.contains("x-a") && text.contains("[{\"b\":1}]\n"), "{text}");
    }
}
