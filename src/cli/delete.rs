//! `coracle delete`: deletes objects and waits until they are gone.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use coracle_client::Resource;
use http::Method;
use serde_json::{Value, json};

use super::connection::{Connection, ConnectionOptions, api_error, from_server};
use super::get::{kind_word, query_escaped};
use super::resolve::{Resources, targets};
use super::{manifests, wait};

#[derive(Args)]
pub struct Delete {
    /// TYPE NAME…, TYPE/NAME…, or TYPE with --all or -l
    what: Vec<String>,
    /// Delete what these manifests name
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
    #[arg(short = 'R', long)]
    recursive: bool,
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    #[arg(long)]
    all: bool,
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<i64>,
    #[arg(long, value_enum, default_value = "background")]
    cascade: Cascade,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    wait: bool,
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    connection: ConnectionOptions,
}

#[derive(Clone, Copy, ValueEnum)]
enum Cascade {
    Background,
    Foreground,
    Orphan,
}

impl Delete {
    pub fn run(self) -> anyhow::Result<()> {
        super::block_on(async { self.delete().await.map_err(from_server) })
    }

    async fn delete(&self) -> anyhow::Result<()> {
        let connection = self.connection.connect().await?;
        let resources = Resources::discover(&connection).await?;
        let mut doomed: Vec<(Resource, String, String)> = Vec::new();
        if !self.filename.is_empty() {
            for object in manifests::read(&self.filename, self.recursive)? {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let resource = resources.of_kind(&text(&object["apiVersion"]), &text(&object["kind"]))?;
                let namespace =
                    object["metadata"]["namespace"].as_str().unwrap_or(&connection.namespace).to_owned();
                doomed.push((resource, namespace, text(&object["metadata"]["name"])));
            }
        } else {
            for (resource, name) in targets(&resources, &self.what)? {
                match name {
                    Some(name) => doomed.push((resource, connection.namespace.clone(), name)),
                    None => doomed.extend(self.listed(&connection, &resource).await?),
                }
            }
        }
        for (resource, namespace, name) in doomed {
            self.delete_one(&connection, &resource, &namespace, &name).await?;
        }
        Ok(())
    }

    async fn listed(
        &self,
        connection: &Connection,
        resource: &Resource,
    ) -> anyhow::Result<Vec<(Resource, String, String)>> {
        if !self.all && self.selector.is_none() {
            bail!("resource(s) were provided, but no name was specified; give names, --all or -l");
        }
        let mut path = resource.path(Some(&connection.namespace), None, None);
        if let Some(selector) = &self.selector {
            path.push_str(&format!("?labelSelector={}", query_escaped(selector)));
        }
        let list = connection.get(&path, "application/json").await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(items
            .iter()
            .map(|i| (resource.clone(), text(&i["metadata"]["namespace"]), text(&i["metadata"]["name"])))
            .collect())
    }

    async fn delete_one(
        &self,
        connection: &Connection,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<()> {
        let policy = match self.cascade {
            Cascade::Background => "Background",
            Cascade::Foreground => "Foreground",
            Cascade::Orphan => "Orphan",
        };
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        if let Some(seconds) = self.grace_period.filter(|s| *s >= 0) {
            options["gracePeriodSeconds"] = json!(seconds);
        }
        let path = resource.path(Some(namespace), Some(name), None);
        let body = Bytes::from(serde_json::to_vec(&options)?);
        let sent = connection.send(Method::DELETE, &path, "application/json", "application/json", body).await;
        match sent {
            Err(error) if self.ignore_not_found && api_error(&error).is_some_and(|e| e.is_not_found()) => {
                return Ok(());
            }
            other => other?,
        };
        println!("{} \"{name}\" deleted", kind_word(resource));
        if self.wait {
            let goal = wait::Goal::Deleted;
            wait::until(connection, resource, namespace, name, &goal, Duration::from_secs(u32::MAX.into()))
                .await?;
        }
        Ok(())
    }
}
