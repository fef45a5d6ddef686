//! What somebody asks for, read from the PKCS #10 request, and whether it is what its signer issues. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::{API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING};

/// The group of nodes.
pub const NODES: &str = "system:nodes";
/// What the names of nodes' users begin with.
pub const NODE_USER: &str = "system:node:";

/// The contents of a request whose signature was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The user's name.
    pub common_name: String,
    /// The user's groups.
    pub organizations: Vec<String>,
    /// Host names of a server.
    pub dns_names: BTreeSet<String>,
    /// Addresses of a server.
    pub addresses: BTreeSet<IpAddr>,
    /// There are names of other kinds: mail, URIs.
    pub has_other_names: bool,
    /// The name as it was sent, DER.
    pub subject: Vec<u8>,
    /// The public key as it was sent, DER.
    pub public_key: Vec<u8>,
    /// The alternative names as they were sent, DER, and whether they are critical.
    pub alternatives: Option<(Vec<u8>, bool)>,
}

/// Reads the request; why it cannot be used otherwise.
pub fn parse(pem_bytes: &[u8]) -> Result<Asked, String> {
    let block = pem::parse(pem_bytes).map_err(|error| error.to_string())?;
    if block.tag() != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    let (_, request) =
        X509CertificationRequest::from_der(block.contents()).map_err(|error| error.to_string())?;
    request
        .verify_signature()
        .map_err(|error| format!("the request is not signed by its own key: {error}"))?;
    let info = &request.certification_request_info;
    let text = |name: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        name.as_str().map(str::to_owned).map_err(|error| error.to_string())
    };
    let mut asked = Asked {
        subject: info.subject.as_raw().to_vec(),
        public_key: info.subject_pki.raw.to_vec(),
        organizations: info.subject.iter_organization().map(text).collect::<Result<_, _>>()?,
        ..Asked::default()
    };
    if let Some(name) = info.subject.iter_common_name().next() {
        asked.common_name = text(name)?;
    }
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(extensions) = attribute.parsed_attribute() else { continue };
        for extension in &extensions.extensions {
            if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                asked.alternatives = Some((extension.value.to_vec(), extension.critical));
                names.general_names.iter().for_each(|name| asked.add(name));
            }
        }
    }
    Ok(asked)
}

impl Asked {
    fn add(&mut self, name: &GeneralName<'_>) {
        let address = |bytes: &[u8]| match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        };
        match name {
            GeneralName::DNSName(name) => {
                self.dns_names.insert((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => {
                    self.addresses.insert(address);
                }
                None => self.has_other_names = true,
            },
            _ => self.has_other_names = true,
        }
    }

    /// The node whose name this is.
    pub fn node(&self) -> Option<&str> {
        self.common_name.strip_prefix(NODE_USER).filter(|name| !name.is_empty())
    }

    fn node_subject(&self) -> Result<(), String> {
        if self.organizations != [NODES] {
            return Err(format!("organization must be exactly {NODES}"));
        }
        match self.node() {
            Some(_) => Ok(()),
            None => Err(format!("subject common name must begin with {NODE_USER}")),
        }
    }

    /// Whether a signer issues this for these usages; why not otherwise.
    pub fn fits(&self, signer: &str, usages: &[String]) -> Result<(), String> {
        let usages: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
        let exactly = |last: &'static str| {
            let few = BTreeSet::from(["digital signature", last]);
            let many = BTreeSet::from(["digital signature", "key encipherment", last]);
            usages == few || usages == many
        };
        match signer {
            KUBELET_CLIENT => {
                self.node_subject()?;
                if !self.dns_names.is_empty() || !self.addresses.is_empty() || self.has_other_names {
                    return Err("subject alternative names are not allowed".to_owned());
                }
                if exactly("client auth") { Ok(()) } else { Err("usages did not match".to_owned()) }
            }
            KUBELET_SERVING => {
                self.node_subject()?;
                if self.has_other_names {
                    return Err(
                        "only DNS names and IP addresses are allowed as subject alternative names".to_owned()
                    );
                }
                if self.dns_names.is_empty() && self.addresses.is_empty() {
                    return Err("at least one DNS name or IP address is required".to_owned());
                }
                if exactly("server auth") { Ok(()) } else { Err("usages did not match".to_owned()) }
            }
            API_CLIENT => {
                let allowed = ["client auth", "digital signature", "key encipherment"];
                let good =
                    usages.contains("client auth") && usages.iter().all(|usage| allowed.contains(usage));
                if good { Ok(()) } else { Err("usages did not match".to_owned()) }
            }
            _ => Err(format!("{signer} is not signed here")),
        }
    }
}

/// The usages of a request.
pub fn usages(request: &CertificateSigningRequest) -> Vec<String> {
    request.spec.usages.clone().unwrap_or_default()
}
