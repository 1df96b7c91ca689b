//! The types of expressions: what the checker infers, how types are written in messages, and which values fit them.

use std::fmt;
use std::sync::Arc;

use super::declared::ObjectType;

/// The type of an expression. Objects are told apart by their path in the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    Dyn,
    /// What a wrong expression has; agrees with everything, so that one mistake is reported once.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    Optional(Arc<Type>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
    /// A type of a library that only its functions know: `kubernetes.Quantity`, `net.IP`.
    Opaque(&'static str),
    /// The type of types.
    Type(Option<Arc<Type>>),
    /// A variable of inference, or a parameter of an overload before it is used.
    Param(u32),
}

pub const QUANTITY: Type = Type::Opaque("kubernetes.Quantity");
pub const URL: Type = Type::Opaque("kubernetes.URL");
pub const SEMVER: Type = Type::Opaque("kubernetes.Semver");
pub const FORMAT: Type = Type::Opaque("kubernetes.NamedFormat");
pub const IP: Type = Type::Opaque("net.IP");
pub const CIDR: Type = Type::Opaque("net.CIDR");

impl Type {
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    pub fn optional(value: Type) -> Type {
        Type::Optional(Arc::new(value))
    }

    pub(super) fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }

    pub(super) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// Types that null was always assignable to.
    pub(super) fn is_nullable(&self) -> bool {
        matches!(
            self,
            Type::Null
                | Type::Optional(_)
                | Type::Object(_)
                | Type::Opaque(_)
                | Type::Duration
                | Type::Timestamp
        )
    }

    /// Whether a value of this type has a size that does not depend on the value.
    pub(super) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
            Type::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }

    /// The type in messages; objects of the schema are written under `root`, the path of the expression's own type.
    pub(super) fn display<'a>(&'a self, root: &'a Root) -> impl fmt::Display + 'a {
        Displayed { of: self, root }
    }

    /// Reads one type of a signature: `list(T)`, `optional(map(K, V))`, `quantity`.
    fn parse(text: &str) -> Option<(Type, &str)> {
        let text = text.trim_start();
        let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
        let (name, mut rest) = text.split_at(end);
        let mut parameters = Vec::new();
        if let Some(inner) = rest.strip_prefix('(') {
            rest = inner;
            loop {
                let (parameter, after) = Type::parse(rest)?;
                parameters.push(parameter);
                let after = after.trim_start();
                if let Some(after) = after.strip_prefix(',') {
                    rest = after;
                    continue;
                }
                rest = after.strip_prefix(')')?;
                break;
            }
        }
        let mut parameters = parameters.into_iter();
        let parsed = match name {
            "dyn" => Type::Dyn,
            "null" => Type::Null,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "timestamp" => Type::Timestamp,
            "duration" => Type::Duration,
            "quantity" => QUANTITY,
            "url" => URL,
            "semver" => SEMVER,
            "format" => FORMAT,
            "ip" => IP,
            "cidr" => CIDR,
            "authorizer" => Type::Opaque("kubernetes.authorization.Authorizer"),
            "pathcheck" => Type::Opaque("kubernetes.authorization.PathCheck"),
            "groupcheck" => Type::Opaque("kubernetes.authorization.GroupCheck"),
            "resourcecheck" => Type::Opaque("kubernetes.authorization.ResourceCheck"),
            "decision" => Type::Opaque("kubernetes.authorization.Decision"),
            "list" => Type::list(parameters.next()?),
            "optional" => Type::optional(parameters.next()?),
            "map" => Type::map(parameters.next()?, parameters.next()?),
            "type" => Type::Type(parameters.next().map(Arc::new)),
            "A" | "T" | "K" => Type::Param(0),
            "B" | "U" | "V" => Type::Param(1),
            _ => return None,
        };
        Some((parsed, rest))
    }

    /// Reads a signature, `string, int -> list(string)`: the types of the arguments and of the result.
    pub(super) fn signature(text: &str) -> Option<(Vec<Type>, Type)> {
        let (arguments, result) = text.split_once("->")?;
        let mut types = Vec::new();
        let mut rest = arguments.trim();
        while !rest.is_empty() {
            let (argument, after) = Type::parse(rest)?;
            types.push(argument);
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        let (result, rest) = Type::parse(result)?;
        rest.trim().is_empty().then_some((types, result))
    }
}

/// How the objects of a schema are named in messages: the type of `self` has a name without a meaning, so that no rule depends on it.
#[derive(Clone, Debug, Default)]
pub struct Root {
    pub name: String,
    pub path: String,
}

struct Displayed<'a> {
    of: &'a Type,
    root: &'a Root,
}

impl fmt::Display for Displayed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = |of| Displayed { of, root: self.root };
        match self.of {
            Type::Dyn => f.write_str("dyn"),
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(element) => write!(f, "list({})", within(element)),
            Type::Map(entry) => write!(f, "map({}, {})", within(&entry.0), within(&entry.1)),
            Type::Optional(inner) => write!(f, "optional_type({})", within(inner)),
            Type::Object(object) => match object.path.strip_prefix(self.root.path.as_str()) {
                Some(rest) => write!(f, "{}{rest}", self.root.name),
                None => write!(f, "object{}", object.path),
            },
            Type::Opaque(name) => f.write_str(name),
            Type::Type(None) => f.write_str("type"),
            Type::Type(Some(inner)) => write!(f, "type({})", within(inner)),
            Type::Param(number) => write!(f, "_var{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read() {
        let (arguments, result) =
            Type::signature("list(T), map(string, optional(int)) -> list(list(T))").unwrap();
        assert_eq!(
            arguments,
            [Type::list(Type::Param(0)), Type::map(Type::String, Type::optional(Type::Int))]
        );
        assert_eq!(result, Type::list(Type::list(Type::Param(0))));
        assert_eq!(Type::signature(" -> quantity").unwrap(), (vec![], QUANTITY));
        assert!(Type::signature("nothing -> int").is_none());
    }

    #[test]
    fn types_are_written_as_upstream_writes_them() {
        let root = Root::default();
        for (of, text) in [
            (Type::list(Type::String), "list(string)"),
            (Type::map(Type::String, Type::Dyn), "map(string, dyn)"),
            (Type::optional(Type::Int), "optional_type(int)"),
            (Type::Type(Some(Arc::new(Type::Int))), "type(int)"),
            (QUANTITY, "kubernetes.Quantity"),
        ] {
            assert_eq!(of.display(&root).to_string(), text);
        }
    }
}
