//! `coracle wait`: until a condition holds, or an object is gone.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use coracle_client::Resource;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use serde_json::Value;

use super::connection::{Connection, ConnectionOptions, from_server};
use super::get::{kind_word, query_escaped};
use super::resolve::{Resources, targets};

#[derive(Args)]
pub struct Wait {
    /// TYPE NAME…, TYPE/NAME…, or TYPE with --all or -l
    #[arg(required = true)]
    what: Vec<String>,
    /// condition=NAME[=STATUS], delete, or create
    #[arg(long = "for", value_name = "CONDITION")]
    goal: Goal,
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::options::parse_duration)]
    timeout: Duration,
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    connection: ConnectionOptions,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    Condition { name: String, status: String },
    Deleted,
    Created,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("condition", rest)) if !rest.is_empty() => {
                let (name, status) = rest.split_once('=').unwrap_or((rest, "True"));
                Ok(Self::Condition { name: name.to_lowercase(), status: status.to_lowercase() })
            }
            None if text == "delete" => Ok(Self::Deleted),
            None if text == "create" => Ok(Self::Created),
            _ => Err("give condition=NAME, condition=NAME=STATUS, delete, or create".into()),
        }
    }
}

impl Goal {
    /// Whether an object that exists meets the goal.
    fn met_by(&self, object: &Value) -> bool {
        match self {
            Self::Created => true,
            Self::Deleted => false,
            Self::Condition { name, status } => {
                let current = object["metadata"]["generation"].as_i64();
                let observed = object["status"]["observedGeneration"].as_i64();
                let stale = matches!((current, observed), (Some(c), Some(o)) if o < c);
                let is =
                    |value: &Value, wanted: &str| value.as_str().is_some_and(|v| v.to_lowercase() == wanted);
                !stale
                    && object["status"]["conditions"].as_array().is_some_and(|list| {
                        list.iter().any(|c| is(&c["type"], name) && is(&c["status"], status))
                    })
            }
        }
    }
}

impl Wait {
    pub fn run(self) -> anyhow::Result<()> {
        super::block_on(async { self.wait().await.map_err(from_server) })
    }

    async fn wait(&self) -> anyhow::Result<()> {
        let connection = self.connection.connect().await?;
        let resources = Resources::discover(&connection).await?;
        let deadline = tokio::time::Instant::now() + self.timeout;
        for (resource, name) in targets(&resources, &self.what)? {
            let names = match name {
                Some(name) => vec![name],
                None => self.listed(&connection, &resource).await?,
            };
            for name in names {
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                until(&connection, &resource, &connection.namespace, &name, &self.goal, left).await?;
                let met = if self.goal == Goal::Deleted { "deleted" } else { "condition met" };
                println!("{}/{name} {met}", kind_word(&resource));
            }
        }
        Ok(())
    }

    async fn listed(&self, connection: &Connection, resource: &Resource) -> anyhow::Result<Vec<String>> {
        if !self.all && self.selector.is_none() {
            bail!("resource(s) were provided, but no name was specified; give names, --all or -l");
        }
        let mut path = resource.path(Some(&connection.namespace), None, None);
        if let Some(selector) = &self.selector {
            path.push_str(&format!("?labelSelector={}", query_escaped(selector)));
        }
        let list = connection.get(&path, "application/json").await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        if items.is_empty() && self.goal != Goal::Deleted {
            bail!("no matching resources found");
        }
        Ok(items.iter().filter_map(|i| i["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }
}

/// Lists one object, then watches it, until the goal is met.
pub async fn until(
    connection: &Connection,
    resource: &Resource,
    namespace: &str,
    name: &str,
    goal: &Goal,
    timeout: Duration,
) -> anyhow::Result<()> {
    let label = format!("{}/{name}", kind_word(resource));
    let waiting = async {
        loop {
            if watched(connection, resource, namespace, name, goal).await? {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(timeout, waiting)
        .await
        .with_context(|| format!("timed out waiting for the condition on {label}"))?
}

/// False when the watch ended before the goal was met.
async fn watched(
    connection: &Connection,
    resource: &Resource,
    namespace: &str,
    name: &str,
    goal: &Goal,
) -> anyhow::Result<bool> {
    let collection = resource.path(Some(namespace), None, None);
    let selector = query_escaped(&format!("metadata.name={name}"));
    let list = connection.get(&format!("{collection}?fieldSelector={selector}"), "application/json").await?;
    match list["items"].as_array().and_then(|items| items.first()) {
        Some(object) if goal.met_by(object) => return Ok(true),
        Some(_) => {}
        None if *goal == Goal::Deleted => return Ok(true),
        None if *goal == Goal::Created => {}
        None => return Err(coracle_client::ApiError::not_found(resource, name).into()),
    }
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!("{collection}?fieldSelector={selector}&watch=true&resourceVersion={version}");
    let response =
        connection.open(http::Method::GET, &path, "application/json", "", bytes::Bytes::new()).await?;
    let reader = response.into_body().into_data_stream().map_err(std::io::Error::other).into_async_read();
    let mut lines = std::pin::pin!(reader.lines());
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        match event["type"].as_str() {
            Some("DELETED") if *goal == Goal::Deleted => return Ok(true),
            Some("ADDED" | "MODIFIED") if goal.met_by(&event["object"]) => return Ok(true),
            // Too old, mostly: list again.
            Some("ERROR") => return Ok(false),
            _ => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_hold_for_the_current_generation_only() {
        let goal: Goal = "condition=Available".parse().unwrap();
        let object = |status: &str, observed: i64| {
            json!({"metadata": {"generation": 2}, "status": {"observedGeneration": observed,
                "conditions": [{"type": "Available", "status": status}]}})
        };
        assert!(goal.met_by(&object("True", 2)));
        assert!(!goal.met_by(&object("True", 1)));
        assert!(!goal.met_by(&object("False", 2)));
        assert!(
            "condition=Ready=false"
                .parse::<Goal>()
                .unwrap()
                .met_by(&json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}))
        );
        assert!("nonsense".parse::<Goal>().is_err());
    }
}
