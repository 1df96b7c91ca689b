//! The way from a process to the apiservers: any of them, late, lost, cut off; dead with its process.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_apiserver::authn::Identity;
use coracle_apiserver::direct::Direct;
use coracle_client::discovery::Discovered;
use coracle_client::{
    ApiError, Client, List, ListOptions, Request, Resource, Transport, WatchOptions, WatchStream,
};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::server::{Running, Server};

pub struct Wire {
    servers: Arc<Vec<Server>>,
    faults: Arc<Faults>,
    identity: Identity,
    /// Its process: what is dead asks and hears nothing.
    killed: CancellationToken,
    /// Cut off from every server while this says so.
    partitioned: Arc<std::sync::atomic::AtomicBool>,
}

impl Wire {
    pub fn client(
        servers: &Arc<Vec<Server>>,
        faults: &Arc<Faults>,
        identity: Identity,
        killed: CancellationToken,
        partitioned: Arc<std::sync::atomic::AtomicBool>,
        component: &str,
    ) -> Client {
        let wire = Self { servers: servers.clone(), faults: faults.clone(), identity, killed, partitioned };
        Client::new(Arc::new(wire), component)
    }

    fn cut_off(&self) -> bool {
        self.partitioned.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// A server that answers, or what connecting to none says.
    async fn reach(&self) -> Result<(Running, Arc<dyn Transport>), ApiError> {
        if self.killed.is_cancelled() {
            std::future::pending::<()>().await;
        }
        self.faults.pause().await;
        if self.cut_off() {
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            return Err(ApiError::transport("connection timed out"));
        }
        if self.faults.request_lost() {
            return Err(ApiError::transport("connection reset by peer"));
        }
        let up: Vec<Running> = self.servers.iter().filter_map(Server::running).collect();
        let Some(server) = self.faults.pick(&up).cloned() else {
            return Err(ApiError::transport("connection refused"));
        };
        let direct = Direct::new(server.api.clone(), self.identity.clone());
        Ok((server, direct))
    }

    async fn answered<T>(
        &self,
        server: &Running,
        call: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let answer = tokio::select! {
            biased;
            () = self.killed.cancelled() => std::future::pending().await,
            () = server.died.cancelled() => Err(ApiError::transport("connection reset by peer")),
            answer = call => answer,
        };
        self.faults.pause().await;
        if self.killed.is_cancelled() {
            std::future::pending::<()>().await;
        }
        if self.faults.answer_lost() || self.cut_off() {
            return Err(ApiError::transport("connection reset by peer"));
        }
        answer
    }
}

#[async_trait]
impl Transport for Wire {
    async fn call(&self, request: Request) -> Result<Bytes, ApiError> {
        let (server, direct) = self.reach().await?;
        self.answered(&server, direct.call(request)).await
    }

    async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: ListOptions,
    ) -> Result<List, ApiError> {
        let (server, direct) = self.reach().await?;
        self.answered(&server, direct.list(resource, namespace, options)).await
    }

    async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        let (server, direct) = self.reach().await?;
        let stream = self.answered(&server, direct.watch(resource, namespace, options)).await?;
        let faults = self.faults.clone();
        let (killed, partitioned) = (self.killed.clone(), self.partitioned.clone());
        let late = stream.then(move |event| {
            let (faults, killed, partitioned) = (faults.clone(), killed.clone(), partitioned.clone());
            async move {
                faults.lag().await;
                if killed.is_cancelled() {
                    std::future::pending::<()>().await;
                }
                let cut = faults.watch_cut() || partitioned.load(std::sync::atomic::Ordering::Relaxed);
                if cut { Err(ApiError::transport("connection reset by peer")) } else { event }
            }
        });
        let died = server.died;
        let reset = futures::stream::iter([Err(ApiError::transport("connection reset by peer"))]);
        Ok(late.take_until(died.cancelled_owned()).chain(reset).boxed())
    }

    async fn discover(&self) -> Result<Discovered, ApiError> {
        let (server, direct) = self.reach().await?;
        self.answered(&server, direct.discover()).await
    }
}
