//! ServiceAddresses: a service gets its cluster address and node ports, each of which one service has.
//!
//! The books are kept in memory, made from the stored services at the first use and followed write by write.
//! NOTE: several apiservers over one store keep books of their own; two may hand out the same address.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::Resource;
use k8s_openapi::api::core::v1::Service;
use parking_lot::Mutex;

use super::{Attributes, Operation, Plugin, Reserved};
use crate::api::Api;
use crate::field_error::Errors;
use crate::kinds::{Reservation, ServiceAllocator};
use crate::object::ApiObject;

/// Where nothing else is said; as kubeadm's.
pub const DEFAULT_CIDR: &str = "10.96.0.0/12";

pub struct ServiceAddresses {
    books: Arc<Mutex<Books>>,
}

struct Books {
    allocator: ServiceAllocator,
    /// The stored services are in.
    complete: bool,
}

struct Taken {
    books: Arc<Mutex<Books>>,
    reservation: Option<Reservation>,
    new: Service,
    old: Option<Service>,
}

impl ServiceAddresses {
    pub fn new(allocator: ServiceAllocator) -> Self {
        Self { books: Arc::new(Mutex::new(Books { allocator, complete: false })) }
    }
}

impl Books {
    fn complete(&mut self, api: &Api) {
        if std::mem::replace(&mut self.complete, true) {
            return;
        }
        let Ok(kind) = api.kind(&Resource::of::<Service>()) else { return };
        let page = kind.cache.list(&Default::default(), None, None, None, 0).unwrap_or_default();
        let services: Vec<Service> = page.objects.iter().filter_map(|o| o.decode().ok()).collect();
        self.allocator.rebuild(&services);
    }
}

impl Reserved for Taken {
    fn confirm(mut self: Box<Self>) {
        self.reservation = None;
        if let Some(old) = &self.old {
            self.books.lock().allocator.settle(old, &self.new);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(reservation) = &self.reservation {
            self.books.lock().allocator.undo(reservation);
        }
    }
}

#[async_trait]
impl Plugin for ServiceAddresses {
    fn name(&self) -> &'static str {
        "ServiceAddresses"
    }

    fn reserve(
        &self,
        attributes: &Attributes<'_>,
        object: &mut dyn ApiObject,
    ) -> Result<Option<Box<dyn Reserved>>, Errors> {
        if attributes.operation == Operation::Delete || attributes.call.subresource.is_some() {
            return Ok(None);
        }
        let Some(service) = object.as_any_mut().downcast_mut::<Service>() else { return Ok(None) };
        let old = attributes.old.and_then(|old| old.as_any().downcast_ref::<Service>()).cloned();
        let reservation = {
            let mut books = self.books.lock();
            books.complete(&attributes.call.api);
            books.allocator.allocate(service)?
        };
        let books = self.books.clone();
        Ok(Some(Box::new(Taken { books, reservation: Some(reservation), new: service.clone(), old })))
    }

    fn removed(&self, object: &dyn ApiObject) {
        if let Some(service) = object.as_any().downcast_ref::<Service>() {
            self.books.lock().allocator.release(service);
        }
    }
}
