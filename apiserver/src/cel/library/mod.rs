//! The functions that Kubernetes' expressions can call, library by library.

mod standard;
pub(super) mod conversions;
pub(super) mod time;
mod strings;
pub(super) mod text_format;
mod lists;
mod optionals;
pub(super) mod patterns;
mod urls;
mod quantities;
mod addresses;
mod formats;
mod semvers;
mod authorizers;

use std::sync::Arc;

use super::functions::Functions;

/// Declares all functions of all libraries.
pub(super) fn declare(functions: &mut Functions) {
    standard::declare(functions);
    conversions::declare(functions);
    time::declare(functions);
    strings::declare(functions);
    lists::declare(functions);
    optionals::declare(functions);
    patterns::declare(functions);
    urls::declare(functions);
    quantities::declare(functions);
    addresses::declare(functions);
    formats::declare(functions);
    semvers::declare(functions);
    authorizers::declare(functions);
}

/// A value that only the functions of its library know.
#[derive(Clone, Debug, PartialEq)]
pub enum Opaque {
    #[doc(hidden)]
    Quantity(quantities::Quantity),
    #[doc(hidden)]
    Url(Arc<urls::Url>),
    #[doc(hidden)]
    Semver(Arc<semvers::Semver>),
    #[doc(hidden)]
    Ip(std::net::IpAddr),
    #[doc(hidden)]
    Cidr(addresses::Cidr),
    #[doc(hidden)]
    Format(&'static formats::Format),
}

impl Opaque {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Url(_) => "kubernetes.URL",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Ip(_) => "net.IP",
            Opaque::Cidr(_) => "net.CIDR",
            Opaque::Format(_) => "kubernetes.NamedFormat",
        }
    }

    /// What functions that read the value pay for it.
    pub(super) fn size(&self) -> u64 {
        match self {
            Opaque::Ip(std::net::IpAddr::V4(_)) => 4,
            Opaque::Ip(std::net::IpAddr::V6(_)) => 16,
            Opaque::Cidr(cidr) => u64::from(cidr.length.div_ceil(8)),
            _ => 1,
        }
    }
}
