//! The cluster's certificate authority, its certificates, and the kubeconfigs that carry them.
//!
//! A user of Kubernetes is whoever shows a certificate of the CA: the common name is the user, the organisation a
//! group. So a case gets a user with exactly the permissions it wants by a certificate and a RoleBinding.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use crate::layout::{API_PORT, NODE_V4};
use crate::{Error, run};

/// The CA, with its key in a folder that only root can enter.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    key: String,
}

/// A certificate and its key, both PEM.
#[derive(Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// Makes a new CA and writes it to `folder` as ca.crt and ca.key.
    pub fn create(folder: &Path) -> Result<Self, Error> {
        let failed = failed("ca");
        let key = KeyPair::generate().map_err(&failed)?;
        let certificate = ca_params().self_signed(&key).map_err(&failed)?;
        let authority = Self { certificate: certificate.pem(), key: key.serialize_pem() };
        run::write(&folder.join("ca.crt"), &authority.certificate)?;
        run::write_mode(&folder.join("ca.key"), &authority.key, 0o600)?;
        Ok(authority)
    }

    /// Reads the CA that [`Authority::create`] wrote.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let read = |name| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(Error::file("read", path))
        };
        Ok(Self { certificate: read("ca.crt")?, key: read("ca.key")? })
    }

    /// A certificate for a user (`group` may be empty) or, with `names` (addresses too), for a server.
    pub fn issue(&self, user: &str, group: &str, names: &[&str]) -> Result<Identity, Error> {
        let failed = failed(user);
        let ca_key = KeyPair::from_pem(&self.key).map_err(&failed)?;
        let issuer = Issuer::new(ca_params(), ca_key);
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(&failed)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(&failed)?;
        let certificate = params.signed_by(&key, &issuer).map_err(&failed)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Issues and writes `NAME.crt` and `NAME.key`.
    pub fn install(&self, folder: &Path, name: &str, identity: &Identity) -> Result<(), Error> {
        run::write(&folder.join(format!("{name}.crt")), &identity.certificate)?;
        run::write_mode(&folder.join(format!("{name}.key")), &identity.key, 0o600)
    }

    /// A kubeconfig with everything in it; its one context, cluster and user are called `tp-test`.
    pub fn kubeconfig(&self, identity: &Identity, namespace: &str) -> String {
        let encode = |pem: &str| STANDARD.encode(pem);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tp-test", "cluster": {
                "server": format!("https://{NODE_V4}:{API_PORT}"),
                "certificate-authority-data": encode(&self.certificate),
            }}],
            "users": [{"name": "tp-test", "user": {
                "client-certificate-data": encode(&identity.certificate),
                "client-key-data": encode(&identity.key),
            }}],
            "contexts": [{"name": "tp-test", "context": {
                "cluster": "tp-test", "user": "tp-test", "namespace": namespace,
            }}],
            "current-context": "tp-test",
        });
        format!("{config:#}\n")
    }
}

/// The key that signs service-account tokens, as sa.key and sa.pub.
pub fn create_token_key(folder: &Path) -> Result<(), Error> {
    let key = KeyPair::generate().map_err(failed("service-account key"))?;
    run::write_mode(&folder.join("sa.key"), key.serialize_pem(), 0o600)?;
    run::write(&folder.join("sa.pub"), key.public_key_pem())
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "tp-test-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn failed(name: &str) -> impl Fn(rcgen::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::Certificate { name: name.clone(), source }
}
