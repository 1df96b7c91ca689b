//! What a Wasm file is, read from its bytes without compiling it.

use wasmparser::{Encoding, ExternalKind, Parser, Payload};

/// How a Wasm file is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A core module with `_start`: WASI preview 1.
    Module,
    /// A component that exports `wasi:cli/run`: WASI preview 2.
    Command,
    /// A component that exports `wasi:http/incoming-handler`: served, one instance per request.
    Http,
    /// A component that exports `wasi:cli/run` of WASI 0.3.
    CommandP3,
    /// A component that exports `wasi:http/handler` (WASI 0.3): served, an instance answers several requests at once.
    HttpP3,
    /// Wasm, but nothing this node knows how to run; the text says why.
    Unsupported(String),
}

impl Kind {
    /// The world's usual name.
    pub fn world(&self) -> &str {
        match self {
            Kind::Module => "wasi preview 1 command",
            Kind::Command => "wasi:cli/command",
            Kind::Http => "wasi:http/proxy",
            Kind::CommandP3 => "wasi:cli/command@0.3",
            Kind::HttpP3 => "wasi:http/service@0.3",
            Kind::Unsupported(reason) => reason,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    pub kind: Kind,
    /// `module::name` of a core module, interface names of a component.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    #[error("not a Wasm file: it does not begin with \\0asm")]
    NotWasm,
    #[error("malformed Wasm: {0}")]
    Malformed(String),
}

/// Reads the outermost level only: nested modules of a component are its own affair.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, InspectError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(InspectError::NotWasm);
    }
    let malformed = |error: wasmparser::BinaryReaderError| InspectError::Malformed(error.to_string());
    let mut component = false;
    let mut start = false;
    let mut depth = 0usize;
    let mut imports = Vec::new();
    let mut exports = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } if depth == 0 => component = encoding == Encoding::Component,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ImportSection(section) if depth == 0 => {
                for import in section.into_imports() {
                    let import = import.map_err(malformed)?;
                    imports.push(format!("{}::{}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    start |= export.name == "_start" && export.kind == ExternalKind::Func;
                    exports.push(export.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    let kind = if component { component_kind(&exports) } else { module_kind(start, &exports) };
    Ok(Inspection { kind, imports, exports, size_bytes: bytes.len() as u64 })
}

fn module_kind(start: bool, exports: &[String]) -> Kind {
    if start {
        return Kind::Module;
    }
    let names: Vec<&str> = exports.iter().take(5).map(String::as_str).collect();
    Kind::Unsupported(format!("core module without a _start function (exports: {})", names.join(", ")))
}

fn component_kind(exports: &[String]) -> Kind {
    let has = |interface: &str| exports.iter().any(|export| export.starts_with(interface));
    if has("wasi:http/incoming-handler@0.2.") {
        Kind::Http
    } else if has("wasi:http/handler@0.3.") {
        Kind::HttpP3
    } else if has("wasi:cli/run@0.2.") {
        Kind::Command
    } else if has("wasi:cli/run@0.3.") {
        Kind::CommandP3
    } else {
        let names: Vec<&str> = exports.iter().take(5).map(String::as_str).collect();
        Kind::Unsupported(format!(
            "component exports neither wasi:cli/run (0.2, 0.3) nor wasi:http/incoming-handler@0.2 or handler@0.3 (exports: {})",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Inspection {
        inspect(&wat::parse_str(text).unwrap()).unwrap()
    }

    #[test]
    fn modules() {
        let command = of(r#"(module (import "env" "f" (func)) (func (export "_start")))"#);
        assert_eq!(command.kind, Kind::Module);
        assert_eq!(command.imports, ["env::f"]);
        let library = of(r#"(module (func (export "add")))"#);
        assert_eq!(library.kind.world(), "core module without a _start function (exports: add)");
        let odd = of(r#"(module (global (export "_start") i32 (i32.const 0)))"#);
        assert!(matches!(odd.kind, Kind::Unsupported(_)), "_start must be a function");
    }

    #[test]
    fn components() {
        let empty = of("(component (core module (func (export \"_start\"))))");
        assert_eq!(
            empty.kind.world(),
            "component exports neither wasi:cli/run (0.2, 0.3) nor wasi:http/incoming-handler@0.2 or handler@0.3 (exports: none)"
        );
        for (export, kind) in [
            ("wasi:cli/run@0.2.3", Kind::Command),
            ("wasi:http/incoming-handler@0.2.0", Kind::Http),
            ("wasi:cli/run@0.3.0", Kind::CommandP3),
            ("wasi:http/handler@0.3.2", Kind::HttpP3),
        ] {
            let text = format!("(component (instance $i) (export \"{export}\" (instance $i)))");
            assert_eq!(of(&text).kind, kind);
        }
        let later = of("(component (instance $i) (export \"wasi:cli/run@0.4.0\" (instance $i)))");
        assert!(later.kind.world().contains("wasi:cli/run@0.4.0"), "{:?}", later.kind);
    }

    #[test]
    fn rubbish() {
        assert_eq!(inspect(b""), Err(InspectError::NotWasm));
        assert_eq!(inspect(b"#!/bin/sh"), Err(InspectError::NotWasm));
        assert!(matches!(inspect(b"\0asm\x01\0\0\0\xff\xff"), Err(InspectError::Malformed(_))));
    }
}
