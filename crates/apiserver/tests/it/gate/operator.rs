//! An operator as others build them, on kube-rs: its own resource in two versions with rules and a conversion webhook, an
//! admission webhook, a controller with a finalizer that owns what it makes, over TLS and with no more rights than it needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use component::connect;
use futures::StreamExt;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Resource, ResourceExt};
use kube_runtime::Controller;
use kube_runtime::controller::Action;
use kube_runtime::finalizer::{Event, finalizer};
use kube_runtime::watcher;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::tunnels::Machine;
use super::{RBAC, admin};
use crate::fixture::PATIENCE;
use crate::kubelets::local;
use crate::webhooks::receiver::{Receiver, bundle};

const FINALIZER: &str = "example.org/astronomer";

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Failed(#[from] kube::Error);

/// What the operator works with.
struct Astronomer {
    moons: Api<DynamicObject>,
    charts: Api<ConfigMap>,
}

fn resource(version: &str) -> ApiResource {
    ApiResource {
        group: "example.org".into(),
        version: version.into(),
        api_version: format!("example.org/{version}"),
        kind: "Moon".into(),
        plural: "moons".into(),
    }
}

/// Makes of a moon what its user wants.
async fn observe(
    moon: Arc<DynamicObject>,
    own: Arc<Astronomer>,
) -> Result<Action, kube_runtime::finalizer::Error<Failed>> {
    let moons = own.moons.clone();
    finalizer(&moons, FINALIZER, moon, |event| async move {
        match event {
            Event::Apply(moon) => own.draw(&moon).await,
            Event::Cleanup(moon) => own.forget(&moon).await,
        }
    })
    .await
}

impl Astronomer {
    async fn draw(&self, moon: &DynamicObject) -> Result<Action, Failed> {
        let name = moon.name_any();
        let size = moon.data["diameter"].as_i64().unwrap_or_default();
        let owner = moon.controller_owner_ref(&resource("v2"));
        let chart = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("chart-{name}"), "ownerReferences": owner.map(|owner| vec![owner])},
            "data": {"size": size.to_string()}});
        let params = PatchParams::apply("astronomer").force();
        self.charts.patch(&format!("chart-{name}"), &params, &Patch::Apply(&chart)).await?;
        // It is not owned, and goes with the finalizer.
        let record =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("record-{name}")}});
        self.charts.patch(&format!("record-{name}"), &params, &Patch::Apply(&record)).await?;
        let status = json!({"apiVersion": "example.org/v2", "kind": "Moon", "status": {"drawn": size}});
        self.moons.patch_status(&name, &params, &Patch::Apply(&status)).await?;
        Ok(Action::await_change())
    }

    async fn forget(&self, moon: &DynamicObject) -> Result<Action, Failed> {
        match self.charts.delete(&format!("record-{}", moon.name_any()), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
        Ok(Action::await_change())
    }
}

/// What the operator's installation stores: its resource, its webhook and its rights.
async fn install(machine: &Machine, receiver: &Receiver) {
    let version = |name: &str, field: &str, stored: bool| {
        let fields = json!({field: {"type": "integer", "maximum": 1000},
            "note": {"type": "string", "maxLength": 64, "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "a note stays"}]},
            "status": {"type": "object", "properties": {"drawn": {"type": "integer"}}}});
        let rules = json!([{"rule": format!("self.{field} > 0"), "messageExpression": "'nothing is left of the ' + (has(self.note) ? self.note : 'moon')"}]);
        json!({"name": name, "served": true, "storage": stored, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": fields, "x-kubernetes-validations": rules}}})
    };
    let client = |path: &str| json!({"url": format!("https://{}/{path}", receiver.address), "caBundle": bundle(&receiver.authority)});
    let definition = json!({"metadata": {"name": "moons.example.org"}, "spec": {
        "group": "example.org", "scope": "Cluster", "names": {"plural": "moons", "kind": "Moon"},
        "versions": [version("v1", "radius", true), version("v2", "diameter", false)],
        "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client("convert"), "conversionReviewVersions": ["v1"]}},
    }});
    let rules = json!([{"operations": ["CREATE"], "apiGroups": ["example.org"], "apiVersions": ["v2"], "resources": ["moons"]}]);
    let hook = json!({"name": "label.example.org", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": client("label"), "rules": rules});
    let webhook = json!({"metadata": {"name": "astronomer"}, "webhooks": [hook]});
    let role = json!({"metadata": {"name": "astronomer"}, "rules": [
        {"apiGroups": ["example.org"], "resources": ["moons", "moons/status", "moons/finalizers"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]}]});
    let binding = json!({"metadata": {"name": "astronomer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "astronomer"},
        "subjects": [{"kind": "User", "name": "astronomer", "apiGroup": "rbac.authorization.k8s.io"}]});
    for (path, object) in [
        ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition),
        ("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", &webhook),
        (&format!("{RBAC}/clusterroles"), &role),
        (&format!("{RBAC}/clusterrolebindings"), &binding),
    ] {
        machine.cluster.must(&admin(), "POST", path, Some(object)).await;
    }
    machine.cluster.server.lookup().fresh().await.expect("a view that is not older");
}

/// A client of somebody, as the crate makes it: over TLS.
fn client(machine: &Machine, name: &str, group: &str) -> kube::Client {
    let identity = machine.identity(name, group, SignedDuration::from_hours(1));
    let authority = machine.cluster.pki.ca_certificate().as_bytes();
    connect::with_identity(&machine.url, authority, identity).expect("a client")
}

/// Waits until the config maps are these, by name and size.
async fn charts(user: &kube::Client, wanted: &[(&str, Option<&str>)]) {
    let api: Api<ConfigMap> = Api::namespaced(user.clone(), "default");
    let wanted: BTreeMap<String, Option<String>> =
        wanted.iter().map(|(name, size)| ((*name).to_owned(), size.map(str::to_owned))).collect();
    let mut last = BTreeMap::new();
    let looking = async {
        while last != wanted {
            let all = api.list(&ListParams::default()).await.expect("a list");
            let of = |map: ConfigMap| {
                let size = map.data.as_ref().and_then(|data| data.get("size").cloned());
                (map.name_any(), size)
            };
            last = all.items.into_iter().map(of).filter(|(name, _)| name != "kube-root-ca.crt").collect();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let looked = tokio::time::timeout(PATIENCE, looking).await;
    assert!(looked.is_ok(), "{last:?} and not {wanted:?}");
}

async fn refused(api: &Api<DynamicObject>, name: &str, patch: Value) -> String {
    let refused = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    refused.expect_err("it breaks a rule").to_string()
}

/// The operator, until it is told to stop; gives back what went wrong.
fn operate(machine: &Machine, stop: CancellationToken) -> impl Future<Output = Vec<String>> + use<> {
    let own = client(machine, "astronomer", "operators");
    let (moons, charts) = (Api::all_with(own.clone(), &resource("v2")), Api::namespaced(own, "default"));
    let context = Arc::new(Astronomer { moons: moons.clone(), charts: charts.clone() });
    let controller = Controller::new_with(moons, watcher::Config::default(), resource("v2"))
        .owns(charts, watcher::Config::default())
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(observe, |_, _, _| Action::requeue(Duration::from_millis(100)), context);
    controller.filter_map(|result| async move { result.err().map(|error| error.to_string()) }).collect()
}

#[tokio::test]
async fn an_operator_on_kube_rs_converges() {
    let (machine, receiver) = (Machine::start(local()).await, Receiver::start().await);
    install(&machine, &receiver).await;
    let stop = CancellationToken::new();
    let running = machine.tasks.spawn(operate(&machine, stop.clone()));
    let user = client(&machine, "user", "system:masters");
    let of = |version: &str| Api::<DynamicObject>::all_with(user.clone(), &resource(version));
    let (v1, v2) = (of("v1"), of("v2"));
    let moon = |version: &str, name: &str, field: &str, size: i64| {
        let mut moon = DynamicObject::new(name, &resource(version));
        moon.data = json!({field: size, "note": "first"});
        moon
    };
    v2.create(&PostParams::default(), &moon("v2", "io", "diameter", 36)).await.expect("made");
    let made = v1.create(&PostParams::default(), &moon("v1", "luna", "radius", 17)).await.expect("made");
    assert_eq!(made.labels().get("label").map(String::as_str), Some("yes"), "its webhook has seen it in v2");
    charts(
        &user,
        &[("chart-io", Some("36")), ("chart-luna", Some("34")), ("record-io", None), ("record-luna", None)],
    )
    .await;

    let change = json!({"radius": 20});
    v1.patch("io", &PatchParams::default(), &Patch::Merge(&change)).await.expect("changed");
    // Somebody takes away what the operator has made.
    let maps: Api<ConfigMap> = Api::namespaced(user.clone(), "default");
    maps.delete("chart-luna", &DeleteParams::default()).await.expect("deleted");
    charts(
        &user,
        &[("chart-io", Some("40")), ("chart-luna", Some("34")), ("record-io", None), ("record-luna", None)],
    )
    .await;
    let drawn = async {
        while v1.get("io").await.expect("there").data["status"]["drawn"] != 40 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, drawn).await.expect("its status says so");

    for (patch, why) in [
        (json!({"note": "second"}), "note: Invalid value: \"string\": a note stays"),
        (json!({"diameter": -2}), "nothing is left of the first"),
    ] {
        let told = refused(&v2, "io", patch).await;
        assert!(told.contains(why), "{told}");
    }
    v2.delete("luna", &DeleteParams::default()).await.expect("going");
    let gone = async {
        while v2.get_opt("luna").await.expect("an answer").is_some()
            || maps.get_opt("record-luna").await.expect("an answer").is_some()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the finalizer is taken away, and the record before it");
    stop.cancel();
    let failures = tokio::time::timeout(PATIENCE, running).await.expect("it ends").expect("in peace");
    // What was deleted while it was looked at is looked at once more.
    let others: Vec<&String> = failures
        .iter()
        .filter(|why| !why.contains("not found") && !why.contains("object has been modified"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    machine.stop().await;
}
