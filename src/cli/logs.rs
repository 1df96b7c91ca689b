//! `coracle logs`: a container's log, followed where asked.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use futures::StreamExt;
use http_body_util::BodyExt;

use super::connection::{ConnectionOptions, from_server};
use super::get::query_escaped;

#[derive(Args)]
pub struct Logs {
    /// The pod: NAME or pod/NAME
    pod: String,
    #[arg(short, long)]
    container: Option<String>,
    /// Go on with what is written
    #[arg(short, long)]
    follow: bool,
    /// Of the container's previous run
    #[arg(short, long)]
    previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES", allow_hyphen_values = true)]
    tail: Option<i64>,
    /// Only what is newer: 5s, 2m, 3h
    #[arg(long, value_name = "DURATION", value_parser = crate::options::parse_duration)]
    since: Option<std::time::Duration>,
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    connection: ConnectionOptions,
}

impl Logs {
    pub fn run(self) -> anyhow::Result<()> {
        super::block_on(async { self.logs().await.map_err(from_server) })
    }

    async fn logs(&self) -> anyhow::Result<()> {
        let connection = self.connection.connect().await?;
        let name = self.pod.strip_prefix("pod/").or(self.pod.strip_prefix("pods/")).unwrap_or(&self.pod);
        let mut query = Vec::new();
        if let Some(container) = &self.container {
            query.push(format!("container={}", query_escaped(container)));
        }
        for (flag, on) in
            [("follow", self.follow), ("previous", self.previous), ("timestamps", self.timestamps)]
        {
            if on {
                query.push(format!("{flag}=true"));
            }
        }
        if let Some(lines) = self.tail.filter(|lines| *lines >= 0) {
            query.push(format!("tailLines={lines}"));
        }
        if let Some(since) = self.since {
            query.push(format!("sinceSeconds={}", since.as_secs().max(1)));
        }
        let pods = coracle_client::Resource::new("", "v1", "pods", "Pod", true);
        let path = pods.path(Some(&connection.namespace), Some(name), Some("log"));
        let path = format!("{path}?{}", query.join("&"));
        let response = connection.open(http::Method::GET, &path, "*/*", "", bytes::Bytes::new()).await?;
        let mut body = response.into_body().into_data_stream();
        let mut out = std::io::stdout().lock();
        while let Some(chunk) = body.next().await {
            out.write_all(&chunk.context("reading the log")?)?;
            out.flush()?;
        }
        Ok(())
    }
}
