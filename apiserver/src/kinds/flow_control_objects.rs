//! The flow schemas and priority levels that every server has: those that never change, and those that it suggests.

use std::collections::BTreeMap;

use k8s_openapi::api::flowcontrol::v1::{
    ExemptPriorityLevelConfiguration, FlowDistinguisherMethod, FlowSchema, FlowSchemaSpec, GroupSubject,
    LimitResponse, LimitedPriorityLevelConfiguration, NonResourcePolicyRule, PolicyRulesWithSubjects,
    PriorityLevelConfiguration, PriorityLevelConfigurationReference, PriorityLevelConfigurationSpec,
    QueuingConfiguration, ResourcePolicyRule, ServiceAccountSubject, Subject, UserSubject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Where it is `true`, the server keeps the spec as it knows it.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// These two of each kind are as they are.
const MANDATORY: &[&str] = &["catch-all", "exempt"];

/// Name, shares, how much of it is lent in percent, and queues, hand and length where requests wait.
type Level = (&'static str, i32, i32, Option<(i32, i32, i32)>);

const LEVELS: &[Level] = &[
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("system", 30, 33, Some((64, 6, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
];

#[derive(Clone, Copy)]
enum Who {
    User(&'static str),
    Group(&'static str),
    /// All service accounts of a namespace.
    Accounts(&'static str),
}

#[derive(Clone, Copy)]
enum What {
    Everything,
    Resources(&'static str, &'static [&'static str], &'static [&'static str], Scope),
    Paths(&'static [&'static str]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespaces,
    Cluster,
}

struct Schema {
    name: &'static str,
    level: &'static str,
    precedence: i32,
    method: Option<&'static str>,
    who: &'static [Who],
    what: &'static [What],
}

const BY_USER: Option<&str> = Some("ByUser");
const BY_NAMESPACE: Option<&str> = Some("ByNamespace");
const EVERYBODY: &[Who] = &[Who::Group("system:unauthenticated"), Who::Group("system:authenticated")];
const NODES: &[Who] = &[Who::Group("system:nodes")];
const ELECTORS: &[Who] = &[
    Who::User("system:kube-controller-manager"),
    Who::User("system:kube-scheduler"),
    Who::Accounts("kube-system"),
];

const fn schema(
    name: &'static str,
    level: &'static str,
    precedence: i32,
    method: Option<&'static str>,
    who: &'static [Who],
    what: &'static [What],
) -> Schema {
    Schema { name, level, precedence, method, who, what }
}

const ALL: &[What] = &[What::Everything];
const SCHEMAS: &[Schema] = &[
    schema("exempt", "exempt", 1, None, &[Who::Group("system:masters")], ALL),
    schema("probes", "exempt", 2, None, EVERYBODY, &[What::Paths(&["/healthz", "/readyz", "/livez"])]),
    schema(
        "system-leader-election",
        "leader-election",
        100,
        BY_USER,
        ELECTORS,
        &[What::Resources(
            "coordination.k8s.io",
            &["leases"],
            &["get", "create", "update"],
            Scope::Namespaces,
        )],
    ),
    schema(
        "system-node-high",
        "node-high",
        400,
        BY_USER,
        NODES,
        &[
            What::Resources("", &["nodes", "nodes/status"], &["*"], Scope::Cluster),
            What::Resources("coordination.k8s.io", &["leases"], &["*"], Scope::Namespaces),
        ],
    ),
    schema("system-nodes", "system", 500, BY_USER, NODES, ALL),
    schema(
        "kube-controller-manager",
        "workload-high",
        800,
        BY_NAMESPACE,
        &[Who::User("system:kube-controller-manager")],
        ALL,
    ),
    schema("kube-scheduler", "workload-high", 800, BY_NAMESPACE, &[Who::User("system:kube-scheduler")], ALL),
    schema(
        "kube-system-service-accounts",
        "workload-high",
        900,
        BY_NAMESPACE,
        &[Who::Accounts("kube-system")],
        ALL,
    ),
    schema("service-accounts", "workload-low", 9000, BY_USER, &[Who::Group("system:serviceaccounts")], ALL),
    schema("global-default", "global-default", 9900, BY_USER, EVERYBODY, ALL),
    schema("catch-all", "catch-all", 10_000, BY_USER, EVERYBODY, ALL),
];

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        annotations: Some(BTreeMap::from([(AUTO_UPDATE.into(), "true".into())])),
        ..ObjectMeta::default()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

impl Schema {
    fn build(&self) -> FlowSchema {
        let rule = PolicyRulesWithSubjects {
            subjects: self.who.iter().map(|who| who.subject()).collect(),
            resource_rules: some(self.what.iter().filter_map(What::resource_rule).collect()),
            non_resource_rules: some(self.what.iter().filter_map(What::path_rule).collect()),
        };
        FlowSchema {
            metadata: meta(self.name),
            spec: FlowSchemaSpec {
                matching_precedence: Some(self.precedence),
                priority_level_configuration: PriorityLevelConfigurationReference { name: self.level.into() },
                distinguisher_method: self.method.map(|m| FlowDistinguisherMethod { type_: m.into() }),
                rules: Some(vec![rule]),
            },
            status: None,
        }
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

impl Who {
    fn subject(self) -> Subject {
        let (user, group, account) = (None, None, None);
        let subject = |kind: &str| Subject { kind: kind.into(), user, group, service_account: account };
        match self {
            Self::User(name) => Subject { user: Some(UserSubject { name: name.into() }), ..subject("User") },
            Self::Group(name) => {
                Subject { group: Some(GroupSubject { name: name.into() }), ..subject("Group") }
            }
            Self::Accounts(namespace) => {
                let account = ServiceAccountSubject { name: "*".into(), namespace: namespace.into() };
                Subject { service_account: Some(account), ..subject("ServiceAccount") }
            }
        }
    }
}

impl What {
    fn resource_rule(&self) -> Option<ResourcePolicyRule> {
        let (group, resources, verbs, scope) = match self {
            Self::Everything => ("*", &["*"][..], &["*"][..], Scope::Cluster),
            Self::Resources(group, resources, verbs, scope) => (*group, *resources, *verbs, *scope),
            Self::Paths(_) => return None,
        };
        Some(ResourcePolicyRule {
            api_groups: words(&[group]),
            resources: words(resources),
            verbs: words(verbs),
            cluster_scope: (scope == Scope::Cluster).then_some(true),
            namespaces: Some(words(&["*"])),
        })
    }

    fn path_rule(&self) -> Option<NonResourcePolicyRule> {
        let (paths, verbs) = match self {
            Self::Everything => (&["*"][..], "*"),
            Self::Paths(paths) => (*paths, "get"),
            Self::Resources(..) => return None,
        };
        Some(NonResourcePolicyRule { non_resource_urls: words(paths), verbs: words(&[verbs]) })
    }
}

pub fn flow_schemas() -> Vec<FlowSchema> {
    SCHEMAS.iter().map(Schema::build).collect()
}

pub fn priority_levels() -> Vec<PriorityLevelConfiguration> {
    let exempt = PriorityLevelConfigurationSpec {
        type_: "Exempt".into(),
        exempt: Some(ExemptPriorityLevelConfiguration {
            nominal_concurrency_shares: Some(0),
            lendable_percent: Some(0),
        }),
        limited: None,
    };
    let limited = LEVELS.iter().map(|(name, shares, lent, queues)| {
        let queuing = queues.map(|(queues, hand, length)| QueuingConfiguration {
            queues: Some(queues),
            hand_size: Some(hand),
            queue_length_limit: Some(length),
        });
        let type_ = if queuing.is_some() { "Queue" } else { "Reject" };
        let limited = LimitedPriorityLevelConfiguration {
            nominal_concurrency_shares: Some(*shares),
            lendable_percent: Some(*lent),
            borrowing_limit_percent: None,
            limit_response: LimitResponse { type_: type_.into(), queuing },
        };
        let spec =
            PriorityLevelConfigurationSpec { type_: "Limited".into(), limited: Some(limited), exempt: None };
        (*name, spec)
    });
    std::iter::once(("exempt", exempt))
        .chain(limited)
        .map(|(name, spec)| PriorityLevelConfiguration { metadata: meta(name), spec, status: None })
        .collect()
}

pub(super) fn mandatory_flow_schema(name: &str) -> Option<FlowSchema> {
    SCHEMAS.iter().find(|s| s.name == name && MANDATORY.contains(&name)).map(Schema::build)
}

pub(super) fn mandatory_priority_level(name: &str) -> Option<PriorityLevelConfiguration> {
    let levels = || priority_levels().into_iter();
    MANDATORY.contains(&name).then(|| levels().find(|l| l.metadata.name.as_deref() == Some(name))).flatten()
}

/// The server keeps these whatever their annotation says.
pub fn is_mandatory(name: &str) -> bool {
    MANDATORY.contains(&name)
}
