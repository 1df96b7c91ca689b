//! The cluster's keys and certificates: made on first start, kept under `<data>/pki`, renewed before they expire.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// A leaf with less life left than this is made anew at start.
const RENEW_BEFORE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Clocks of joining machines may lag.
const BACKDATE: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: not a usable certificate or key ({what}); restore it from a backup or remove the pki directory to make a new cluster identity", path.display())]
    Unusable { path: PathBuf, what: String },
    #[error("making a certificate: {0}")]
    Issue(#[from] rcgen::Error),
}

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// The cluster's certificate authority and what the server needs of it.
pub struct Pki {
    directory: PathBuf,
    ca: Pair,
    issuer: Issuer<'static, KeyPair>,
    /// The PKCS#8 key that signs service account tokens, PEM.
    service_account_key: String,
}

/// Who a client certificate is for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub user: &'a str,
    pub group: Option<&'a str>,
}

impl Pki {
    /// Reads the authority under `directory`, or makes it.
    pub fn open_or_create(directory: &Path) -> Result<Self, Error> {
        fs::create_dir_all(directory).map_err(|source| Error::File {
            action: "creating",
            path: directory.into(),
            source,
        })?;
        let ca = match read_pair(directory, "ca")? {
            Some(ca) => ca,
            // Another authority in its place would lock every node and administrator out.
            None if directory.join("ca.crt").exists() => {
                return Err(Error::Unusable { path: directory.join("ca.key"), what: "it is missing".into() });
            }
            None => {
                let ca = make_ca()?;
                write_pair(directory, "ca", &ca)?;
                ca
            }
        };
        let unusable = |name: &str, what: rcgen::Error| Error::Unusable {
            path: directory.join(name),
            what: what.to_string(),
        };
        let key = KeyPair::from_pem(&ca.key).map_err(|e| unusable("ca.key", e))?;
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate, key).map_err(|e| unusable("ca.crt", e))?;
        let service_account_key = match read(directory, "sa.key")? {
            Some(key) => key,
            None => {
                let key = KeyPair::generate()?.serialize_pem();
                write(directory, "sa.key", &key)?;
                key
            }
        };
        Ok(Self { directory: directory.into(), ca, issuer, service_account_key })
    }

    pub fn ca_certificate(&self) -> &str {
        &self.ca.certificate
    }

    pub fn ca_key(&self) -> &str {
        &self.ca.key
    }

    pub fn service_account_key(&self) -> &str {
        &self.service_account_key
    }

    /// Hex SHA-256 of the CA certificate (DER): what a join token pins.
    pub fn ca_hash(&self) -> Result<String, Error> {
        certificate_hash(&self.ca.certificate).ok_or_else(|| Error::Unusable {
            path: self.directory.join("ca.crt"),
            what: "no PEM certificate".into(),
        })
    }

    /// The server's certificate for those names and addresses; the one on disk while it covers them and is fresh.
    pub fn serving(&self, names: &[String], addresses: &[IpAddr]) -> Result<Pair, Error> {
        if let Some(pair) = read_pair(&self.directory, "apiserver")?
            && covers(&pair.certificate, names, addresses)
        {
            return Ok(pair);
        }
        let mut params = leaf("kube-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth);
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        let pair = self.issue(params)?;
        write_pair(&self.directory, "apiserver", &pair)?;
        Ok(pair)
    }

    /// A client certificate kept on disk under `name` and renewed in time.
    pub fn client(&self, name: &str, subject: Subject<'_>) -> Result<Pair, Error> {
        if let Some(pair) = read_pair(&self.directory, name)?
            && covers(&pair.certificate, &[], &[])
        {
            return Ok(pair);
        }
        let pair = self.issue(leaf(subject.user, subject.group, ExtendedKeyUsagePurpose::ClientAuth))?;
        write_pair(&self.directory, name, &pair)?;
        Ok(pair)
    }

    /// A serving certificate for a node in this process.
    pub fn node_serving(&self, node: &str, addresses: &[IpAddr]) -> Result<Pair, Error> {
        let user = format!("system:node:{node}");
        let mut params = leaf(&user, Some("system:nodes"), ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names.push(SanType::DnsName(node.try_into()?));
        params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        self.issue(params)
    }

    fn issue(&self, params: CertificateParams) -> Result<Pair, Error> {
        let key = KeyPair::generate()?;
        let certificate: Certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// Hex SHA-256 of the first certificate in a PEM text.
pub fn certificate_hash(pem: &str) -> Option<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    Some(hex(&Sha256::digest(&pem.contents)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn make_ca() -> Result<Pair, Error> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "coracle-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + CA_LIFE).into();
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn leaf(user: &str, group: Option<&str>, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + LEAF_LIFE).into();
    params
}

/// Whether the certificate lasts a while and names all of these.
fn covers(certificate: &str, names: &[String], addresses: &[IpAddr]) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()) else { return false };
    let Ok((_, parsed)) = X509Certificate::from_der(&pem.contents) else { return false };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let left = parsed.validity().not_after.timestamp().saturating_sub_unsigned(now);
    if left < i64::try_from(RENEW_BEFORE.as_secs()).unwrap_or(i64::MAX) {
        return false;
    }
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let has = |wanted: &dyn Fn(&x509_parser::extensions::GeneralName<'_>) -> bool| {
        alternatives.as_ref().is_some_and(|a| a.value.general_names.iter().any(wanted))
    };
    use x509_parser::extensions::GeneralName;
    names.iter().all(|n| has(&|g| matches!(g, GeneralName::DNSName(d) if d == n)))
        && addresses.iter().all(|a| {
            let octets = match a {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            };
            has(&|g| matches!(g, GeneralName::IPAddress(i) if *i == octets.as_slice()))
        })
}

fn read_pair(directory: &Path, name: &str) -> Result<Option<Pair>, Error> {
    let certificate = read(directory, &format!("{name}.crt"))?;
    let key = read(directory, &format!("{name}.key"))?;
    Ok(certificate.zip(key).map(|(certificate, key)| Pair { certificate, key }))
}

fn read(directory: &Path, file: &str) -> Result<Option<String>, Error> {
    let path = directory.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { action: "reading", path, source }),
    }
}

/// The key first: a crash between the two leaves a pair that is made again.
fn write_pair(directory: &Path, name: &str, pair: &Pair) -> Result<(), Error> {
    write(directory, &format!("{name}.key"), &pair.key)?;
    write(directory, &format!("{name}.crt"), &pair.certificate)
}

fn write(directory: &Path, file: &str, text: &str) -> Result<(), Error> {
    let path = directory.join(file);
    write_private(&path, text.as_bytes()).map_err(|source| Error::File { action: "writing", path, source })
}

/// Writes a file that only its owner reads, whole or not at all, also across a power cut.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(name);
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(directory)?.sync_all()
}

/// How often a running server should look whether a certificate is to be renewed.
pub const RENEWAL_CHECK: Duration = DAY;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_made_once_and_leaves_are_renewed_when_names_change() {
        let directory = tempfile::tempdir().unwrap();
        let first = Pki::open_or_create(directory.path()).unwrap();
        let again = Pki::open_or_create(directory.path()).unwrap();
        assert_eq!(first.ca_hash().unwrap(), again.ca_hash().unwrap());
        assert_eq!(first.ca_hash().unwrap().len(), 64);
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let names = ["localhost".to_owned()];
        let a = first.serving(&names, &[address]).unwrap();
        let b = again.serving(&names, &[address]).unwrap();
        assert_eq!(a.certificate, b.certificate);
        let c = again.serving(&names, &[address, "10.96.0.1".parse().unwrap()]).unwrap();
        assert_ne!(a.certificate, c.certificate);
        let key = directory.path().join("ca.key");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&key, "garbage").unwrap();
        let error = Pki::open_or_create(directory.path()).err().unwrap().to_string();
        assert!(error.contains("ca.key"), "{error}");
        fs::remove_file(&key).unwrap();
        let error = Pki::open_or_create(directory.path()).err().unwrap().to_string();
        assert!(error.contains("it is missing"), "{error}");
    }
}
