//! The flow schemas and priority levels that every server has are there, and schemas say whether their level is.

use std::collections::BTreeSet;

use coracle_client::client::Kind;
use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, Informer, Informers, Key, WorkQueue};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, FlowSchemaCondition, PriorityLevelConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio_util::sync::CancellationToken;

use super::made;
use crate::kinds::flow_control_objects as built_in;

const DANGLING: &str = "Dangling";

pub(super) async fn ensure(client: &Client) -> Result<(), ApiError> {
    let levels = built_in::priority_levels();
    try_join_all(levels.iter().map(|level| keep(client, level, |l| &mut l.spec))).await?;
    let schemas = built_in::flow_schemas();
    try_join_all(schemas.iter().map(|schema| keep(client, schema, |s| &mut s.spec))).await?;
    Ok(())
}

/// Creates the object, or gives it the spec it should have, unless an administrator took that over.
async fn keep<K: Kind + Clone, S: PartialEq>(
    client: &Client,
    wanted: &K,
    spec: fn(&mut K) -> &mut S,
) -> Result<(), ApiError> {
    let name = wanted.metadata().name.clone().unwrap_or_default();
    let Some(mut found) = client.find::<K>("", &name).await? else {
        return made(client.create(wanted).await.map(drop));
    };
    let annotations = found.metadata().annotations.as_ref();
    let ours = annotations.and_then(|a| a.get(built_in::AUTO_UPDATE)).is_some_and(|value| value == "true");
    if !ours && !built_in::is_mandatory(&name) {
        return Ok(());
    }
    let mut wanted = wanted.clone();
    if *spec(&mut found) == *spec(&mut wanted) {
        return Ok(());
    }
    std::mem::swap(spec(&mut found), spec(&mut wanted));
    client.update(&found).await.map(drop)
}

pub(super) async fn run(client: Client, informers: &Informers, shutdown: CancellationToken) {
    let upkeep = Upkeep {
        client,
        schemas: informers.of::<FlowSchema>(),
        levels: informers.of::<PriorityLevelConfiguration>(),
        names: built_in::priority_levels()
            .into_iter()
            .filter_map(|l| l.metadata.name)
            .chain(built_in::flow_schemas().into_iter().filter_map(|s| s.metadata.name))
            .collect(),
    };
    let queue: WorkQueue<Key> = WorkQueue::new();
    let added = queue.clone();
    upkeep.schemas.on_change(move |change: &Change| added.add(change.key()));
    let (added, schemas) = (queue.clone(), upkeep.schemas.clone());
    upkeep.levels.on_change(move |change: &Change| {
        if change.old.is_some() && change.new.is_some() {
            return;
        }
        added.add(change.key());
        schemas.list().iter().for_each(|schema| added.add(schema.key()));
    });
    upkeep.schemas.synced().await;
    upkeep.levels.synced().await;
    controller::run(std::sync::Arc::new(upkeep), queue, 1, shutdown).await;
}

struct Upkeep {
    client: Client,
    schemas: Informer,
    levels: Informer,
    /// Of the server's own objects.
    names: BTreeSet<String>,
}

impl Reconciler for Upkeep {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "flow-control-upkeep"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let here = self.schemas.get_key(key);
        if self.names.contains(&*key.name) && (here.is_none() || self.levels.get_key(key).is_none()) {
            ensure(&self.client).await?;
        }
        let Some(object) = here else { return Ok(Outcome::Done) };
        let mut schema: FlowSchema = object.decode()?;
        let level = &schema.spec.priority_level_configuration.name;
        let condition = dangling(level, self.levels.get("", level).is_some(), Timestamp::now());
        let conditions = schema.status.get_or_insert_default().conditions.get_or_insert_default();
        match conditions.iter_mut().find(|c| c.type_ == DANGLING) {
            Some(found) if found.status == condition.status && found.message == condition.message => {
                return Ok(Outcome::Done);
            }
            Some(found) => *found = condition,
            None => conditions.push(condition),
        }
        match self.client.update_status(&schema).await {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}

fn dangling(level: &str, exists: bool, now: Timestamp) -> FlowSchemaCondition {
    let (status, reason, there) = if exists {
        ("False", "Found", "it exists")
    } else {
        ("True", "NotFound", "there is no such object")
    };
    FlowSchemaCondition {
        type_: DANGLING.into(),
        status: Some(status.into()),
        reason: Some(reason.into()),
        message: Some(format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {} {there}",
            if exists { "and" } else { "but" }
        )),
        last_transition_time: Some(Time(now)),
    }
}
