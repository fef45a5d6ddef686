//! What the ConfigMap of a namespace lacks. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::informers::ROOT_CA;

/// The key that pods mount.
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIBED: &str = "Certificate authority by which pods verify the API server at its address inside the cluster. \
                         It says nothing about other servers.";

/// What to do in a namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// All is well, or the namespace takes nothing.
    Nothing,
    /// There is none.
    Create(ConfigMap),
    /// There is one that says something else.
    Repair(ConfigMap),
}

/// Decides for one namespace.
pub fn plan(namespace: Option<&Namespace>, known: Option<&ConfigMap>, authority: &str) -> Action {
    let Some(namespace) = namespace.filter(|namespace| namespace.metadata.deletion_timestamp.is_none())
    else {
        return Action::Nothing;
    };
    let data = BTreeMap::from([(KEY.to_owned(), authority.to_owned())]);
    let description = (DESCRIPTION.to_owned(), DESCRIBED.to_owned());
    let Some(known) = known else {
        return Action::Create(ConfigMap {
            metadata: ObjectMeta {
                name: Some(ROOT_CA.to_owned()),
                namespace: namespace.metadata.name.clone(),
                annotations: Some(BTreeMap::from([description])),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        });
    };
    let mut repaired = known.clone();
    repaired.data = Some(data);
    repaired.binary_data = None;
    repaired.metadata.annotations.get_or_insert_default().entry(description.0).or_insert(description.1);
    if repaired == *known { Action::Nothing } else { Action::Repair(repaired) }
}
