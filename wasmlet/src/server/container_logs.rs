//! `/containerLogs`: what `kubectl logs` reads, following included.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::{StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::{mpsc, watch};

use super::Site;
use super::query::Query as Pairs;
use crate::logs::{LogOptions, Progress, pod_directory, reader};
use crate::runtime::Stream;

/// Pieces of a log between the reader and a slow client.
const QUEUE: usize = 8;

type Refusal = (StatusCode, String);

pub async fn serve(
    State(site): State<Arc<Site>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let parsed = match Query::parse(query.as_deref().unwrap_or_default(), Timestamp::now()) {
        Ok(parsed) => parsed,
        Err(refusal) => return refusal.into_response(),
    };
    match find(&site, &namespace, &pod, &container, parsed.previous) {
        Ok((path, live)) => {
            let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
            tokio::spawn(async move {
                if let Err(error) = reader::read(path, parsed.options, live, sender).await {
                    tracing::warn!(%error, "reading a container's log");
                }
            });
            let pieces = stream::unfold(receiver, |mut receiver| async move {
                let piece = receiver.recv().await?;
                Some((Ok::<_, std::convert::Infallible>(piece), receiver))
            });
            ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(pieces)).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// `PodLogOptions` as query parameters.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    options: LogOptions,
    previous: bool,
}

impl Query {
    fn parse(query: &str, now: Timestamp) -> Result<Self, Refusal> {
        let mut parsed = Query { options: LogOptions::default(), previous: false };
        let bad = |name: &str, value: &str| {
            (StatusCode::BAD_REQUEST, format!("invalid value {value:?} for parameter {name}"))
        };
        for (name, value) in Pairs::parse(query).iter() {
            let number = || value.parse::<u64>().map_err(|_| bad(name, value));
            let flag = || match value {
                "" | "1" | "true" | "True" | "TRUE" | "t" => Ok(true),
                "0" | "false" | "False" | "FALSE" | "f" => Ok(false),
                _ => Err(bad(name, value)),
            };
            let options = &mut parsed.options;
            match name {
                "follow" => options.follow = flag()?,
                "previous" => parsed.previous = flag()?,
                "timestamps" => options.timestamps = flag()?,
                "tailLines" => options.tail_lines = Some(number()?),
                "limitBytes" => options.limit_bytes = Some(number()?),
                "sinceSeconds" => {
                    let back = i64::try_from(number()?).map_err(|_| bad(name, value))?;
                    let since = now.checked_sub(SignedDuration::from_secs(back)).unwrap_or(Timestamp::MIN);
                    options.since = Some(since);
                }
                "sinceTime" => options.since = Some(value.parse().map_err(|_| bad(name, value))?),
                "stream" => {
                    options.stream = match value {
                        "Stdout" => Some(Stream::Stdout),
                        "Stderr" => Some(Stream::Stderr),
                        "All" | "" => None,
                        _ => return Err(bad(name, value)),
                    }
                }
                _ => {}
            }
        }
        Ok(parsed)
    }
}

type Found = (PathBuf, Option<watch::Receiver<Progress>>);

fn find(site: &Site, namespace: &str, name: &str, container: &str, previous: bool) -> Result<Found, Refusal> {
    let not_found = || (StatusCode::NOT_FOUND, format!("pod \"{name}\" not found"));
    let object = site.pods.get(namespace, name).ok_or_else(not_found)?;
    let pod: Pod = object.decode().map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let spec = pod.spec.as_ref();
    let names = spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let ephemeral = spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
    let is_one =
        names.into_iter().any(|c| c.name == container) || ephemeral.into_iter().any(|c| c.name == container);
    if !is_one {
        return Err((StatusCode::BAD_REQUEST, format!("container {container} is not valid for pod {name}")));
    }
    let known = pod
        .status
        .iter()
        .flat_map(|s| {
            let ephemeral = &s.ephemeral_container_statuses;
            s.container_statuses.iter().chain(&s.init_container_statuses).chain(ephemeral).flatten()
        })
        .find(|s| s.name == container);
    let latest = site.context.logs.latest(&object.head.uid, container);
    let run = which_run(known, latest.as_ref().map(|l| l.restart()), name, container, previous)?;
    let live = latest.filter(|latest| latest.restart() == run).map(|latest| latest.follow());
    let directory = pod_directory(&object.head.namespace, &object.head.name, &object.head.uid);
    Ok((site.context.logs.path(&directory, container, run), live))
}

/// The restart count of the run whose log is asked for. `latest`: of the run that this process started last.
fn which_run(
    known: Option<&ContainerStatus>,
    latest: Option<u32>,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<u32, Refusal> {
    let refuse = |text: String| Err((StatusCode::BAD_REQUEST, text));
    let restarts = known.map_or(0, |s| u32::try_from(s.restart_count).unwrap_or(0));
    let state = known.and_then(|s| s.state.as_ref());
    let waiting = state.and_then(|s| s.waiting.as_ref());
    let has_last = known.and_then(|s| s.last_state.as_ref()).is_some_and(|last| last.terminated.is_some());
    if previous {
        if !has_last {
            return refuse(format!(
                "previous terminated container \"{container}\" in pod \"{pod}\" not found"
            ));
        }
        // One that waits for its next run has its latest run behind it.
        return Ok(if waiting.is_some() { restarts } else { restarts.saturating_sub(1) });
    }
    if let Some(latest) = latest {
        return Ok(latest);
    }
    match (state, waiting) {
        (Some(_), Some(waiting)) if !has_last => {
            let reason = waiting.reason.as_deref().unwrap_or("ContainerCreating");
            let message =
                waiting.message.as_deref().filter(|_| reason.contains("Err") || reason.contains("Image"));
            match message {
                Some(_) => refuse(format!(
                    "container \"{container}\" in pod \"{pod}\" is waiting to start: {}",
                    match reason {
                        "ErrImagePull" | "ImagePullBackOff" => "trying and failing to pull image",
                        other => other,
                    }
                )),
                None => refuse(format!(
                    "container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}"
                )),
            }
        }
        (None, _) => refuse(format!(
            "container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating"
        )),
        _ => Ok(restarts),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn queries() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let parsed = Query::parse(
            "follow=true&tailLines=5&previous=1&timestamps=true&limitBytes=10&sinceSeconds=60&stream=Stderr",
            now,
        )
        .unwrap();
        assert_eq!(
            parsed,
            Query {
                previous: true,
                options: LogOptions {
                    follow: true,
                    tail_lines: Some(5),
                    since: Some("2026-01-01T00:00:00Z".parse().unwrap()),
                    timestamps: true,
                    limit_bytes: Some(10),
                    stream: Some(Stream::Stderr)
                },
            }
        );
        let since = Query::parse("sinceTime=2026-01-01T00%3A00%3A00%2B01%3A00", now).unwrap().options.since;
        assert_eq!(since, Some("2025-12-31T23:00:00Z".parse().unwrap()));
        for bad in ["tailLines=x", "tailLines=-1", "sinceTime=now", "follow=maybe", "stream=Stdin"] {
            assert_eq!(Query::parse(bad, now).unwrap_err().0, StatusCode::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn runs() {
        let running = json!({"running": {}});
        let ended = json!({"terminated": {"exitCode": 1}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "m"}});
        for (what, state, last, restarts, latest, previous, want) in [
            ("running", running.clone(), json!({}), 0, Some(0), false, Ok(0)),
            ("running, of before the node's restart", running.clone(), json!({}), 2, None, false, Ok(2)),
            ("running again", running.clone(), ended.clone(), 3, Some(3), true, Ok(2)),
            (
                "no previous",
                running,
                json!({}),
                0,
                Some(0),
                true,
                Err("previous terminated container \"c\" in pod \"p\" not found"),
            ),
            ("crash loop", waiting("CrashLoopBackOff"), ended.clone(), 1, Some(1), false, Ok(1)),
            ("crash loop, previous", waiting("CrashLoopBackOff"), ended.clone(), 1, Some(1), true, Ok(1)),
            ("ended", ended, json!({}), 0, Some(0), false, Ok(0)),
            (
                "creating",
                waiting("ContainerCreating"),
                json!({}),
                0,
                None,
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
            (
                "no image",
                waiting("ImagePullBackOff"),
                json!({}),
                0,
                None,
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
            ),
        ] {
            let status =
                serde_json::from_value(json!({"name": "c", "image": "i", "imageID": "", "ready": false,
                "restartCount": restarts, "state": state, "lastState": last}))
                .unwrap();
            let got = which_run(Some(&status), latest, "p", "c", previous).map_err(|(_, text)| text);
            assert_eq!(got, want.map_err(str::to_owned), "{what}");
        }
    }
}
