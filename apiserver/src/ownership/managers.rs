//! `metadata.managedFields`: who owns which fields, read and written.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};

use super::element::ElementError;
use super::set::Set;

/// How many managers by update an object remembers; the oldest beyond that become one.
const UPDATERS_MAX: usize = 10;
/// Who the oldest managers become.
const OLDEST: &str = "ancient-changes";
const FIELDS_TYPE: &str = "FieldsV1";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// Who owns fields, and how they came by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    pub name: String,
    pub operation: Operation,
    /// The version that the fields are of. A manager that applies is the same in every version.
    pub api_version: String,
    pub subresource: String,
}

impl Who {
    pub fn is(&self, other: &Self) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// As conflicts name the manager.
impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.name)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        match self.operation {
            Operation::Apply => Ok(()),
            Operation::Update => write!(f, " using {}", self.api_version),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    pub who: Who,
    /// When it last took or changed a field.
    pub time: Option<Timestamp>,
    pub fields: Set,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers(pub Vec<Manager>);

/// Why managedFields cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ManagersError {
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    #[error("apiVersion must not be empty")]
    ApiVersion,
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    #[error("invalid fieldsType {1:?} in managed fields entry {0}")]
    FieldsType(usize, String),
    #[error("error decoding set: {0}")]
    Fields(#[from] ElementError),
}

impl Managers {
    pub fn read(entries: &[ManagedFieldsEntry]) -> Result<Self, ManagersError> {
        let mut managers = Self::default();
        for (i, entry) in entries.iter().enumerate() {
            let operation = match entry.operation.as_deref() {
                Some("Apply") => Operation::Apply,
                Some("Update") => Operation::Update,
                _ => return Err(ManagersError::Operation),
            };
            let api_version = entry.api_version.clone().unwrap_or_default();
            if api_version.is_empty() {
                return Err(ManagersError::ApiVersion);
            }
            match entry.fields_type.as_deref().unwrap_or_default() {
                FIELDS_TYPE => {}
                "" => return Err(ManagersError::NoFieldsType(i)),
                other => return Err(ManagersError::FieldsType(i, other.to_owned())),
            }
            let who = Who {
                name: entry.manager.clone().unwrap_or_default(),
                operation,
                api_version,
                subresource: entry.subresource.clone().unwrap_or_default(),
            };
            let fields = match &entry.fields_v1 {
                Some(FieldsV1(fields)) => Set::from_fields(fields)?,
                None => Set::default(),
            };
            let time = entry.time.as_ref().map(|time| time.0);
            managers.set(Manager { who, time, fields });
        }
        Ok(managers)
    }

    /// Sorted as upstream sorts them; None where there is nobody.
    pub fn write(mut self) -> Option<Vec<ManagedFieldsEntry>> {
        if self.0.is_empty() {
            return None;
        }
        let seconds = |manager: &Manager| manager.time.map_or(0, |time| time.as_second());
        self.0.sort_by(|a, b| {
            (a.who.operation.cmp(&b.who.operation))
                .then_with(|| seconds(a).cmp(&seconds(b)))
                .then_with(|| a.who.name.cmp(&b.who.name))
                .then_with(|| a.who.api_version.cmp(&b.who.api_version))
                .then_with(|| a.who.subresource.cmp(&b.who.subresource))
        });
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let entries = self.0.into_iter().map(|manager| ManagedFieldsEntry {
            operation: Some(match manager.who.operation {
                Operation::Apply => "Apply".to_owned(),
                Operation::Update => "Update".to_owned(),
            }),
            manager: text(manager.who.name),
            api_version: text(manager.who.api_version),
            subresource: text(manager.who.subresource),
            time: manager.time.map(Time),
            fields_type: Some(FIELDS_TYPE.to_owned()),
            fields_v1: Some(FieldsV1(manager.fields.to_fields())),
        });
        Some(entries.collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, who: &Who) -> Option<&Manager> {
        self.0.iter().find(|manager| manager.who.is(who))
    }

    /// In the place of the one that has the same identity, if there is one.
    pub fn set(&mut self, manager: Manager) {
        match self.0.iter_mut().find(|have| have.who.is(&manager.who)) {
            Some(have) => *have = manager,
            None => self.0.push(manager),
        }
    }

    pub fn take(&mut self, who: &Who) -> Option<Manager> {
        let at = self.0.iter().position(|manager| manager.who.is(who))?;
        Some(self.0.remove(at))
    }

    /// The oldest managers by update become one for each version, so that no more than ten are left.
    pub fn cap(&mut self) {
        let mut updaters: Vec<Manager> =
            self.0.iter().filter(|m| m.who.operation == Operation::Update).cloned().collect();
        let mut count = updaters.len();
        if count <= UPDATERS_MAX {
            return;
        }
        updaters.sort_by_key(|m| {
            let who = &m.who;
            let identity = (who.name.clone(), who.api_version.clone(), who.subresource.clone());
            (m.time.map_or(0, |time| time.as_second()), identity)
        });
        let mut first_of_version: Vec<Who> = Vec::new();
        for manager in updaters {
            if count <= UPDATERS_MAX {
                break;
            }
            let version = &manager.who.api_version;
            let Some(first) = first_of_version.iter().find(|who| who.api_version == *version) else {
                first_of_version.push(manager.who);
                continue;
            };
            let oldest = Who {
                name: OLDEST.to_owned(),
                operation: Operation::Update,
                api_version: version.clone(),
                subresource: String::new(),
            };
            let before = match self.get(&oldest) {
                Some(bucket) => bucket.fields.clone(),
                None => self.take(first).map(|first| first.fields).unwrap_or_default(),
            };
            self.take(&manager.who);
            let fields = before.union(&manager.fields);
            self.set(Manager { who: oldest, time: manager.time, fields });
            count -= 1;
        }
    }
}

/// A client's way to say that managers start anew: an empty list, or one with a single empty entry.
pub fn is_reset(entries: Option<&[ManagedFieldsEntry]>) -> bool {
    match entries {
        None => false,
        Some([]) => true,
        Some([one]) => *one == ManagedFieldsEntry::default(),
        Some(_) => false,
    }
}

/// Whether they differ in nothing but times.
pub fn same_but_times(a: Option<&[ManagedFieldsEntry]>, b: Option<&[ManagedFieldsEntry]>) -> bool {
    let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
    let without = |entry: &ManagedFieldsEntry| {
        (
            entry.manager.clone(),
            entry.operation.clone(),
            entry.api_version.clone(),
            entry.subresource.clone(),
            entry.fields_type.clone(),
        )
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| without(a) == without(b) && a.fields_v1 == b.fields_v1)
}
