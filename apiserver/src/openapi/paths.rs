//! The paths of one group and version, with their operations.

use serde_json::{Map, Value, json};

use super::components::{Components, KindNames, meta_name, reference};
use super::connect;
use super::names::{GroupVersion, capitalised};
use super::parameters;
use crate::kinds::KindDef;
use crate::protobuf;
use crate::subresources::{self, REVIEWS, ReviewDef};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const STREAM: &str = "application/json;stream=watch";
const PROTOBUF_STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Writes the operations of one group and version.
struct Writer<'a> {
    gv: &'a GroupVersion,
    components: &'a Components,
    paths: Map<String, Value>,
}

/// What an operation works on.
struct Subject<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    /// The schema of what goes in and comes out.
    schema: String,
    /// It has a form in protobuf.
    binary: bool,
}

impl Subject<'_> {
    fn media_types(&self) -> &'static [&'static str] {
        if self.binary { &[JSON, YAML, PROTOBUF] } else { &[JSON, YAML] }
    }

    fn streams(&self) -> &'static [&'static str] {
        if self.binary { &[JSON, STREAM, PROTOBUF, PROTOBUF_STREAM, YAML] } else { &[JSON, STREAM, YAML] }
    }

    /// Strategic merges need what only built-in types say of themselves.
    fn patches(&self) -> Vec<&'static str> {
        PATCHES.iter().copied().filter(|media| self.binary || !media.contains("strategic")).collect()
    }
}

pub fn build(gv: &GroupVersion, kinds: &[&KindDef], components: &Components) -> Map<String, Value> {
    let mut writer = Writer { gv, components, paths: Map::new() };
    writer.resources();
    for (kind, names) in kinds.iter().zip(&components.kinds) {
        writer.kind(kind, names);
    }
    for review in REVIEWS.iter().filter(|r| r.group == gv.group && r.version == gv.version) {
        writer.review(review);
    }
    writer.paths
}

fn answers(schema: Value, media_types: &[&str], codes: &[(&str, &str)]) -> Value {
    let content: Map<String, Value> =
        media_types.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect();
    let mut all: Map<String, Value> = codes
        .iter()
        .map(|(code, description)| {
            ((*code).to_owned(), json!({ "description": description, "content": content }))
        })
        .collect();
    all.insert("401".to_owned(), json!({ "description": "Unauthorized" }));
    Value::Object(all)
}

const OK: (&str, &str) = ("200", "OK");
const CREATED: (&str, &str) = ("201", "Created");
const ACCEPTED: (&str, &str) = ("202", "Accepted");

fn body(schema: &str, media_types: &[&str], required: bool) -> Value {
    let content: Map<String, Value> = media_types
        .iter()
        .map(|media| ((*media).to_owned(), json!({ "schema": reference(schema) })))
        .collect();
    if required { json!({ "content": content, "required": true }) } else { json!({ "content": content }) }
}

impl Writer<'_> {
    fn operation(
        &self,
        verb: &str,
        what: &str,
        action: &str,
        description: String,
        subject: &Subject<'_>,
    ) -> Map<String, Value> {
        let mut operation = Map::new();
        operation.insert("description".to_owned(), description.into());
        operation.insert("operationId".to_owned(), self.gv.operation(verb, what).into());
        operation.insert("tags".to_owned(), json!([self.gv.tag()]));
        operation.insert("x-kubernetes-action".to_owned(), action.into());
        operation.insert(
            "x-kubernetes-group-version-kind".to_owned(),
            json!({ "group": subject.group, "version": subject.version, "kind": subject.kind }),
        );
        operation
    }

    fn put(&mut self, path: &str, parameters: Vec<Value>, operations: Vec<(&str, Map<String, Value>)>) {
        let mut item = Map::new();
        if !parameters.is_empty() {
            item.insert("parameters".to_owned(), parameters.into());
        }
        for (method, operation) in operations {
            item.insert(method.to_owned(), operation.into());
        }
        self.paths.insert(path.to_owned(), item.into());
    }

    fn resources(&mut self) {
        let list = reference(&meta_name("APIResourceList"));
        let operation = json!({
            "description": "get available resources",
            "operationId": self.gv.operation("get", "APIResources"),
            "tags": [self.gv.tag()],
            "responses": answers(list, &[JSON, YAML, PROTOBUF], &[OK]),
        });
        let Value::Object(operation) = operation else { return };
        self.put(&format!("/{}/", self.gv.path()), Vec::new(), vec![("get", operation)]);
    }

    fn kind(&mut self, kind: &KindDef, names: &KindNames) {
        let resource = &kind.resource;
        let (word, base) = if resource.namespaced() {
            ("Namespaced", format!("/{}/namespaces/{{namespace}}/{}", self.gv.path(), resource.plural()))
        } else {
            ("", format!("/{}/{}", self.gv.path(), resource.plural()))
        };
        let what = format!("{word}{}", resource.kind());
        let subject = Subject {
            group: resource.group(),
            version: resource.version(),
            kind: resource.kind(),
            schema: names.object.clone(),
            binary: protobuf::table().kind(&resource.api_version(), resource.kind()).is_some(),
        };
        let mut common = vec![parameters::pretty()];
        if resource.namespaced() {
            common.insert(0, parameters::in_path("namespace", "The namespace of the objects."));
        }
        self.collection(&base, &what, &subject, names, common.clone());
        if !kind.deletes_collection
            && let Some(path) = self.paths.get_mut(&base).and_then(Value::as_object_mut)
        {
            path.remove("delete");
        }
        common.insert(0, parameters::in_path("name", &format!("name of the {}", resource.kind())));
        self.object(&base, &what, &subject, common.clone(), kind.returns_deleted);
        if resource.namespaced() {
            let everywhere = format!("/{}/{}", self.gv.path(), resource.plural());
            let what = format!("{}ForAllNamespaces", resource.kind());
            let operation = self.list(&what, &subject, names);
            let mut parameters = parameters::list();
            parameters.push(parameters::pretty());
            self.put(&everywhere, parameters, vec![("get", operation)]);
        }
        if kind.computed {
            self.keep_reads(&[base.clone(), format!("{base}/{{name}}")]);
            return;
        }
        self.watches(resource.namespaced(), resource.plural(), &subject);
        for name in kind.all_subresources() {
            self.subresource(&format!("{base}/{{name}}/{name}"), &what, name, &subject, common.clone());
        }
    }

    /// What is not stored can only be read.
    fn keep_reads(&mut self, paths: &[String]) {
        for path in paths {
            if let Some(item) = self.paths.get_mut(path).and_then(Value::as_object_mut) {
                item.retain(|method, _| matches!(method.as_str(), "get" | "parameters"));
            }
        }
    }

    fn list(&self, what: &str, subject: &Subject<'_>, names: &KindNames) -> Map<String, Value> {
        let description = format!("list or watch objects of kind {}", subject.kind);
        let mut operation = self.operation("list", what, "list", description, subject);
        operation.insert("responses".to_owned(), answers(reference(&names.list), subject.streams(), &[OK]));
        operation
    }

    /// The old form of watches, which has paths of its own.
    fn watches(&mut self, namespaced: bool, plural: &str, subject: &Subject<'_>) {
        let (root, kind) = (format!("/{}/watch", self.gv.path()), subject.kind);
        let namespace = parameters::in_path("namespace", "The namespace of the objects.");
        let name = parameters::in_path("name", &format!("name of the {kind}"));
        let mut forms = Vec::new();
        if namespaced {
            let base = format!("{root}/namespaces/{{namespace}}/{plural}");
            forms.push((format!("{root}/{plural}"), format!("{kind}ListForAllNamespaces"), vec![]));
            forms.push((base.clone(), format!("Namespaced{kind}List"), vec![namespace.clone()]));
            forms.push((format!("{base}/{{name}}"), format!("Namespaced{kind}"), vec![name, namespace]));
        } else {
            let base = format!("{root}/{plural}");
            forms.push((base.clone(), format!("{kind}List"), vec![]));
            forms.push((format!("{base}/{{name}}"), kind.to_owned(), vec![name]));
        }
        for (path, what, mut parameters) in forms {
            let (action, of) = if path.ends_with('}') {
                ("watch", "an object")
            } else {
                ("watchlist", "individual changes to a list")
            };
            let description = format!(
                "watch {of} of kind {kind}. deprecated: use the 'watch' parameter with a list operation instead"
            );
            let mut operation = self.operation("watch", &what, action, description, subject);
            let event = reference(&meta_name("WatchEvent"));
            operation.insert("responses".to_owned(), answers(event, subject.streams(), &[OK]));
            parameters.extend(parameters::list());
            parameters.push(parameters::pretty());
            self.put(&path, parameters, vec![("get", operation)]);
        }
    }

    fn collection(
        &mut self,
        path: &str,
        what: &str,
        subject: &Subject<'_>,
        names: &KindNames,
        common: Vec<Value>,
    ) {
        let kind = subject.kind;
        let mut list = self.list(what, subject, names);
        list.insert("parameters".to_owned(), parameters::list().into());
        let mut create = self.operation("create", what, "post", format!("create a {kind}"), subject);
        create.insert("parameters".to_owned(), parameters::write().into());
        create.insert("requestBody".to_owned(), body(&subject.schema, &["*/*"], true));
        create.insert(
            "responses".to_owned(),
            answers(reference(&subject.schema), subject.media_types(), &[OK, CREATED, ACCEPTED]),
        );
        let description = format!("delete collection of {kind}");
        let mut delete =
            self.operation("delete", &format!("Collection{what}"), "deletecollection", description, subject);
        delete.insert("parameters".to_owned(), parameters::delete_collection().into());
        delete.insert("requestBody".to_owned(), body(&meta_name("DeleteOptions"), &["*/*"], false));
        delete.insert(
            "responses".to_owned(),
            answers(reference(&meta_name("Status")), subject.media_types(), &[OK]),
        );
        self.put(path, common, vec![("get", list), ("post", create), ("delete", delete)]);
    }

    fn object(
        &mut self,
        base: &str,
        what: &str,
        subject: &Subject<'_>,
        common: Vec<Value>,
        returns_deleted: bool,
    ) {
        let kind = subject.kind;
        let deleted = if returns_deleted { subject.schema.clone() } else { meta_name("Status") };
        let description = format!("delete a {kind}");
        let mut delete = self.operation("delete", what, "delete", description, subject);
        delete.insert("parameters".to_owned(), parameters::delete().into());
        delete.insert("requestBody".to_owned(), body(&meta_name("DeleteOptions"), &["*/*"], false));
        delete.insert(
            "responses".to_owned(),
            answers(reference(&deleted), subject.media_types(), &[OK, ACCEPTED]),
        );
        let operations = vec![
            ("get", self.read(what, &format!("read the specified {kind}"), subject)),
            ("put", self.replace(what, &format!("replace the specified {kind}"), subject)),
            ("patch", self.patch(what, &format!("partially update the specified {kind}"), subject)),
            ("delete", delete),
        ];
        self.put(&format!("{base}/{{name}}"), common, operations);
    }

    fn read(&self, what: &str, description: &str, subject: &Subject<'_>) -> Map<String, Value> {
        let mut operation = self.operation("read", what, "get", description.to_owned(), subject);
        operation.insert(
            "responses".to_owned(),
            answers(reference(&subject.schema), subject.media_types(), &[OK]),
        );
        operation
    }

    fn replace(&self, what: &str, description: &str, subject: &Subject<'_>) -> Map<String, Value> {
        let mut operation = self.operation("replace", what, "put", description.to_owned(), subject);
        operation.insert("parameters".to_owned(), parameters::write().into());
        operation.insert("requestBody".to_owned(), body(&subject.schema, &["*/*"], true));
        operation.insert(
            "responses".to_owned(),
            answers(reference(&subject.schema), subject.media_types(), &[OK, CREATED]),
        );
        operation
    }

    fn patch(&self, what: &str, description: &str, subject: &Subject<'_>) -> Map<String, Value> {
        let mut operation = self.operation("patch", what, "patch", description.to_owned(), subject);
        operation.insert("parameters".to_owned(), parameters::patch().into());
        operation.insert("requestBody".to_owned(), body(&meta_name("Patch"), &subject.patches(), true));
        operation.insert(
            "responses".to_owned(),
            answers(reference(&subject.schema), subject.media_types(), &[OK, CREATED]),
        );
        operation
    }

    fn create(&self, what: &str, description: String, subject: &Subject<'_>) -> Map<String, Value> {
        let mut operation = self.operation("create", what, "post", description, subject);
        operation.insert("requestBody".to_owned(), body(&subject.schema, &["*/*"], true));
        operation.insert(
            "responses".to_owned(),
            answers(reference(&subject.schema), subject.media_types(), &[OK, CREATED, ACCEPTED]),
        );
        operation
    }

    fn subresource(
        &mut self,
        path: &str,
        what: &str,
        name: &str,
        parent: &Subject<'_>,
        mut common: Vec<Value>,
    ) {
        let (verbs, own) = subresources::describe(parent.kind, name);
        let (group, version, kind) = own.unwrap_or((parent.group, parent.version, parent.kind));
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let document = own.and_then(|_| self.components.documents.get(&(api_version, kind.to_owned())));
        let schema = document.cloned().unwrap_or_else(|| parent.schema.clone());
        let subject = Subject { group, version, kind, schema, binary: parent.binary };
        let what = format!("{what}{}", capitalised(name));
        let of = |doing: &str| format!("{doing} {name} of the specified {}", parent.kind);
        if name == "log" {
            let mut operation = self.operation("read", &what, "get", of("read"), &subject);
            let media_types = [&["text/plain"], subject.media_types()].concat();
            operation
                .insert("responses".to_owned(), answers(json!({ "type": "string" }), &media_types, &[OK]));
            common.extend(parameters::log());
            self.put(path, common, vec![("get", operation)]);
            return;
        }
        if let Some(methods) = connect::methods(name) {
            let kind = connect::options_kind(parent.kind, name);
            let subject = Subject { group: parent.group, version: parent.version, kind: &kind, ..subject };
            common.retain(|parameter| parameter["in"] == "path");
            common.extend(connect::parameters(name));
            for rest in [false, true] {
                let operations = connect::each(methods, |method| {
                    let what = format!("{method}{what}{}", if rest { "WithPath" } else { "" });
                    let description = format!("connect {method} requests to {name} of {}", parent.kind);
                    let mut operation = self.operation("connect", &what, "connect", description, &subject);
                    operation.insert("responses".to_owned(), connect::responses());
                    operation
                });
                if !rest {
                    self.put(path, common.clone(), operations);
                } else if name == "proxy" {
                    common.insert(0, connect::rest());
                    self.put(&format!("{path}/{{path}}"), common.clone(), operations);
                }
            }
            return;
        }
        let mut operations = Vec::new();
        for verb in verbs {
            operations.push(match *verb {
                "get" => ("get", self.read(&what, &of("read"), &subject)),
                "update" => ("put", self.replace(&what, &of("replace"), &subject)),
                "patch" => ("patch", self.patch(&what, &of("partially update"), &subject)),
                "create" => ("post", self.create(&what, of("create"), &subject)),
                _ => continue,
            });
        }
        if verbs.contains(&"create") {
            common.extend(parameters::write());
        }
        self.put(path, common, operations);
    }

    fn review(&mut self, review: &ReviewDef) {
        let api_version = match review.group {
            "" => review.version.to_owned(),
            group => format!("{group}/{}", review.version),
        };
        let Some(schema) = self.components.documents.get(&(api_version, review.kind.to_owned())) else {
            return;
        };
        let subject = Subject {
            group: review.group,
            version: review.version,
            kind: review.kind,
            schema: schema.clone(),
            binary: true,
        };
        let what = format!("{}{}", if review.namespaced { "Namespaced" } else { "" }, review.kind);
        let operation = self.create(&what, format!("create a {}", review.kind), &subject);
        let mut common = parameters::write();
        common.push(parameters::pretty());
        let mut path = format!("/{}/{}", self.gv.path(), review.plural);
        if review.namespaced {
            path = format!("/{}/namespaces/{{namespace}}/{}", self.gv.path(), review.plural);
            common.insert(0, parameters::in_path("namespace", "The namespace of the objects."));
        }
        self.put(&path, common, vec![("post", operation)]);
    }
}
