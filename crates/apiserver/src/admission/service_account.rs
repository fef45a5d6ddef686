//! ServiceAccount: every pod runs as one, is given its token, and may be held to the secrets that it lists.

use std::sync::Arc;
use std::time::Duration;

use api_machinery::entropy::Entropy;
use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::{Value, json};

use super::{created, forbidden, is, list_mut};
use crate::references::{self, CONTAINERS, items, text};
use crate::types::{AdmissionRequest, Lookup, Operation};

const DEFAULT: &str = "default";
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// One hour, and seven seconds by which upstream tells such tokens from others.
const SECONDS: i64 = 3607;
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
/// The default account of a new namespace is made by a controller; a pod may be faster.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Gives a new pod its account and what comes with it.
pub async fn admit(
    lookup: &dyn Lookup,
    entropy: &Entropy,
    request: &mut AdmissionRequest<'_>,
) -> Result<(), ApiError> {
    let namespace = request.info.namespace.clone();
    let Some(pod) = created(request, "pods") else { return Ok(()) };
    if references::is_mirror(pod) || !pod["spec"].is_object() {
        return Ok(());
    }
    let spec = &mut pod["spec"];
    if text(spec, "/serviceAccountName").is_empty() {
        let old = text(spec, "/serviceAccount");
        let name = if old.is_empty() { DEFAULT } else { old }.to_owned();
        spec["serviceAccount"] = name.as_str().into();
        spec["serviceAccountName"] = name.into();
    }
    let name = text(spec, "/serviceAccountName").to_owned();
    let Some(account) = find(lookup, &namespace, &name).await? else {
        return Err(missing(request, &namespace, &name));
    };
    let Some(pod) = created(request, "pods") else { return Ok(()) };
    let spec = &mut pod["spec"];
    let automount = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
    if automount(spec).or_else(|| automount(&account)).unwrap_or(true) {
        mount(spec, entropy);
    }
    let pull = account
        .get("imagePullSecrets")
        .filter(|secrets| secrets.as_array().is_some_and(|list| !list.is_empty()));
    if let Some(pull) = pull
        && items(spec, "imagePullSecrets").next().is_none()
    {
        spec["imagePullSecrets"] = pull.clone();
    }
    Ok(())
}

async fn find(lookup: &dyn Lookup, namespace: &str, name: &str) -> Result<Option<Arc<Value>>, ApiError> {
    for attempt in 0.. {
        let found = lookup.get("", "serviceaccounts", namespace, name).await?;
        if found.is_some() || name != DEFAULT || attempt == ATTEMPTS {
            return Ok(found);
        }
        // Bounded, and only for the account that is surely on its way.
        tokio::time::sleep(PAUSE).await;
    }
    Ok(None)
}

fn missing(request: &AdmissionRequest<'_>, namespace: &str, name: &str) -> ApiError {
    forbidden(
        request,
        format_args!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        ),
    )
}

/// Mounts the token, the cluster's CA and the namespace into every container that has nothing else there.
fn mount(spec: &mut Value, entropy: &Entropy) {
    let existing =
        items(spec, "volumes").map(|volume| text(volume, "/name")).find(|name| name.starts_with(VOLUME));
    let (name, is_new) = match existing {
        Some(name) => (name.to_owned(), false),
        None => (format!("{VOLUME}{}", entropy.suffix(5)), true),
    };
    let mut used = false;
    for field in &CONTAINERS[..2] {
        let containers = spec.get_mut(*field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if items(container, "volumeMounts").any(|mount| text(mount, "/mountPath") == MOUNT) {
                continue;
            }
            if let Some(mounts) = list_mut(container, "volumeMounts") {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
                used = true;
            }
        }
    }
    if is_new
        && used
        && let Some(volumes) = list_mut(spec, "volumes")
    {
        volumes.push(volume(&name));
    }
}

fn volume(name: &str) -> Value {
    let namespace =
        json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]}})
}

/// Holds pods to the secrets of their account where that is asked for, and mirror pods to none at all.
pub async fn check(lookup: &dyn Lookup, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let creates = request.operation == Operation::Create && is(request, "pods", "");
    let late = request.operation == Operation::Update && is(request, "pods", "ephemeralcontainers");
    let Some(pod) = request.object.as_deref().filter(|_| creates || late) else { return Ok(()) };
    if creates && references::is_mirror(pod) {
        return mirror(request, pod);
    }
    let name = text(pod, "/spec/serviceAccountName");
    let Some(account) = lookup.get("", "serviceaccounts", &request.info.namespace, name).await? else {
        return if late { Ok(()) } else { Err(missing(request, &request.info.namespace, name)) };
    };
    // `strconv.ParseBool` of upstream.
    let enforced =
        matches!(meta::annotation(&account, ENFORCE), Some("1" | "t" | "T" | "true" | "TRUE" | "True"));
    if !enforced {
        return Ok(());
    }
    let refused =
        if late { refused_environment(&account, pod, &CONTAINERS[2..]) } else { refused(&account, pod) };
    refused.map_or(Ok(()), |why| Err(forbidden(request, why)))
}

fn mirror(request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), ApiError> {
    let projects_token = items(references::spec(pod), "volumes").any(|volume| {
        volume.get("projected").is_some_and(|projected| {
            items(projected, "sources").any(|source| source.get("serviceAccountToken").is_some())
        })
    });
    let why = if !text(pod, "/spec/serviceAccountName").is_empty() {
        "a mirror pod may not reference service accounts"
    } else if !references::secrets(pod).is_empty() {
        "a mirror pod may not reference secrets"
    } else if projects_token {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(forbidden(request, why))
}

fn lists(account: &Value, field: &str, secret: &str) -> bool {
    items(account, field).any(|entry| text(entry, "/name") == secret)
}

/// The first secret that the account does not list, as an error.
fn refused(account: &Value, pod: &Value) -> Option<String> {
    let owner = meta::name(account);
    for volume in items(references::spec(pod), "volumes") {
        let secret = text(volume, "/secret/secretName");
        if !secret.is_empty() && !lists(account, "secrets", secret) {
            return Some(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {owner} does not reference that secret"
            ));
        }
        let sources = volume.get("projected").into_iter().flat_map(|projected| items(projected, "sources"));
        for secret in sources.map(|source| text(source, "/secret/name")) {
            if !secret.is_empty() && !lists(account, "secrets", secret) {
                return Some(format!(
                    "volume with projected secret {secret:?} is not allowed because service account {owner} does not reference that secret"
                ));
            }
        }
    }
    if let Some(why) = refused_environment(account, pod, &CONTAINERS) {
        return Some(why);
    }
    items(references::spec(pod), "imagePullSecrets").enumerate().find_map(|(index, secret)| {
        let secret = text(secret, "/name");
        (!lists(account, "imagePullSecrets", secret)).then(|| {
            format!(
                "imagePullSecrets[{index}].name={secret:?} is not allowed because service account {owner} does not reference that imagePullSecret"
            )
        })
    })
}

/// The same for the environment of containers.
fn refused_environment(account: &Value, pod: &Value, kinds: &[&str]) -> Option<String> {
    let owner = meta::name(account);
    let because = |secret: &str| {
        format!(
            "referencing secret.secretName={secret:?} is not allowed because service account {owner} does not reference that secret"
        )
    };
    for kind in kinds {
        let word = match *kind {
            "initContainers" => "init container",
            "ephemeralContainers" => "ephemeral container",
            _ => "container",
        };
        for container in items(references::spec(pod), kind) {
            let name = text(container, "/name");
            for variable in items(container, "env") {
                let secret = text(variable, "/valueFrom/secretKeyRef/name");
                if !secret.is_empty() && !lists(account, "secrets", secret) {
                    return Some(format!(
                        "{word} {name} with envVar {} {}",
                        text(variable, "/name"),
                        because(secret)
                    ));
                }
            }
            for source in items(container, "envFrom") {
                let secret = text(source, "/secretRef/name");
                if !secret.is_empty() && !lists(account, "secrets", secret) {
                    return Some(format!("{word} {name} with envFrom {}", because(secret)));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, Write, resource};
    use super::*;
    use api_machinery::resource::Scope;

    fn write(pod: Value) -> Write {
        Write::new(Operation::Create, resource("", "Pod", "pods", Scope::Namespaced), "a", Some(pod), None)
    }

    fn account(rest: Value) -> Arc<Objects> {
        let mut account = json!({"metadata": {"name": "default", "namespace": "a"}});
        for (key, value) in rest.as_object().into_iter().flatten() {
            account[key] = value.clone();
        }
        Objects::of(&[("", "serviceaccounts", account)])
    }

    #[tokio::test]
    async fn the_token_is_mounted() {
        let lookup = account(json!({"imagePullSecrets": [{"name": "pull"}]}));
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "c"}, {"name": "own", "volumeMounts": [{"name": "x", "mountPath": MOUNT}]}],
        }});
        let mut write = write(pod);
        admit(&*lookup, &Entropy::seeded(1), &mut write.request()).await.expect("admitted");
        let pod = write.object.expect("still there");
        let spec = &pod["spec"];
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["imagePullSecrets"][0]["name"], "pull");
        let name = text(spec, "/volumes/0/name");
        assert!(name.starts_with(VOLUME) && name.len() == VOLUME.len() + 5, "{name}");
        assert_eq!(
            spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
            3607
        );
        for path in ["/initContainers/0/volumeMounts/0/name", "/containers/0/volumeMounts/0/name"] {
            assert_eq!(text(spec, path), name);
        }
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().map(Vec::len), Some(1));
    }

    #[tokio::test]
    async fn or_not() {
        let table = [
            (json!({"automountServiceAccountToken": false}), json!({}), false),
            (
                json!({"automountServiceAccountToken": false}),
                json!({"automountServiceAccountToken": true}),
                true,
            ),
            (json!({}), json!({"automountServiceAccountToken": false}), false),
        ];
        for (of_account, of_pod, want) in table {
            let mut spec = json!({"containers": [{"name": "c"}]});
            spec.as_object_mut().expect("an object").extend(of_pod.as_object().cloned().expect("an object"));
            let mut write = write(json!({"metadata": {"name": "p"}, "spec": spec}));
            admit(&*account(of_account), &Entropy::seeded(1), &mut write.request()).await.expect("admitted");
            assert_eq!(write.object.expect("still there")["spec"].get("volumes").is_some(), want);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_account() {
        for (name, seconds) in [("x", 0), ("default", 1)] {
            let start = tokio::time::Instant::now();
            let mut write = write(json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": name}}));
            let error = admit(&*Objects::of(&[]), &Entropy::seeded(1), &mut write.request())
                .await
                .expect_err("refused");
            let why = format!("error looking up service account a/{name}: serviceaccount {name:?} not found");
            assert_eq!(error.message(), format!("pods \"p\" is forbidden: {why}"));
            assert_eq!(start.elapsed().as_secs(), seconds);
        }
    }

    #[tokio::test]
    async fn secrets_that_the_account_does_not_list() {
        let lookup = account(json!({
            "metadata": {"name": "default", "namespace": "a", "annotations": {ENFORCE: "true"}},
            "secrets": [{"name": "ok"}],
        }));
        let env =
            |name: &str| json!([{"name": "V", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]);
        let table = [
            (
                json!({"volumes": [{"secret": {"secretName": "ok"}}], "containers": [{"name": "c", "env": env("ok")}]}),
                true,
            ),
            (json!({"volumes": [{"secret": {"secretName": "no"}}]}), false),
            (json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "no"}}]}}]}), false),
            (json!({"containers": [{"name": "c", "env": env("no")}]}), false),
            (json!({"initContainers": [{"name": "c", "env": env("no")}]}), false),
            (json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]}]}), false),
            (json!({"imagePullSecrets": [{"name": "no"}]}), false),
        ];
        for (mut spec, want) in table {
            spec["serviceAccountName"] = "default".into();
            let mut write = write(json!({"metadata": {"name": "p"}, "spec": spec}));
            let result = check(&*lookup, &write.request()).await;
            assert_eq!(result.is_ok(), want, "{:?}: {result:?}", write.object);
        }
        let late = json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "default",
            "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "no"}}]}],
        }});
        let pods = resource("", "Pod", "pods", Scope::Namespaced);
        let mut write = Write::new(Operation::Update, pods, "a", Some(late.clone()), Some(late))
            .to("ephemeralcontainers", "p");
        let error = check(&*lookup, &write.request()).await.expect_err("refused");
        assert!(error.message().contains("ephemeral container e with envFrom"), "{error}");
    }
}
