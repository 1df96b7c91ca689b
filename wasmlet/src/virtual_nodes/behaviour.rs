//! How a virtual pod behaves: read from `coracle.dev/fake-…` annotations of the pod, or else of its node. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use coracle_client::quantity::Quantity;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

/// Every annotation begins with this; `coracle node --fake NAME=VALUE` puts one on the nodes.
pub const PREFIX: &str = "coracle.dev/fake-";

/// Node only: it says nothing any more and its pods do nothing, as if the machine had lost its power.
pub const SILENT: &str = "coracle.dev/fake-silent";

/// From the pod's binding to the start of its containers.
const START_DELAY: &str = "start-delay";
/// From a container's start until it is ready; `never` is possible.
const READY_DELAY: &str = "ready-delay";
/// From a container's start to its end; `forever` is possible.
const RUN_DURATION: &str = "run-duration";
/// What it ends with.
const EXIT_CODE: &str = "exit-code";
/// From the request to stop to the end, within the grace.
const STOP_DELAY: &str = "stop-delay";
/// One of [`Failure`].
const FAILURE: &str = "failure";
/// What a container uses.
const CPU_USAGE: &str = "cpu-usage";
const MEMORY_USAGE: &str = "memory-usage";

const NAMES: [&str; 8] =
    [START_DELAY, READY_DELAY, RUN_DURATION, EXIT_CODE, STOP_DELAY, FAILURE, CPU_USAGE, MEMORY_USAGE];

/// Delays beyond this are as good as for ever.
const DELAY_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A duration, or `LEAST..MOST`: then each pod has one of its own between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    least: Duration,
    most: Duration,
}

impl Span {
    fn parse(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let span = Span { least: duration(least)?, most: duration(most)? };
        if span.most < span.least {
            return Err(format!("{text:?}: the second duration is the longer one"));
        }
        Ok(span)
    }

    /// The same for the same pod.
    fn of(self, seed: u64) -> SignedDuration {
        let width = u64::try_from((self.most - self.least).as_millis()).unwrap_or(u64::MAX);
        let more = if width == 0 { 0 } else { seed % (width + 1) };
        SignedDuration::try_from(self.least + Duration::from_millis(more)).unwrap_or(SignedDuration::ZERO)
    }
}

/// `250ms`, `1.5s`, `5m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?}: give a duration such as 250ms, 5s or 2m");
    let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * seconds).map(|d| d.min(DELAY_MAX)).map_err(|_| wrong())
}

/// How a pod's containers fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The image is never there.
    ImagePull,
    /// The container ends soon after each start.
    Crash,
    /// Likewise, for want of memory.
    OutOfMemory,
    /// The node throws the pod out.
    Evicted,
}

impl Failure {
    fn parse(text: &str) -> Result<Option<Self>, String> {
        Ok(Some(match text {
            "" | "None" => return Ok(None),
            "ImagePullBackOff" | "ErrImagePull" => Self::ImagePull,
            "CrashLoopBackOff" => Self::Crash,
            "OOMKilled" => Self::OutOfMemory,
            "Evicted" => Self::Evicted,
            _ => {
                return Err(format!(
                    "{text:?}: give ImagePullBackOff, CrashLoopBackOff, OOMKilled, Evicted or None"
                ));
            }
        }))
    }
}

/// A pod's behaviour, worked out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Behaviour {
    pub start_delay: SignedDuration,
    pub stop_delay: SignedDuration,
    pub evicted: bool,
    /// As in `Spec::containers`: init, main, ephemeral.
    pub containers: Box<[ContainerBehaviour]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerBehaviour {
    /// None: never.
    pub ready_delay: Option<SignedDuration>,
    /// None: until it is stopped.
    pub run_duration: Option<SignedDuration>,
    pub exit_code: i32,
    pub out_of_memory: bool,
    pub image_missing: bool,
    pub cpu_nanocores: u64,
    pub memory_bytes: u64,
}

/// A container's role, which says how long it runs unless it is told otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Init,
    /// Of a Job.
    Task,
    Lasting,
}

/// What was said that does not parse: annotation and why.
pub type Complaints = Vec<String>;

impl Behaviour {
    /// `node`: the node's own annotations, for what the pod does not say.
    pub fn of(pod: &Pod, node: &BTreeMap<String, String>) -> (Self, Complaints) {
        let empty = BTreeMap::new();
        let mut hasher = DefaultHasher::new();
        pod.metadata.uid.hash(&mut hasher);
        let mut reader = Reader {
            layers: [pod.metadata.annotations.as_ref().unwrap_or(&empty), node],
            seed: hasher.finish(),
            complaints: Vec::new(),
        };
        let of_job = pod.metadata.owner_references.iter().flatten().any(|o| o.kind == "Job");
        let spec = pod.spec.as_ref();
        let init = spec.iter().flat_map(|s| s.init_containers.iter().flatten()).map(|c| {
            let sidecar = c.restart_policy.as_deref() == Some("Always");
            (&c.name, c.resources.as_ref(), if sidecar { Role::Lasting } else { Role::Init })
        });
        let main = spec
            .iter()
            .flat_map(|s| &s.containers)
            .map(|c| (&c.name, c.resources.as_ref(), if of_job { Role::Task } else { Role::Lasting }));
        let ephemeral = spec
            .iter()
            .flat_map(|s| s.ephemeral_containers.iter().flatten())
            .map(|c| (&c.name, None, Role::Lasting));
        let containers: Vec<_> = init
            .chain(main)
            .chain(ephemeral)
            .map(|(name, resources, role)| reader.container(name, resources, role))
            .collect();
        let behaviour = Behaviour {
            start_delay: reader.span(START_DELAY, None).unwrap_or_default(),
            stop_delay: reader.span(STOP_DELAY, None).unwrap_or_default(),
            evicted: reader.failure(None) == Some(Failure::Evicted),
            containers: containers.into(),
        };
        reader.complaints.dedup();
        (behaviour, reader.complaints)
    }
}

/// Checks what `--fake NAME=VALUE` gives.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let known = name.split('.').next().unwrap_or_default();
    match known {
        START_DELAY | STOP_DELAY => Span::parse(value).map(drop),
        READY_DELAY if value == "never" => Ok(()),
        RUN_DURATION if value == "forever" => Ok(()),
        READY_DELAY | RUN_DURATION => Span::parse(value).map(drop),
        EXIT_CODE => value.parse::<u8>().map(drop).map_err(|_| format!("{value:?}: give a number up to 255")),
        FAILURE => Failure::parse(value).map(drop),
        CPU_USAGE | MEMORY_USAGE => value.parse::<Quantity>().map(drop).map_err(|e| e.to_string()),
        _ => Err(format!("{name:?}: give one of {}", NAMES.join(", "))),
    }
}

struct Reader<'a> {
    layers: [&'a BTreeMap<String, String>; 2],
    seed: u64,
    complaints: Complaints,
}

impl Reader<'_> {
    /// The nearest layer that says it, for this container before for all of them.
    fn text(&mut self, name: &str, container: Option<&str>) -> Option<String> {
        for layer in self.layers.into_iter().filter(|layer| !layer.is_empty()) {
            let own = container.and_then(|c| layer.get(&format!("{PREFIX}{name}.{c}")));
            let Some(value) = own.or_else(|| layer.get(&format!("{PREFIX}{name}"))) else { continue };
            match check(name, value) {
                Ok(()) => return Some(value.clone()),
                Err(why) => self.complaints.push(format!("{PREFIX}{name}: {why}")),
            }
        }
        None
    }

    fn span(&mut self, name: &str, container: Option<&str>) -> Option<SignedDuration> {
        let text = self.text(name, container)?;
        Span::parse(&text).ok().map(|span| span.of(self.seed))
    }

    fn failure(&mut self, container: Option<&str>) -> Option<Failure> {
        let text = self.text(FAILURE, container)?;
        Failure::parse(&text).ok().flatten()
    }

    fn container(
        &mut self,
        name: &str,
        resources: Option<&ResourceRequirements>,
        role: Role,
    ) -> ContainerBehaviour {
        let name = Some(name);
        // A pod that fails is meant to fail by what it is for, not while it is made ready.
        let failure = if role == Role::Init { None } else { self.failure(name) };
        let failing = matches!(failure, Some(Failure::Crash | Failure::OutOfMemory));
        let run_duration = match self.text(RUN_DURATION, name).filter(|_| role != Role::Init).as_deref() {
            Some("forever") => None,
            Some(text) => Span::parse(text).ok().map(|span| span.of(self.seed)),
            None => (role != Role::Lasting || failing).then_some(SignedDuration::ZERO),
        };
        let exit_code = self.text(EXIT_CODE, name).filter(|_| role != Role::Init);
        let exit_code = exit_code.and_then(|text| text.parse::<u8>().ok()).map(i32::from);
        let ready_delay = match self.text(READY_DELAY, name).as_deref() {
            Some("never") => None,
            Some(text) => Span::parse(text).ok().map(|span| span.of(self.seed)),
            None => Some(SignedDuration::ZERO),
        };
        let asked = |resource: &str| {
            let requests = resources?.requests.as_ref()?;
            Quantity::of(requests.get(resource)?).ok()
        };
        let said = |text: Option<String>| text.and_then(|text| text.parse::<Quantity>().ok());
        let cpu = said(self.text(CPU_USAGE, name)).or_else(|| asked("cpu"));
        let memory = said(self.text(MEMORY_USAGE, name)).or_else(|| asked("memory"));
        let positive = |value: i64| u64::try_from(value).unwrap_or(0);
        ContainerBehaviour {
            ready_delay,
            run_duration,
            exit_code: match failure {
                Some(Failure::OutOfMemory) => 137,
                Some(Failure::Crash) => exit_code.filter(|code| *code != 0).unwrap_or(1),
                _ => exit_code.unwrap_or(0),
            },
            out_of_memory: failure == Some(Failure::OutOfMemory),
            image_missing: failure == Some(Failure::ImagePull),
            cpu_nanocores: cpu.map_or(0, |q| positive(q.milli_value()).saturating_mul(1_000_000)),
            memory_bytes: memory.map_or(0, |q| positive(q.value())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn behaviour(pod: &[(&str, &str)], node: &[(&str, &str)], owner: &str) -> (Behaviour, Complaints) {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned())).collect()
        };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "annotations": map(pod),
                "ownerReferences": [{"apiVersion": "v1", "kind": owner, "name": "o", "uid": "o"}]},
            "spec": {"initContainers": [{"name": "i"}],
                "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1Ki"}}}, {"name": "b"}]},
        }))
        .unwrap();
        Behaviour::of(&pod, &map(node))
    }

    #[test]
    fn pods_say_it_or_else_their_node_does() {
        let seconds = SignedDuration::from_secs;
        let (plain, complaints) = behaviour(&[], &[], "ReplicaSet");
        assert!(complaints.is_empty());
        assert_eq!(plain.containers[0].run_duration, Some(seconds(0)), "init containers end");
        assert_eq!(plain.containers[1].run_duration, None, "others run on");
        assert_eq!(
            (plain.containers[1].cpu_nanocores, plain.containers[1].memory_bytes),
            (100_000_000, 1024)
        );
        let (job, _) = behaviour(&[], &[], "Job");
        assert_eq!(job.containers[1].run_duration, Some(seconds(0)), "a Job's end");
        let node = [("start-delay", "5s"), ("run-duration", "1m"), ("cpu-usage", "2")];
        let pod = [
            ("start-delay", "2s"),
            ("exit-code.b", "3"),
            ("ready-delay", "never"),
            ("run-duration.a", "forever"),
        ];
        let (told, complaints) = behaviour(&pod, &node, "ReplicaSet");
        assert!(complaints.is_empty(), "{complaints:?}");
        assert_eq!(told.start_delay, seconds(2));
        let of = |at: usize| (told.containers[at].run_duration, told.containers[at].exit_code);
        assert_eq!((of(0), of(1), of(2)), ((Some(seconds(0)), 0), (None, 0), (Some(seconds(60)), 3)));
        assert_eq!(told.containers[1].ready_delay, None);
        assert_eq!(told.containers[2].cpu_nanocores, 2_000_000_000);
    }

    #[test]
    fn failures() {
        for (text, code, ends, missing) in [
            ("CrashLoopBackOff", 1, true, false),
            ("OOMKilled", 137, true, false),
            ("ImagePullBackOff", 0, false, true),
            ("None", 0, false, false),
        ] {
            let (told, _) = behaviour(&[("failure", text)], &[("failure", "Evicted")], "ReplicaSet");
            let main = &told.containers[1];
            let got = (main.exit_code, main.run_duration.is_some(), main.image_missing);
            assert_eq!(got, (code, ends, missing), "{text}");
            assert!(!told.evicted, "{text}");
        }
        assert!(behaviour(&[], &[("failure", "Evicted")], "ReplicaSet").0.evicted);
    }

    #[test]
    fn what_does_not_parse_is_told_and_not_taken() {
        let pod = [("start-delay", "soon"), ("failure", "Sadness"), ("exit-code", "999"), ("cpu-usage", "x")];
        let (told, complaints) = behaviour(&pod, &[("start-delay", "1s")], "ReplicaSet");
        assert_eq!(told.start_delay, SignedDuration::from_secs(1), "the node's counts");
        assert!(complaints.iter().any(|c| c.contains("start-delay") && c.contains("soon")), "{complaints:?}");
        assert!(complaints.len() >= 4, "{complaints:?}");
        assert!(check("tart-delay", "1s").unwrap_err().contains("start-delay"));
        assert!(check("run-duration.app", "1s..2s").is_ok());
    }

    #[test]
    fn a_span_gives_each_pod_its_own() {
        let span = Span::parse("1s..3s").unwrap();
        let all: std::collections::BTreeSet<_> = (0..50u64).map(|seed| span.of(seed * 977)).collect();
        assert!(all.len() > 20);
        assert!(all.iter().all(|d| (1000..=3000).contains(&d.as_millis())));
        assert!(Span::parse("3s..1s").is_err());
    }
}
