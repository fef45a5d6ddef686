//! Kubeconfig files with everything inside, so that they can be copied.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Credential;

/// A kubeconfig of one cluster, one user and one context, all of the same name.
pub fn text(name: &str, server: &str, ca_pem: &str, credential: &Credential) -> String {
    let ca = STANDARD.encode(ca_pem);
    let certificate = STANDARD.encode(credential.certificate_pem());
    let key = STANDARD.encode(credential.key_pem());
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {name}
current-context: {name}
users:
- name: {name}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
"
    )
}
