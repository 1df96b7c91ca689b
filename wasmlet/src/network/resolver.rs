//! Name resolution for guests: what answers an absolute name, and which names a pod's search list makes of one.

use std::net::IpAddr;

use async_trait::async_trait;

/// Which addresses of a name a pod can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    V4,
    Both,
}

/// Answers one absolute name (no trailing dot) with its addresses. A pod's search list is applied before this, by
/// [`SearchList`].
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    async fn resolve(&self, name: &str, families: Families) -> Result<Vec<IpAddr>, ResolveError>;
}

/// One name's answers, of two questions: what one of them found is the answer, whatever became of the other.
pub fn joined(
    four: Result<Vec<IpAddr>, ResolveError>,
    six: Result<Vec<IpAddr>, ResolveError>,
) -> Result<Vec<IpAddr>, ResolveError> {
    match (four, six) {
        (Ok(four), Ok(six)) => Ok(four.into_iter().chain(six).collect()),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
        // A name that is not there for one family may be there for the other, whose server did not answer.
        (Err(ResolveError::NotFound(_)), Err(other)) | (Err(other), Err(_)) => Err(other),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("name {0} does not exist")]
    NotFound(String),
    #[error("{0:?} is not a name")]
    InvalidName(String),
    /// The pod may not connect to it.
    #[error("the pod's allowed outbound hosts do not include {0}")]
    Denied(String),
    /// Worth another try: no server answered, or it failed.
    #[error("name {name}: {reason}")]
    Temporary { name: String, reason: String },
}

/// Knows no name: for tests.
#[cfg(test)]
pub(crate) struct NoNames;

#[cfg(test)]
#[async_trait]
impl Resolver for NoNames {
    async fn resolve(&self, name: &str, _: Families) -> Result<Vec<IpAddr>, ResolveError> {
        Err(ResolveError::NotFound(name.to_owned()))
    }
}

/// A pod's `resolv.conf`: which suffixes are tried, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchList {
    pub suffixes: Vec<String>,
    /// A name with at least this many dots is tried as it stands first.
    pub ndots: u8,
}

impl Default for SearchList {
    /// The name as it stands.
    fn default() -> Self {
        SearchList { suffixes: Vec::new(), ndots: 1 }
    }
}

impl SearchList {
    /// `dnsPolicy: ClusterFirst` as the kubelet writes it.
    pub fn cluster_first(namespace: &str, cluster_domain: &str) -> Self {
        SearchList {
            suffixes: vec![
                format!("{namespace}.svc.{cluster_domain}"),
                format!("svc.{cluster_domain}"),
                cluster_domain.to_owned(),
            ],
            ndots: 5,
        }
    }

    /// The absolute names to ask for, in order.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let searched = self.suffixes.iter().map(|suffix| format!("{name}.{suffix}"));
        let dots = name.bytes().filter(|b| *b == b'.').count();
        if dots >= usize::from(self.ndots) {
            std::iter::once(name.to_owned()).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(name.to_owned())).collect()
        }
    }
}

/// The RFC 1123 shape of a name, with underscores let through (SRV-style names are common in clusters).
pub(crate) fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_two_families_are_one() {
        let (four, six): (IpAddr, IpAddr) = ("10.1.1.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let gone = || Err(ResolveError::NotFound("a".into()));
        let failed = || Err(ResolveError::Temporary { name: "a".into(), reason: "x".into() });
        for (a, b, want) in [
            (Ok(vec![four]), Ok(vec![six]), Ok(vec![four, six])),
            (gone(), Ok(vec![six]), Ok(vec![six])),
            (Ok(vec![four]), failed(), Ok(vec![four])),
            (gone(), failed(), failed()),
            (failed(), gone(), failed()),
            (gone(), gone(), gone()),
        ] {
            assert_eq!(joined(a, b), want);
        }
    }

    #[test]
    fn search_order() {
        let list = SearchList::cluster_first("shop", "cluster.local");
        assert_eq!(
            list.candidates("db"),
            ["db.shop.svc.cluster.local", "db.svc.cluster.local", "db.cluster.local", "db"]
        );
        assert_eq!(list.candidates("db.").as_slice(), ["db"]);
        assert_eq!(list.candidates("a.b.c.d.e.f")[0], "a.b.c.d.e.f");
        assert_eq!(list.candidates("a.b.c.d.e")[0], "a.b.c.d.e.shop.svc.cluster.local");
        assert_eq!(SearchList::default().candidates("db"), ["db"]);
    }

    #[test]
    fn names() {
        for good in ["a", "a.b", "a.b.", "_http._tcp.svc", "xn--bcher-kva.example"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", ".", "a..b", "a b", "a\0b", "ä.de", long.as_str()] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
