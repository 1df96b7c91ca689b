//! `coracle get`: the server's Tables, or objects as YAML, JSON or names.

use anyhow::bail;
use clap::{Args, ValueEnum};
use coracle_client::Resource;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::connection::{Connection, ConnectionOptions, from_server};
use super::print::{TABLE, Table, TableStyle};
use super::resolve::{Resources, targets};

#[derive(Args)]
pub struct Get {
    /// TYPE, TYPE NAME…, or TYPE/NAME…
    #[arg(required = true)]
    what: Vec<String>,
    #[arg(short, long)]
    output: Option<Output>,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// Go on with the changes
    #[arg(short, long)]
    watch: bool,
    #[arg(long)]
    no_headers: bool,
    /// An object that does not exist is no error
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    connection: ConnectionOptions,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Output {
    Wide,
    Yaml,
    Json,
    Name,
}

impl Get {
    pub fn run(self) -> anyhow::Result<()> {
        super::block_on(async { self.get().await.map_err(from_server) })
    }

    async fn get(&self) -> anyhow::Result<()> {
        let connection = self.connection.connect().await?;
        let resources = Resources::discover(&connection).await?;
        let targets = targets(&resources, &self.what)?;
        if self.watch && targets.len() != 1 {
            bail!("you may only specify a single resource type with --watch");
        }
        let several = targets.iter().any(|(r, _)| Some(r) != targets.first().map(|(first, _)| first));
        let mut documents = Vec::new();
        let mut printed_any = false;
        for (resource, name) in &targets {
            let path = self.path(&connection, resource, name.as_deref());
            let table = matches!(self.output, None | Some(Output::Wide));
            let accept = if table { TABLE } else { "application/json" };
            let value = match connection.get(&path, accept).await {
                Err(error)
                    if self.ignore_not_found
                        && super::connection::api_error(&error).is_some_and(|e| e.is_not_found()) =>
                {
                    continue;
                }
                other => other?,
            };
            if !table {
                documents.push(value);
                continue;
            }
            let version = value["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            let table: Table = serde_json::from_value(value)?;
            if !table.is_empty() || self.watch {
                if printed_any {
                    println!();
                }
                printed_any = true;
                print!("{}", table.render(self.style(several, true), &kind_word(resource)));
            }
            if self.watch {
                return self.follow(&connection, resource, name.as_deref(), &version).await;
            }
        }
        if !documents.is_empty() {
            self.print_documents(documents)?;
        } else if !printed_any && matches!(self.output, None | Some(Output::Wide)) && !self.ignore_not_found {
            let place = if self.all_namespaces {
                String::new()
            } else {
                format!(" in {} namespace", connection.namespace)
            };
            crate::process::note(&format!("No resources found{place}."));
        }
        Ok(())
    }

    fn style(&self, several: bool, first: bool) -> TableStyle {
        TableStyle {
            wide: self.output == Some(Output::Wide),
            namespaces: self.all_namespaces,
            headers: first && !self.no_headers,
            kind_prefix: several,
        }
    }

    fn path(&self, connection: &Connection, resource: &Resource, name: Option<&str>) -> String {
        let namespace = (!self.all_namespaces).then_some(connection.namespace.as_str());
        let mut path = resource.path(namespace, name, None);
        let mut separator = '?';
        for (key, value) in [("labelSelector", &self.selector), ("fieldSelector", &self.field_selector)] {
            if let Some(value) = value {
                path.push_str(&format!("{separator}{key}={}", query_escaped(value)));
                separator = '&';
            }
        }
        path
    }

    async fn follow(
        &self,
        connection: &Connection,
        resource: &Resource,
        name: Option<&str>,
        version: &str,
    ) -> anyhow::Result<()> {
        let mut path = self.path(connection, resource, None);
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(&format!("watch=true&resourceVersion={version}"));
        if let Some(name) = name {
            path.push_str(&format!("&fieldSelector=metadata.name%3D{name}"));
        }
        let response = connection.open(http::Method::GET, &path, TABLE, "", bytes::Bytes::new()).await?;
        let reader = response.into_body().into_data_stream().map_err(std::io::Error::other).into_async_read();
        let mut lines = std::pin::pin!(reader.lines());
        while let Some(line) = lines.next().await {
            let mut event: Value = serde_json::from_str(&line?)?;
            if event["type"] == "ERROR" {
                bail!("{}", event["object"]["message"].as_str().unwrap_or("the watch failed"));
            }
            // Only the first table of a watch has columns; cells are enough for the rest.
            let object = event["object"].take();
            if let Ok(table) = serde_json::from_value::<Table>(object) {
                print!("{}", table.render(self.style(false, false), &kind_word(resource)));
            }
        }
        Ok(())
    }

    fn print_documents(&self, mut documents: Vec<Value>) -> anyhow::Result<()> {
        let document = if documents.len() == 1 {
            documents.remove(0)
        } else {
            let items: Vec<Value> = documents
                .into_iter()
                .flat_map(|d| match d.get("items").and_then(Value::as_array) {
                    Some(items) => items.clone(),
                    None => vec![d],
                })
                .collect();
            json!({"apiVersion": "v1", "kind": "List", "items": items})
        };
        match self.output {
            Some(Output::Json) => println!("{}", serde_json::to_string_pretty(&document)?),
            Some(Output::Name) => {
                let items =
                    document.get("items").and_then(Value::as_array).cloned().unwrap_or(vec![document]);
                for item in items {
                    let kind = item["kind"].as_str().unwrap_or_default().to_lowercase();
                    let group = item["apiVersion"]
                        .as_str()
                        .and_then(|v| v.split_once('/'))
                        .map(|(g, _)| format!(".{g}"));
                    let name = item["metadata"]["name"].as_str().unwrap_or_default();
                    println!("{kind}{}/{name}", group.unwrap_or_default());
                }
            }
            _ => print!("{}", serde_norway::to_string(&document)?),
        }
        Ok(())
    }
}

/// `deployment.apps`, as kubectl names kinds before a slash.
pub fn kind_word(resource: &Resource) -> String {
    let kind = resource.kind().to_lowercase();
    if resource.group().is_empty() { kind } else { format!("{kind}.{}", resource.group()) }
}

pub fn query_escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    coracle_client::request::escape_query(text, &mut out);
    out
}
