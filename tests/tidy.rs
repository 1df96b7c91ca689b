//! Our invariants as tests: where things may stand, what may know what, how long a file may be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 800;

/// Everything that may stand at the top level. A new name here is a decision about the design.
const TOP_LEVEL: &[&str] = &[
    // folders
    "apiserver",
    "benches",
    "controllers",
    "proxy",
    "samples",
    "scheduler",
    "src",
    "tests",
    "wasmlet",
    // files
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
];

/// Kinds whose names are no other thing's name too (unlike Node, Service, Event, Secret, Namespace).
const KIND_WORDS: &[&str] = &[
    "ConfigMap",
    "CronJob",
    "DaemonSet",
    "Deployment",
    "EndpointSlice",
    "Endpoints",
    "LimitRange",
    "PersistentVolume",
    "Pod",
    "ReplicaSet",
    "ReplicationController",
    "RuntimeClass",
    "StatefulSet",
    "configmaps",
    "daemonsets",
    "deployments",
    "endpointslices",
    "replicasets",
    "runtimeclasses",
    "statefulsets",
];

/// Places that name kinds because naming them is what they are for.
const KIND_PLACES: &[&str] = &[
    "apiserver/src/kinds/",
    "apiserver/src/subresources/",
    // What upstream's plug-ins and authorizers are about: a pod's service account, a node's own pods.
    "apiserver/src/admission/",
    "apiserver/src/authz/",
    "apiserver/src/authn/",
    // A table by type name: list-map keys, patch strategies, defaults that k8s-openapi lacks.
    "apiserver/src/schema/",
    // The objects that every cluster has, and what the server keeps books of.
    "apiserver/src/upkeep/",
    // A conversion webhook behind a Service is found by the Service's endpoints.
    "apiserver/src/crd/webhook.rs",
];

const COMPONENTS: &[&str] = &["apiserver", "scheduler", "controllers", "wasmlet", "proxy"];

struct Source {
    /// Relative to the repository, with forward slashes.
    path: String,
    text: String,
}

impl Source {
    /// The lines outside comments and before the file's own tests, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .take_while(|(_, line)| !line.trim_start().starts_with("#[cfg(test)]"))
            .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path)) {
    let mut entries: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(&path, visit);
            }
        } else {
            visit(&path);
        }
    }
}

fn files(extension: &str) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut |path| {
        if path.extension().is_some_and(|found| found == extension) {
            let relative = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            found.push(Source { path: relative, text: std::fs::read_to_string(path).unwrap() });
        }
    });
    found
}

fn rust() -> Vec<Source> {
    let found = files("rs");
    assert!(found.len() > 20, "the walk found only {} files", found.len());
    found
}

/// Whether `word` stands in `line` with no letter, digit or underscore beside it.
fn has_word(line: &str, word: &str) -> bool {
    let part = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(start, _)| {
        !part(line[..start].chars().next_back()) && !part(line[start + word.len()..].chars().next())
    })
}

fn none(what: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{what}:\n  {}", violations.join("\n  "));
}

/// Lines of code that hold one of `words`, outside the places where they may stand.
fn words_outside(words: &[&str], within: &str, places: &[&str]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in rust() {
        let allowed = places.iter().any(|place| source.path.starts_with(place));
        if !source.path.starts_with(within) || allowed || source.is_test() {
            continue;
        }
        for (number, line) in source.code() {
            for word in words {
                if has_word(line, word) {
                    violations.push(format!("{}:{number}: {word}", source.path));
                }
            }
        }
    }
    violations
}

#[test]
fn every_file_says_what_it_does() {
    let silent: Vec<_> = rust()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    none("files that do not open with a `//!` sentence", &silent);
}

#[test]
fn no_file_is_too_long() {
    let sources = rust();
    let mut lengths: Vec<_> = sources.iter().map(|source| source.text.lines().count()).collect();
    lengths.sort_unstable();
    println!(
        "{} files; lines: median {}, p90 {}, longest {}",
        lengths.len(),
        lengths[lengths.len() / 2],
        lengths[lengths.len() * 9 / 10],
        lengths[lengths.len() - 1]
    );
    let long: Vec<_> = sources
        .iter()
        .map(|source| (source.text.lines().count(), &source.path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    none("files past 800 lines: split them by meaning", &long);
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["todo", "unimplemented", "dbg"];
    let mut violations = Vec::new();
    for source in rust() {
        for (number, line) in source.code() {
            if words.iter().any(|word| has_word(line, word) && line.contains(&format!("{word}!("))) {
                violations.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    none("`todo!`, `unimplemented!` or `dbg!`", &violations);
}

#[test]
fn modules_are_named_by_a_noun() {
    let vague = ["common", "helper", "helpers", "misc", "util", "utils"];
    let violations: Vec<_> = rust()
        .into_iter()
        .map(|source| source.path)
        .filter(|path| path.split('/').any(|part| vague.contains(&part.trim_end_matches(".rs"))))
        .collect();
    none("modules without a noun for a name", &violations);
}

#[test]
fn the_apiserver_names_no_kind_outside_kinds_and_subresources() {
    none("kinds named in generic code", &words_outside(KIND_WORDS, "apiserver/src/", KIND_PLACES));
}

#[test]
fn only_the_etcd_store_knows_etcd() {
    let violations = words_outside(&["etcd_client"], "", &["apiserver/src/storage/etcd"]);
    none("etcd_client outside storage/etcd.rs", &violations);
}

#[test]
fn only_the_wasm_runtime_knows_wasmtime() {
    // Images are compiled where they are stored, by the runtime's own engine.
    let places = ["wasmlet/src/runtime/wasm", "wasmlet/src/images/compile"];
    let words = ["wasmtime", "wasmtime_wasi", "wasmtime_wasi_http"];
    none("wasmtime outside runtime/wasm", &words_outside(&words, "", &places));
}

#[test]
fn only_the_cri_runtime_knows_cri() {
    none("k8s_cri outside runtime/cri", &words_outside(&["k8s_cri"], "", &["wasmlet/src/runtime/cri"]));
}

#[test]
fn only_the_embedded_store_knows_its_engine() {
    let places = ["apiserver/src/storage/embedded"];
    none("fjall outside storage/embedded", &words_outside(&["fjall", "redb"], "", &places));
}

/// Component crates meet at the API: none of them depends on another.
#[test]
fn components_do_not_know_one_another() {
    let mut violations = Vec::new();
    for component in COMPONENTS.iter().copied().chain(["apiserver/client"]) {
        let manifest = std::fs::read_to_string(root().join(component).join("Cargo.toml")).unwrap();
        let own = format!("coracle-{}", component.rsplit('/').next().unwrap());
        for line in manifest.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let is_dependency = name.starts_with("coracle-") && name != own;
            if is_dependency && (name != "coracle-client" || component == "apiserver/client") {
                violations.push(format!("{component}/Cargo.toml: {line}"));
            }
        }
    }
    none("components that depend on one another", &violations);
}

/// One version of each dependency, named in one place: the workspace's manifest.
#[test]
fn dependencies_are_declared_once() {
    let mut violations = Vec::new();
    let manifests = COMPONENTS.iter().map(|name| format!("{name}/Cargo.toml"));
    for path in manifests.chain(["apiserver/client/Cargo.toml".into(), "Cargo.toml".into()]) {
        let mut section = String::new();
        for line in std::fs::read_to_string(root().join(&path)).unwrap().lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']).to_owned();
            } else if section.ends_with("dependencies")
                && section != "workspace.dependencies"
                && line.contains('=')
                && !line.contains("workspace = true")
            {
                violations.push(format!("{path}: {line}"));
            }
        }
    }
    none("dependencies declared outside [workspace.dependencies]", &violations);
}

#[test]
fn the_top_level_reads_like_a_map() {
    let listing = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let names: BTreeSet<String> = match listing {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|path| path.split('/').next().unwrap_or_default().to_owned())
            .collect(),
        // Outside a git checkout what stands in the folder is all there is to ask.
        _ => std::fs::read_dir(root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name != "target")
            .collect(),
    };
    let strangers: Vec<_> = names
        .into_iter()
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    none("names at the top level that the design does not know", &strangers);
}

#[test]
fn every_sample_has_a_source_a_manifest_a_module_and_a_readme() {
    let mut lacking = Vec::new();
    for entry in std::fs::read_dir(root().join("samples")).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("Cargo.toml").exists() {
            continue;
        }
        let names: Vec<_> = std::fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        for (what, wanted) in
            [("a manifest", ".yaml"), ("a built module", ".wasm"), ("a README", "README.md")]
        {
            // The toolbox is no workload: `kubectl exec` runs it in containers of others.
            let needless = what == "a manifest" && path.ends_with("toolbox");
            if !needless && !names.iter().any(|name| name.ends_with(wanted)) {
                lacking.push(format!("{}: {what}", path.display()));
            }
        }
    }
    none("what samples lack", &lacking);
}

#[test]
fn words_have_boundaries() {
    assert!(has_word("let pod: Pod = x;", "Pod"));
    assert!(!has_word("let pods: PodList = x;", "Pod"));
    assert!(!has_word("a_pod", "pod"));
    assert!(has_word("use wasmtime::Engine;", "wasmtime"));
    assert!(!has_word("use wasmtime_wasi::p2;", "wasmtime"));
}

/// `PATH::TEST` in a table stands for a test that is there.
#[test]
fn every_test_that_the_conformance_table_names_exists() {
    let table = std::fs::read_to_string(root().join("tests/conformance.md")).unwrap();
    let mut lacking = Vec::new();
    let mut named = 0;
    for (number, line) in table.lines().enumerate() {
        for reference in line.split('`').skip(1).step_by(2).filter(|text| text.contains("::")) {
            let (path, test) = reference.split_once("::").unwrap();
            let text = std::fs::read_to_string(root().join(path)).unwrap_or_default();
            let head = format!("fn {test}(");
            let is_test = text.find(&head).is_some_and(|at| {
                text[..at].trim_end_matches("async ").trim_end().ends_with(']') && text[..at].contains("test")
            });
            named += 1;
            if !is_test {
                lacking.push(format!("tests/conformance.md:{}: {reference}", number + 1));
            }
        }
        let row = line.starts_with("| ") && !line.contains("| shown by |");
        if row && !line.contains("::") && !line.contains("| not shown: ") {
            lacking.push(format!("tests/conformance.md:{}: neither a test nor a reason", number + 1));
        }
    }
    assert!(named > 80, "{named}");
    none("tests of the conformance table that are not there", &lacking);
}
