//! Links a component with those it depends on, into one.

use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, PlugError, plug};

#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    #[error("{name}: not a component that can be linked: {reason}")]
    Package { name: String, reason: String },
    #[error("{name}: exports nothing that {by} imports")]
    NotNeeded { name: String, by: String },
    #[error("link {name}: {reason}")]
    Link { name: String, reason: String },
}

/// A component and what it is called in errors.
pub struct Part<'a> {
    pub name: &'a str,
    pub bytes: &'a [u8],
}

/// `main` with its imports met by the exports of `dependencies`, which may depend on one another. Versions that are
/// compatible meet. What nobody exports stays an import of the result, for the host to meet.
pub fn compose(main: &Part, dependencies: &[Part]) -> Result<Vec<u8>, ComposeError> {
    let mut whole = main.bytes.to_vec();
    let mut left: Vec<&Part> = dependencies.iter().collect();
    // One at a time: what one imports, a later one may export. A round that links nothing is the last.
    while !left.is_empty() {
        let before = left.len();
        let mut unused = Vec::new();
        for part in left {
            match link(main.name, &whole, part)? {
                Some(linked) => whole = linked,
                None => unused.push(part),
            }
        }
        left = unused;
        if left.len() == before {
            let name = left.iter().map(|part| part.name).collect::<Vec<_>>().join(", ");
            return Err(ComposeError::NotNeeded { name, by: main.name.to_owned() });
        }
    }
    Ok(whole)
}

/// None where nothing of it is imported.
fn link(name: &str, whole: &[u8], part: &Part) -> Result<Option<Vec<u8>>, ComposeError> {
    let mut graph = CompositionGraph::new();
    let mut register = |id: &str, name: &str, bytes: &[u8]| {
        let failed = |reason: String| ComposeError::Package { name: name.to_owned(), reason };
        let package = Package::from_bytes(id, None, bytes.to_vec(), graph.types_mut())
            .map_err(|error| failed(format!("{error:#}")))?;
        graph.register_package(package).map_err(|error| failed(error.to_string()))
    };
    let socket = register("coracle:main", name, whole)?;
    let dependency = register("coracle:dependency", part.name, part.bytes)?;
    let failed = |reason: String| ComposeError::Link { name: part.name.to_owned(), reason };
    match plug(&mut graph, vec![dependency], socket) {
        Ok(()) => {}
        Err(PlugError::NoPlugHappened) => return Ok(None),
        Err(PlugError::GraphError { source }) => return Err(failed(format!("{source:#}"))),
    }
    // The engine validates what it compiles.
    let options = EncodeOptions { validate: false, ..EncodeOptions::default() };
    graph.encode(options).map(Some).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::inspect::inspect;

    /// Exports `name` with a function `f: u32 -> u32` that asks `asks` where there is one, and adds.
    pub fn adder(name: &str, asks: Option<&str>, adds: u32) -> Vec<u8> {
        let (import, lower, arg, call) = match asks {
            Some(asks) => (
                format!(
                    "(import \"{asks}\" (instance $d (export \"f\" (func (param \"n\" u32) (result u32)))))"
                ),
                "(alias export $d \"f\" (func $df)) (core func $lowered (canon lower (func $df)))",
                "(with \"d\" (instance (export \"f\" (func $lowered))))",
                "(import \"d\" \"f\" (func $d (param i32) (result i32)))",
            ),
            None => (String::new(), "", "", "(func $d (param i32) (result i32) (local.get 0))"),
        };
        let text = format!(
            r#"(component {import} {lower}
              (core module $m {call}
                (func (export "f") (param i32) (result i32)
                  (i32.add (call $d (local.get 0)) (i32.const {adds}))))
              (core instance $i (instantiate $m {arg}))
              (func $f (param "n" u32) (result u32) (canon lift (core func $i "f")))
              (instance $e (export "f" (func $f)))
              (export "{name}" (instance $e)))"#
        );
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn imports_are_met_in_whatever_order() {
        let main = adder("acme:app/run@1.0.0", Some("acme:math/one@1.0.0"), 1);
        let one = adder("acme:math/one@1.0.4", Some("acme:math/two@2.1.0"), 10);
        let two = adder("acme:math/two@2.1.0", None, 100);
        let main = Part { name: "main", bytes: &main };
        let one = || Part { name: "one", bytes: &one };
        let two = || Part { name: "two", bytes: &two };
        for dependencies in [[one(), two()], [two(), one()]] {
            let whole = compose(&main, &dependencies).unwrap();
            let found = inspect(&whole).unwrap();
            assert_eq!(found.exports, ["acme:app/run@1.0.0"]);
            assert!(found.imports.is_empty(), "{:?}", found.imports);
            wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
                .validate_all(&whole)
                .unwrap();
        }
        let partly = compose(&main, &[one()]).unwrap();
        assert_eq!(inspect(&partly).unwrap().imports, ["acme:math/two@2.1.0"], "left for the host");
        let unneeded = compose(&main, &[two()]).unwrap_err();
        assert_eq!(unneeded.to_string(), "two: exports nothing that main imports");
        let module = wat::parse_str("(module)").unwrap();
        let refused = compose(&main, &[Part { name: "core", bytes: &module }]).unwrap_err();
        assert!(refused.to_string().starts_with("core: not a component"), "{refused}");
    }
}
