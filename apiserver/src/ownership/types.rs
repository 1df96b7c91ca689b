//! Types as field ownership sees them: which lists are keyed, which maps are replaced whole, what may be anything.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use crate::schema::facts::{self, List as ListFact, Patch};
use crate::schema::{self, Shape, nulls};

type Id = u32;

/// What a scalar may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    Number,
    Text,
    Bool,
    Any,
}

/// How the items of a list are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Items {
    /// Not at all: the list is replaced whole.
    Atomic,
    /// By their values.
    Set,
    /// By fields, each with the value that stands for a missing one.
    Keyed(Box<[(Box<str>, Option<Value>)]>),
}

#[derive(Clone, Debug)]
pub struct ListType {
    pub items: Items,
    item: Id,
}

#[derive(Clone, Debug)]
struct Field {
    name: Box<str>,
    type_: Id,
    /// What upstream's typed objects hold where JSON has nothing: structs are always there.
    zero: Option<Value>,
    /// Upstream's encoding leaves an empty list or map out.
    omits_empty: bool,
}

#[derive(Clone, Debug, Default)]
pub struct MapType {
    /// In the order of their names.
    fields: Box<[Field]>,
    /// Of what is not among the fields; None: nothing else may be there.
    other: Option<Id>,
    pub atomic: bool,
}

/// One type. JSON that may have several forms has several of these; none: nothing is allowed there.
#[derive(Clone, Debug, Default)]
struct Node {
    scalar: Option<Scalar>,
    list: Option<ListType>,
    map: Option<MapType>,
}

/// A set of types that refer to each other.
#[derive(Debug, Default)]
pub struct Types {
    nodes: Vec<Node>,
    /// By apiVersion and kind.
    kinds: HashMap<(String, String), Id>,
    /// By OpenAPI name, for those of the built-in types that others embed.
    names: HashMap<String, Id>,
}

const NUMBER: Id = 0;
const TEXT: Id = 1;
const BOOL: Id = 2;
const SCALAR: Id = 3;
/// Anything, replaced whole.
const UNTYPED: Id = 4;
/// Anything: maps merge, lists are replaced.
const DEDUCED: Id = 5;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The type of one kind of object, cheap to clone.
#[derive(Clone, Debug)]
pub struct Schema {
    types: Arc<Types>,
    root: Id,
}

/// A type at hand while walking.
#[derive(Clone, Copy)]
pub struct Type<'t> {
    types: &'t Types,
    id: Id,
}

/// Which forms of a type a value can be treated as.
#[derive(Clone, Copy)]
pub struct Atom<'t> {
    pub types: &'t Types,
    pub scalar: Option<Scalar>,
    pub list: Option<&'t ListType>,
    pub map: Option<&'t MapType>,
}

impl Atom<'_> {
    /// Of atoms of the same type.
    pub fn same_forms(&self, other: &Self) -> bool {
        self.scalar.is_some() == other.scalar.is_some()
            && self.list.is_some() == other.list.is_some()
            && self.map.is_some() == other.map.is_some()
    }
}

impl Schema {
    /// The type of a built-in kind, by its apiVersion and kind.
    pub fn built_in(api_version: &str, kind: &str) -> Option<Self> {
        let types = built_in();
        let root = *types.kinds.get(&(api_version.to_owned(), kind.to_owned()))?;
        Some(Self { types: types.clone(), root })
    }

    /// Of objects whose type is not known: maps merge, lists are replaced, metadata is metadata.
    pub fn deduced() -> Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        let schema = SCHEMA.get_or_init(|| Self { types: Arc::new(Types::with_common()), root: DEDUCED });
        schema.clone()
    }

    /// From the OpenAPI v3 schema of a custom resource's version (`x-kubernetes-list-type` and so on), which describes
    /// the whole object.
    pub fn custom(open_api: &Value) -> Self {
        let mut types = Types::with_common();
        let root = super::custom::root(&mut types, open_api).0;
        Self { types: Arc::new(types), root }
    }

    pub fn root(&self) -> Type<'_> {
        Type { types: &self.types, id: self.root }
    }
}

impl<'t> Type<'t> {
    fn node(self) -> Option<&'t Node> {
        self.types.nodes.get(self.id as usize)
    }

    pub fn atom(self) -> Atom<'t> {
        let node = self.node();
        Atom {
            types: self.types,
            scalar: node.and_then(|n| n.scalar),
            list: node.and_then(|n| n.list.as_ref()),
            map: node.and_then(|n| n.map.as_ref()),
        }
    }

    /// The forms that fit the value; all of them where there is none or it is null, or where none fits.
    pub fn deduce(self, value: Option<&Value>) -> Atom<'t> {
        let atom = self.atom();
        let bare = Atom { types: self.types, scalar: None, list: None, map: None };
        match value {
            None | Some(Value::Null) => atom,
            Some(Value::Array(_)) if atom.list.is_some() => Atom { list: atom.list, ..bare },
            Some(Value::Object(_)) if atom.map.is_some() => Atom { map: atom.map, ..bare },
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) if atom.scalar.is_some() => {
                Atom { scalar: atom.scalar, ..bare }
            }
            Some(_) => atom,
        }
    }

    /// Whether it is no type at all: nothing may stand here.
    pub fn is_nothing(self) -> bool {
        self.node().is_none_or(|n| n.scalar.is_none() && n.list.is_none() && n.map.is_none())
    }

    /// Maps of anything, whose fields are never declared.
    pub fn is_deduced(self) -> bool {
        self.id == DEDUCED
    }
}

impl ListType {
    pub fn is_atomic(&self) -> bool {
        self.items == Items::Atomic
    }

    pub fn item<'t>(&self, types: &'t Types) -> Type<'t> {
        Type { types, id: self.item }
    }
}

impl MapType {
    fn find(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        self.fields.get(at)
    }

    pub fn declares(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The type of a field or of another member; None: it may not be there.
    pub fn member<'t>(&self, types: &'t Types, name: &str) -> Option<Type<'t>> {
        let id = self.find(name).map(|field| field.type_).or(self.other)?;
        Some(Type { types, id })
    }

    /// The fields that upstream's objects always have, with what they hold then.
    pub fn always(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields.iter().filter_map(|field| Some((&*field.name, field.zero.as_ref()?)))
    }

    pub fn omits_empty(&self, name: &str) -> bool {
        self.find(name).is_some_and(|field| field.omits_empty)
    }
}

/// All built-in kinds, built when first asked for.
fn built_in() -> &'static Arc<Types> {
    static TYPES: OnceLock<Arc<Types>> = OnceLock::new();
    TYPES.get_or_init(|| Arc::new(Types::of(schema::types())))
}

impl Types {
    fn with_common() -> Self {
        let scalar = |scalar| Node { scalar: Some(scalar), ..Node::default() };
        let any = |id: Id, atomic: bool| Node {
            scalar: Some(Scalar::Any),
            list: Some(ListType { items: Items::Atomic, item: UNTYPED }),
            map: Some(MapType { other: Some(id), atomic, ..MapType::default() }),
        };
        Self {
            nodes: vec![
                scalar(Scalar::Number),
                scalar(Scalar::Text),
                scalar(Scalar::Bool),
                scalar(Scalar::Any),
                any(UNTYPED, true),
                any(DEDUCED, false),
            ],
            ..Self::default()
        }
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        Id::try_from(self.nodes.len() - 1).unwrap_or(Id::MAX)
    }

    fn of(shapes: &schema::Types) -> Self {
        let mut types = Self::with_common();
        let first = types.nodes.len() as Id;
        let mut count: Id = 0;
        for (name, _) in shapes.objects() {
            types.names.insert(name.to_owned(), first + count);
            count += 1;
        }
        types.nodes.resize_with(types.nodes.len() + count as usize, Node::default);
        for (name, object) in shapes.objects() {
            let known = facts::of_type(name).unwrap_or_default();
            let required: Vec<&str> = known.required.unwrap_or_default().split(',').collect();
            let fields = object.fields().iter().map(|field| {
                let facts = facts::field(name, &field.name);
                let id = types.place(shapes, first, &field.shape, facts);
                let required = required.contains(&&*field.name);
                let null = nulls::is_null_when_unset(name, &field.name);
                let (zero, omits_empty) = zero(&field.shape, facts.default, required, null);
                Field { name: field.name.clone(), type_: id, zero, omits_empty }
            });
            // Collected first: the closure adds types.
            let fields: Box<[Field]> = fields.collect();
            let Some(index) = types.names.get(name).copied() else { continue };
            if let Some(node) = types.nodes.get_mut(index as usize) {
                node.map = Some(MapType { fields, other: None, atomic: known.atomic });
            }
        }
        for (api_version, kind, object) in shapes.kinds() {
            if let Some(id) = types.names.get(&*object.name).copied() {
                types.kinds.insert((api_version.to_owned(), kind.to_owned()), id);
            }
        }
        types
    }

    /// The type of a field, with what is known of the field itself.
    fn place(&mut self, shapes: &schema::Types, first: Id, shape: &Shape, facts: facts::FieldFacts) -> Id {
        let plain = facts::FieldFacts::default();
        match shape {
            Shape::Any => UNTYPED,
            Shape::Bool => BOOL,
            Shape::Integer | Shape::Number => NUMBER,
            Shape::Text | Shape::Bytes => TEXT,
            Shape::Time | Shape::MicroTime | Shape::Duration | Shape::Quantity | Shape::IntOrString => SCALAR,
            Shape::Object(index) if facts.map.is_none() => first + index,
            // The field says otherwise than the type: a type of its own, filled from the same fields.
            Shape::Object(index) => {
                let name = shapes.get(*index).map(|o| o.name.to_string()).unwrap_or_default();
                let fields = self.fields_of(shapes, first, &name);
                let atomic = facts.map == Some("atomic");
                self.add(Node { map: Some(MapType { fields, other: None, atomic }), ..Node::default() })
            }
            Shape::Map(value) => {
                let other = Some(self.place(shapes, first, value, plain));
                let atomic = facts.map == Some("atomic");
                self.add(Node {
                    map: Some(MapType { other, atomic, ..MapType::default() }),
                    ..Node::default()
                })
            }
            Shape::List(item) => {
                let keyed = |keys: &str| {
                    let Shape::Object(index) = &**item else { return Items::Set };
                    let name = shapes.get(*index).map(|o| &*o.name).unwrap_or_default();
                    let default = |key: &str| {
                        facts::field(name, key).default.and_then(|json| serde_json::from_str(json).ok())
                    };
                    Items::Keyed(keys.split(',').map(|key| (key.into(), default(key))).collect())
                };
                let items = match (facts.list, facts.patch) {
                    (ListFact::Set, _) => Items::Set,
                    (ListFact::Map(keys), _) => keyed(keys),
                    (ListFact::Free, Some(Patch::Merge("") | Patch::MergeRetainKeys(""))) => Items::Set,
                    (ListFact::Free, Some(Patch::Merge(key) | Patch::MergeRetainKeys(key))) => keyed(key),
                    (ListFact::Atomic | ListFact::Free, _) => Items::Atomic,
                };
                let item = self.place(shapes, first, item, plain);
                self.add(Node { list: Some(ListType { items, item }), ..Node::default() })
            }
        }
    }

    fn fields_of(&mut self, shapes: &schema::Types, first: Id, name: &str) -> Box<[Field]> {
        let Some(object) = shapes.named(name) else { return Box::default() };
        let fields = object.fields().iter().map(|field| {
            let facts = facts::field(name, &field.name);
            let type_ = self.place(shapes, first, &field.shape, facts);
            Field { name: field.name.clone(), type_, zero: None, omits_empty: false }
        });
        fields.collect()
    }

    /// ObjectMeta among these types, taken over from the built-in ones.
    pub(super) fn object_meta(&mut self) -> Ref {
        let built_in = built_in();
        match built_in.names.get(OBJECT_META) {
            Some(id) => Ref(self.import(built_in, *id, &mut HashMap::new())),
            None => Ref::DEDUCED,
        }
    }

    fn import(&mut self, from: &Self, id: Id, done: &mut HashMap<Id, Id>) -> Id {
        if id <= DEDUCED {
            return id;
        }
        if let Some(own) = done.get(&id) {
            return *own;
        }
        let own = self.add(Node::default());
        done.insert(id, own);
        let mut node = from.nodes.get(id as usize).cloned().unwrap_or_default();
        if let Some(list) = &mut node.list {
            list.item = self.import(from, list.item, done);
        }
        if let Some(map) = &mut node.map {
            map.other = map.other.map(|other| self.import(from, other, done));
            for field in &mut map.fields {
                field.type_ = self.import(from, field.type_, done);
            }
        }
        if let Some(place) = self.nodes.get_mut(own as usize) {
            *place = node;
        }
        own
    }

    /// A type out of its parts, for `custom.rs`.
    pub(super) fn compose(&mut self, parts: Parts) -> Ref {
        let id = self.add(Node {
            scalar: parts.scalar,
            list: parts.list.map(|(items, item)| ListType { items, item: item.0 }),
            map: parts.map.map(|map| {
                let mut fields: Vec<Field> = map
                    .fields
                    .into_iter()
                    .map(|(name, type_)| Field {
                        name: name.into(),
                        type_: type_.0,
                        zero: None,
                        omits_empty: false,
                    })
                    .collect();
                fields.sort_by(|a, b| a.name.cmp(&b.name));
                MapType {
                    fields: fields.into_boxed_slice(),
                    other: map.other.map(|other| other.0),
                    atomic: map.atomic,
                }
            }),
        });
        Ref(id)
    }
}

/// What upstream's object holds in a field that JSON leaves out, and whether it leaves out empty lists and maps.
fn zero(shape: &Shape, default: Option<&str>, required: bool, null: bool) -> (Option<Value>, bool) {
    match shape {
        _ if null => (Some(Value::Null), false),
        Shape::Object(_) if default == Some("{}") => (Some(Value::Object(Map::new())), false),
        Shape::List(_) | Shape::Map(_) if required => (Some(Value::Null), false),
        Shape::List(_) | Shape::Map(_) => (None, true),
        // A text has an empty default only where upstream's type has no `omitempty`.
        Shape::Text if default == Some("\"\"") => (Some(Value::String(String::new())), false),
        Shape::Text | Shape::Integer | Shape::Number | Shape::Bool if required => {
            let json = default.filter(|d| matches!(*d, "\"\"" | "0" | "false"));
            (json.and_then(|json| serde_json::from_str(json).ok()), false)
        }
        _ => (None, false),
    }
}

/// A reference to a type that was composed.
#[derive(Clone, Copy)]
pub(super) struct Ref(Id);

impl Ref {
    pub const NUMBER: Self = Self(NUMBER);
    pub const TEXT: Self = Self(TEXT);
    pub const BOOL: Self = Self(BOOL);
    pub const SCALAR: Self = Self(SCALAR);
    pub const UNTYPED: Self = Self(UNTYPED);
    pub const DEDUCED: Self = Self(DEDUCED);
}

#[derive(Default)]
pub(super) struct Parts {
    pub scalar: Option<Scalar>,
    pub list: Option<(Items, Ref)>,
    pub map: Option<MapParts>,
}

#[derive(Default)]
pub(super) struct MapParts {
    pub fields: Vec<(String, Ref)>,
    pub other: Option<Ref>,
    pub atomic: bool,
}
