//! Field numbers and JSON names of every message, compiled from the table of numbers and the tree of types.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::schema::{self, Lines, Object, Shape, Types};

/// Every message of the stable groups: its name, then `field=number`; `*` marks scalars that are pointers in Go (they
/// may be sent as zero and mean it), `+` a message whose fields are inlined in JSON. Made from the struct tags of
/// k8s.io/api and k8s.io/apimachinery v0.37.2.
pub(super) static FIELDS: Lines = Lines::new(include_str!("fields.txt"));

/// How a value is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Integer,
    Number,
    Text,
    Bytes,
    Time,
    MicroTime,
    /// A message with the nanoseconds as field 1.
    Duration,
    Quantity,
    IntOrString,
    /// Free JSON, which stays JSON: a message with the text as field 1.
    Raw,
    /// By index into the table.
    Message(u32),
    List(Box<Kind>),
    Map(Box<Kind>),
    /// A message without fields.
    Empty,
    /// A message whose form JSON shows: as an object the message, field `object`; else what else it may be, in `other`.
    Either(Box<Either>),
}

/// The unions of the schemas of custom resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Either {
    pub object: (u32, Kind),
    pub other: (u32, Kind),
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: Box<str>,
    pub number: u32,
    /// A pointer in Go: zero is a value.
    pub pointer: bool,
    pub kind: Kind,
}

/// The type of a document, an object within one, or the fields of a message that are inlined in JSON.
#[derive(Debug)]
pub struct Message {
    pub(super) name: Box<str>,
    /// By name.
    pub(super) fields: Box<[Field]>,
    /// Numbers and messages whose fields stand among the others in JSON.
    pub(super) inlined: Box<[(u32, u32)]>,
}

impl Message {
    /// `hint`: where the last field was; documents mostly have them in order.
    pub(super) fn field(&self, name: &str, hint: &mut usize) -> Option<&Field> {
        if let Some(next) = self.fields.get(*hint)
            && *next.name == *name
        {
            *hint += 1;
            return Some(next);
        }
        let at = self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        *hint = at + 1;
        self.fields.get(at)
    }

    pub(super) fn numbered(&self, number: u64) -> Option<(usize, &Field)> {
        self.fields.iter().enumerate().find(|(_, field)| u64::from(field.number) == number)
    }
}

/// All messages that documents of the API consist of.
pub struct Table {
    messages: Vec<Message>,
    /// By apiVersion and kind.
    kinds: HashMap<(String, String), u32>,
}

/// The table of what is built in.
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::build(schema::types()))
}

impl Table {
    pub(super) fn get(&self, index: u32) -> Option<&Message> {
        self.messages.get(index as usize)
    }

    /// The message of documents of this apiVersion and kind. None: they have no form in protobuf.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<&Message> {
        // Every group takes the same options.
        let api_version = if kind == "DeleteOptions" { "v1" } else { api_version };
        self.get(*self.kinds.get(&(api_version.to_owned(), kind.to_owned()))?)
    }

    pub(super) fn build(types: &Types) -> Self {
        let mut builder = Builder { types, messages: Vec::new(), known: HashMap::new() };
        let mut kinds = HashMap::new();
        for (api_version, kind, object) in types.kinds() {
            if let Some(index) = builder.message(short_name(object), object) {
                kinds.insert((api_version.to_owned(), kind.to_owned()), index);
            }
        }
        let meta = |name: &str| types.named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
        if let (Some(object), Some(list)) = (meta("ObjectMeta"), meta("ListMeta")) {
            builder.partial_metadata(object, list, &mut kinds);
        }
        let messages = builder.messages.into_iter().flatten().collect();
        Self { messages, kinds }
    }

    #[cfg(test)]
    pub(super) fn kinds(&self) -> impl Iterator<Item = &(String, String)> {
        self.kinds.keys()
    }
}

pub(super) fn short_name(object: &Object) -> &str {
    object.name.strip_prefix("io.k8s.").unwrap_or(&object.name)
}

struct Builder<'t> {
    types: &'t Types,
    /// None: its fields are being built.
    messages: Vec<Option<Message>>,
    /// By the name of the message and that of the JSON object.
    known: HashMap<(String, String), u32>,
}

impl Builder<'_> {
    /// `object` is the JSON type; that of an inlined message is the one around it.
    fn message(&mut self, message: &str, object: &Object) -> Option<u32> {
        let key = (message.to_owned(), object.name.to_string());
        if let Some(index) = self.known.get(&key) {
            return Some(*index);
        }
        let line = FIELDS.find(message)?;
        let index = u32::try_from(self.messages.len()).ok()?;
        self.known.insert(key, index);
        self.messages.push(None);
        let (mut fields, mut inlined) = (Vec::new(), Vec::new());
        for token in line.split(' ') {
            let Some((said, number)) = token.split_once('=') else { continue };
            let Ok(number) = number.parse() else { continue };
            if let Some(inner) = said.strip_prefix('+') {
                inlined.extend(self.message(inner, object).map(|index| (number, index)));
                continue;
            }
            let name = said.trim_end_matches('*');
            let Some(field) = object.field(name) else { continue };
            let kind = self.special(index, message, name).unwrap_or_else(|| self.kind(&field.shape));
            fields.push(Field { name: name.into(), number, pointer: said.ends_with('*'), kind });
        }
        self.put(index, message, fields, inlined);
        Some(index)
    }

    fn put(&mut self, index: u32, name: &str, mut fields: Vec<Field>, inlined: Vec<(u32, u32)>) {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let message = Message { name: name.into(), fields: fields.into(), inlined: inlined.into() };
        if let Some(place) = self.messages.get_mut(index as usize) {
            *place = Some(message);
        }
    }

    /// What the tree of types does not tell apart from free JSON. `index`: of the message that has the field.
    fn special(&self, index: u32, message: &str, field: &str) -> Option<Kind> {
        let message = message.strip_prefix("apiextensions-apiserver.pkg.apis.apiextensions.v1.")?;
        let either =
            |object: (u32, Kind), other: (u32, Kind)| Kind::Either(Box::new(Either { object, other }));
        let schema = Kind::Message(index);
        Some(match (message, field) {
            ("JSONSchemaProps", "items") => either((1, schema.clone()), (2, Kind::List(Box::new(schema)))),
            ("JSONSchemaProps", "additionalProperties" | "additionalItems") => {
                either((2, schema), (1, Kind::Bool))
            }
            ("JSONSchemaProps", "dependencies") => {
                Kind::Map(Box::new(either((1, schema), (2, Kind::List(Box::new(Kind::Text))))))
            }
            ("CustomResourceSubresources", "status") => Kind::Empty,
            _ => return None,
        })
    }

    fn kind(&mut self, shape: &Shape) -> Kind {
        match shape {
            Shape::Any => Kind::Raw,
            Shape::Bool => Kind::Bool,
            Shape::Integer => Kind::Integer,
            Shape::Number => Kind::Number,
            Shape::Text => Kind::Text,
            Shape::Bytes => Kind::Bytes,
            Shape::Time => Kind::Time,
            Shape::MicroTime => Kind::MicroTime,
            Shape::Duration => Kind::Duration,
            Shape::Quantity => Kind::Quantity,
            Shape::IntOrString => Kind::IntOrString,
            Shape::Object(index) => self
                .types
                .get(*index)
                .and_then(|object| self.message(short_name(object), object))
                .map_or(Kind::Raw, Kind::Message),
            Shape::List(item) => Kind::List(Box::new(self.kind(item))),
            Shape::Map(item) => Kind::Map(Box::new(self.kind(item))),
        }
    }

    /// The forms of an object with nothing but its metadata, which no type here has.
    fn partial_metadata(
        &mut self,
        object: &Object,
        list: &Object,
        kinds: &mut HashMap<(String, String), u32>,
    ) {
        let (Some(object), Some(list)) =
            (self.message(short_name(object), object), self.message(short_name(list), list))
        else {
            return;
        };
        let field = |name: &str, number, kind| Field { name: name.into(), number, pointer: false, kind };
        let one = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.messages.extend([None, None]);
        self.put(one, "PartialObjectMetadata", vec![field("metadata", 1, Kind::Message(object))], Vec::new());
        let many = vec![
            field("metadata", 1, Kind::Message(list)),
            field("items", 2, Kind::List(Box::new(Kind::Message(one)))),
        ];
        self.put(one + 1, "PartialObjectMetadataList", many, Vec::new());
        for version in ["meta.k8s.io/v1", "meta.k8s.io/v1beta1"] {
            kinds.insert((version.to_owned(), "PartialObjectMetadata".to_owned()), one);
            kinds.insert((version.to_owned(), "PartialObjectMetadataList".to_owned()), one + 1);
        }
    }
}
