//! A container's environment: its own variables, what it takes from config maps and secrets, and services.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Secret, Service};

use super::downward::{Downward, field, resource_field};
use super::{ConfigError, expand, namespace, spec};

/// What variables are made from.
#[derive(Debug, Clone, Copy)]
pub struct EnvSources<'a> {
    /// The pod and its place.
    pub downward: Downward<'a>,
    /// The config maps that it mentions and that exist.
    pub config_maps: &'a BTreeMap<String, Arc<ConfigMap>>,
    /// The secrets that it mentions and that exist.
    pub secrets: &'a BTreeMap<String, Arc<Secret>>,
    /// Services of its namespace, and `default/kubernetes`.
    pub services: &'a [Arc<Service>],
}

/// All variables, in order.
///
/// # Errors
/// A config map, secret or key is missing and not optional.
pub fn environment(
    sources: &EnvSources<'_>,
    container: &Container,
) -> Result<Vec<(String, String)>, ConfigError> {
    let services = service_variables(sources);
    let mut known = BTreeMap::new();
    let mut ordered: Vec<(String, String)> = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (key, value) in from_source(sources, source)? {
            let name = format!("{prefix}{key}");
            known.insert(name.clone(), value.clone());
            set(&mut ordered, name, value);
        }
    }
    for variable in container.env.iter().flatten() {
        let Some(value) = value_of(sources, container, variable, &known, &services)? else { continue };
        known.insert(variable.name.clone(), value.clone());
        set(&mut ordered, variable.name.clone(), value);
    }
    let unset: Vec<_> = services.into_iter().filter(|(name, _)| !known.contains_key(name)).collect();
    ordered.extend(unset);
    Ok(ordered)
}

/// The last one of a name counts, at the place of the first.
fn set(ordered: &mut Vec<(String, String)>, name: String, value: String) {
    match ordered.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => ordered.push((name, value)),
    }
}

fn value_of(
    sources: &EnvSources<'_>,
    container: &Container,
    variable: &EnvVar,
    known: &BTreeMap<String, String>,
    services: &BTreeMap<String, String>,
) -> Result<Option<String>, ConfigError> {
    if let Some(value) = variable.value.as_deref().filter(|value| !value.is_empty()) {
        let lookup = |name: &str| known.get(name).or_else(|| services.get(name)).cloned();
        return Ok(Some(expand(value, lookup)));
    }
    match &variable.value_from {
        Some(source) => referenced(sources, container, source),
        None => Ok(Some(String::new())),
    }
}

fn referenced(
    sources: &EnvSources<'_>,
    container: &Container,
    source: &EnvVarSource,
) -> Result<Option<String>, ConfigError> {
    let pod = sources.downward.pod;
    let place = namespace(pod);
    if let Some(reference) = &source.field_ref {
        return field(&sources.downward, &reference.field_path).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return resource_field(&sources.downward, &container.name, reference).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(found) = sources.config_maps.get(&reference.name) else {
            return missing(optional, || format!("configmap {:?} not found", reference.name));
        };
        let value = found.data.as_ref().and_then(|data| data.get(&reference.key)).cloned();
        return match value {
            Some(value) => Ok(Some(value)),
            None => missing(optional, || {
                format!("couldn't find key {} in ConfigMap {place}/{}", reference.key, reference.name)
            }),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(found) = sources.secrets.get(&reference.name) else {
            return missing(optional, || format!("secret {:?} not found", reference.name));
        };
        let value = found.data.as_ref().and_then(|data| data.get(&reference.key));
        return match value {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => missing(optional, || {
                format!("couldn't find key {} in Secret {place}/{}", reference.key, reference.name)
            }),
        };
    }
    Ok(None)
}

fn missing<T>(optional: bool, message: impl FnOnce() -> String) -> Result<Option<T>, ConfigError> {
    if optional { Ok(None) } else { Err(ConfigError::new(message())) }
}

fn from_source(
    sources: &EnvSources<'_>,
    source: &k8s_openapi::api::core::v1::EnvFromSource,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut found = BTreeMap::new();
    if let Some(reference) = &source.config_map_ref {
        match sources.config_maps.get(&reference.name) {
            Some(map) => found.extend(map.data.clone().unwrap_or_default()),
            None if reference.optional.unwrap_or(false) => {}
            None => return Err(ConfigError::new(format!("configmap {:?} not found", reference.name))),
        }
    }
    if let Some(reference) = &source.secret_ref {
        match sources.secrets.get(&reference.name) {
            Some(secret) => {
                let data = secret.data.iter().flatten();
                found.extend(
                    data.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned())),
                );
            }
            None if reference.optional.unwrap_or(false) => {}
            None => return Err(ConfigError::new(format!("secret {:?} not found", reference.name))),
        }
    }
    Ok(found)
}

/// `NAME_SERVICE_HOST` and its kin.
#[must_use]
pub fn service_variables(sources: &EnvSources<'_>) -> BTreeMap<String, String> {
    let pod = sources.downward.pod;
    let links = spec(pod).enable_service_links.unwrap_or(true);
    let mut variables = BTreeMap::new();
    let is_own = |service: &&Arc<Service>| service.metadata.namespace.as_deref() == Some(namespace(pod));
    let is_master = |service: &&Arc<Service>| {
        service.metadata.namespace.as_deref() == Some("default")
            && service.metadata.name.as_deref() == Some("kubernetes")
    };
    // The pod's own namespace comes last, so that it wins.
    for service in sources.services.iter().filter(is_master) {
        add_service(service, &mut variables);
    }
    if links {
        for service in sources.services.iter().filter(is_own) {
            add_service(service, &mut variables);
        }
    }
    variables
}

fn add_service(service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(found) = &service.spec else { return };
    let address = found.cluster_ip.as_deref().unwrap_or_default();
    let ports = found.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first().filter(|_| !address.is_empty() && address != "None") else { return };
    let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    let joined = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let protocol = |port: &k8s_openapi::api::core::v1::ServicePort| {
        port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())
    };
    let mut add = |name: String, value: String| variables.insert(name, value);
    add(format!("{name}_SERVICE_HOST"), address.to_owned());
    add(format!("{name}_SERVICE_PORT"), first.port.to_string());
    let url = format!("{}://{joined}:{}", protocol(first).to_lowercase(), first.port);
    add(format!("{name}_PORT"), url);
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            add(format!("{name}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string());
        }
        let protocol = protocol(port);
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        add(prefix.clone(), format!("{}://{joined}:{}", protocol.to_lowercase(), port.port));
        add(format!("{prefix}_PROTO"), protocol.to_lowercase());
        add(format!("{prefix}_PORT"), port.port.to_string());
        add(format!("{prefix}_ADDR"), address.to_owned());
    }
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}
