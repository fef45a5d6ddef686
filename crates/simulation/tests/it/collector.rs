//! Owners and namespaces in stories that need uids or other namespaces, which the language of scenarios does not have.

use std::future::Future;
use std::time::Duration;

use serde_json::{Value, json};
use simulation::cluster::Cluster;
use simulation::kubelet::NodeScript;
use tokio::time::Instant;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn simulated(story: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime").block_on(story);
}

async fn create(cluster: &Cluster, path: &str, object: Value) {
    cluster.request("POST", path, None, object.to_string().into_bytes()).await.expect("created");
}

async fn patch(cluster: &Cluster, path: &str, patch: Value) {
    let content = Some("application/merge-patch+json");
    cluster.request("PATCH", path, content, patch.to_string().into_bytes()).await.expect("patched");
}

async fn delete(cluster: &Cluster, path: &str) {
    cluster.request("DELETE", path, None, Vec::new()).await.expect("deleted");
}

/// An object by its key, `configmaps/default/a`.
fn stored(cluster: &Cluster, key: &str) -> Option<Value> {
    let (kind, _) = key.split_once('/').expect("kind/namespace/name");
    let key = format!("/registry/{key}");
    cluster.observe(|observer| {
        observer.of_kind(kind).find(|(known, _)| *known == key).map(|(_, found)| found.clone())
    })
}

fn uid(cluster: &Cluster, key: &str) -> String {
    let object = stored(cluster, key).expect("it is there");
    object["metadata"]["uid"].as_str().expect("a uid").to_owned()
}

async fn wait(cluster: &mut Cluster, seconds: u64, what: &str, holds: impl Fn(&Cluster) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !holds(cluster) {
        let changed = tokio::time::timeout_at(deadline, cluster.changed()).await;
        changed.unwrap_or_else(|_| panic!("not within {seconds} s: {what}")).expect("the store works");
    }
}

async fn pass(cluster: &mut Cluster, seconds: u64) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while tokio::time::timeout_at(deadline, cluster.changed()).await.is_ok() {}
}

fn owner(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true})
}

fn map(name: &str, owners: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}})
}

#[test]
fn a_circle_that_is_deleted_in_the_foreground_ends() {
    simulated(async {
        let mut cluster = Cluster::start(1).await.expect("a cluster");
        create(&cluster, MAPS, map("a", &[])).await;
        pass(&mut cluster, 1).await;
        create(&cluster, MAPS, map("b", &[owner("a", &uid(&cluster, "configmaps/default/a"))])).await;
        pass(&mut cluster, 1).await;
        let back = owner("b", &uid(&cluster, "configmaps/default/b"));
        patch(&cluster, &format!("{MAPS}/a"), json!({"metadata": {"ownerReferences": [back]}})).await;
        pass(&mut cluster, 1).await;
        assert!(stored(&cluster, "configmaps/default/a").is_some(), "a circle alone is no reason to go");
        delete(&cluster, &format!("{MAPS}/a?propagationPolicy=Foreground")).await;
        wait(&mut cluster, 30, "both are gone", |cluster| {
            ["a", "b"].iter().all(|name| stored(cluster, &format!("configmaps/default/{name}")).is_none())
        })
        .await;
    });
}

#[test]
fn an_owner_in_another_namespace_is_none_and_one_of_two_keeps() {
    simulated(async {
        let mut cluster = Cluster::start(2).await.expect("a cluster");
        create(&cluster, MAPS, map("a", &[])).await;
        pass(&mut cluster, 1).await;
        let real = owner("a", &uid(&cluster, "configmaps/default/a"));
        let elsewhere = "/api/v1/namespaces/kube-public/configmaps";
        create(&cluster, elsewhere, map("lost", std::slice::from_ref(&real))).await;
        create(&cluster, MAPS, map("kept", &[real, owner("never", "1-2-3")])).await;
        wait(&mut cluster, 10, "it is gone", |cluster| {
            stored(cluster, "configmaps/kube-public/lost").is_none()
        })
        .await;
        pass(&mut cluster, 5).await;
        let kept = stored(&cluster, "configmaps/default/kept").expect("it has an owner");
        let owners = kept["metadata"]["ownerReferences"].as_array().expect("owners");
        assert_eq!((owners.len(), &owners[0]["name"]), (1, &json!("a")));
        let told: Vec<String> = cluster.observe(|observer| {
            let invalid = |event: &Value| event["reason"] == "OwnerRefInvalidNamespace";
            let events = observer.of_kind("events").filter(|(_, event)| invalid(event));
            events.map(|(_, event)| event["involvedObject"]["name"].to_string()).collect()
        });
        assert_eq!(told, ["\"lost\""]);
    });
}

#[test]
fn a_namespace_waits_for_its_pods_first_and_for_the_finalizers_of_others() {
    simulated(async {
        let mut cluster = Cluster::start(3).await.expect("a cluster");
        let capacity = [("cpu", "4"), ("memory", "8Gi"), ("pods", "110")];
        cluster.add_node(NodeScript {
            name: "n1".to_owned(),
            capacity: capacity.map(|(name, amount)| (name.to_owned(), amount.to_owned())).into(),
            labels: [].into(),
            start: Duration::from_secs(1),
            stop: Duration::from_secs(20),
            number: 1,
        });
        create(&cluster, "/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
        let account = |cluster: &Cluster| stored(cluster, "serviceaccounts/team/default");
        wait(&mut cluster, 10, "an account", |cluster| account(cluster).is_some()).await;
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}});
        create(&cluster, "/api/v1/namespaces/team/pods", pod).await;
        let held = json!({"metadata": {"name": "held", "finalizers": ["x.y/z"]}});
        create(&cluster, "/api/v1/namespaces/team/configmaps", held).await;
        let pod = |cluster: &Cluster| stored(cluster, "pods/team/p");
        wait(&mut cluster, 20, "it runs", |cluster| {
            pod(cluster).is_some_and(|pod| pod["status"]["phase"] == "Running")
        })
        .await;

        delete(&cluster, "/api/v1/namespaces/team").await;
        pass(&mut cluster, 10).await;
        assert!(
            pod(&cluster).is_some_and(|pod| pod["metadata"]["deletionTimestamp"].is_string()),
            "it has its grace"
        );
        assert!(account(&cluster).is_some(), "pods go first");
        assert_eq!(conditions(&cluster), ["NamespaceContentRemaining"]);
        pass(&mut cluster, 20).await;
        assert!(pod(&cluster).is_none() && account(&cluster).is_none());
        assert_eq!(conditions(&cluster), ["NamespaceContentRemaining", "NamespaceFinalizersRemaining"]);
        let held = "/api/v1/namespaces/team/configmaps/held";
        patch(&cluster, held, json!({"metadata": {"finalizers": null}})).await;
        wait(&mut cluster, 5, "it is gone", |cluster| stored(cluster, "namespaces/team").is_none()).await;
        let left = cluster.observe(|observer| {
            observer.of_kind("configmaps").filter(|(key, _)| key.contains("/team/")).count()
        });
        assert_eq!(left, 0);
    });
}

/// The conditions of the namespace `team` that are true.
fn conditions(cluster: &Cluster) -> Vec<String> {
    let namespace = stored(cluster, "namespaces/team").expect("it is still there");
    let all = namespace["status"]["conditions"].as_array().into_iter().flatten();
    let set = all.filter(|condition| condition["status"] == "True");
    set.filter_map(|condition| condition["type"].as_str().map(str::to_owned)).collect()
}

#[test]
fn what_every_namespace_has_comes_back() {
    simulated(async {
        let mut cluster = Cluster::start(4).await.expect("a cluster");
        pass(&mut cluster, 2).await;
        let (account, ca) = ("serviceaccounts/default/default", "configmaps/default/kube-root-ca.crt");
        let before = uid(&cluster, account);
        let right = stored(&cluster, ca).expect("it is published")["data"].clone();
        delete(&cluster, "/api/v1/namespaces/default/serviceaccounts/default").await;
        wait(&mut cluster, 5, "another account", |cluster| {
            stored(cluster, account).is_some_and(|account| account["metadata"]["uid"] != before.as_str())
        })
        .await;
        let wrong = json!({"data": {"ca.crt": "of somebody else", "more": "x"}});
        patch(&cluster, &format!("{MAPS}/kube-root-ca.crt"), wrong).await;
        wait(&mut cluster, 5, "the right one", |cluster| {
            stored(cluster, ca).is_some_and(|map| map["data"] == right)
        })
        .await;
    });
}

#[test]
fn a_migration_goes_over_every_object_and_says_so() {
    const MIGRATIONS: &str = "/apis/storagemigration.k8s.io/v1/storageversionmigrations";
    simulated(async {
        let mut cluster = Cluster::start(5).await.expect("a cluster");
        for name in ["a", "b", "c"] {
            create(&cluster, MAPS, map(name, &[])).await;
        }
        let migration = |name: &str, plural: &str| {
            json!({"apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration",
                "metadata": {"name": name}, "spec": {"resource": {"group": "", "resource": plural}}})
        };
        create(&cluster, MIGRATIONS, migration("maps", "configmaps")).await;
        create(&cluster, MIGRATIONS, migration("nothing", "nothings")).await;
        let ended = |cluster: &Cluster, name: &str, kind: &str| {
            let found = stored(cluster, &format!("storageversionmigrations/{name}")).unwrap_or_default();
            let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
        };
        wait(&mut cluster, 30, "the migration ends", |cluster| ended(cluster, "maps", "Succeeded")).await;
        let found = stored(&cluster, "storageversionmigrations/maps").expect("it is kept");
        assert!(found["status"]["resourceVersion"].is_string(), "{found}");
        assert!(!ended(&cluster, "nothing", "Failed"), "it is waited for");
        wait(&mut cluster, 120, "the other fails", |cluster| ended(cluster, "nothing", "Failed")).await;
        for name in ["a", "b", "c"] {
            assert!(
                stored(&cluster, &format!("configmaps/default/{name}")).is_some(),
                "{name} is what it was"
            );
        }
    });
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "widgets.example.com";

fn definition(storage: &str) -> Value {
    let version = |name: &str| {
        json!({"name": name, "served": true, "storage": name == storage,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    json!({"metadata": {"name": WIDGETS}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "versions": [version("v1"), version("v2")]}})
}

async fn define(cluster: &mut Cluster) {
    create(cluster, DEFINITIONS, definition("v1")).await;
    let key = format!("apiextensions.k8s.io/customresourcedefinitions/{WIDGETS}");
    wait(cluster, 5, "the definition is in force", |cluster| {
        let found = stored(cluster, &key).unwrap_or_default();
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True")
    })
    .await;
}

fn widget(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}})
}

#[test]
fn custom_objects_own_and_are_emptied_out_as_others_are() {
    simulated(async {
        let mut cluster = Cluster::start(6).await.expect("a cluster");
        // A second time, since what is followed has to end with the first definition.
        for _ in 0..2 {
            define(&mut cluster).await;
            let widgets = |namespace: &str| format!("/apis/example.com/v1/namespaces/{namespace}/widgets");
            create(&cluster, &widgets("default"), widget("a")).await;
            let key = "example.com/widgets/default/a";
            wait(&mut cluster, 5, "it is stored", |cluster| stored(cluster, key).is_some()).await;
            let owner = json!({"apiVersion": "example.com/v1", "kind": "Widget", "name": "a",
                "uid": uid(&cluster, key)});
            create(&cluster, MAPS, map("owned", &[owner])).await;
            pass(&mut cluster, 5).await;
            assert!(stored(&cluster, "configmaps/default/owned").is_some(), "its owner is there");
            delete(&cluster, &format!("{}/a", widgets("default"))).await;
            wait(&mut cluster, 30, "what it owned goes", |cluster| {
                stored(cluster, "configmaps/default/owned").is_none()
            })
            .await;
            create(&cluster, "/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
            create(&cluster, &widgets("team"), widget("b")).await;
            let inner = "example.com/widgets/team/b";
            wait(&mut cluster, 5, "it is stored", |cluster| stored(cluster, inner).is_some()).await;
            delete(&cluster, "/api/v1/namespaces/team").await;
            wait(&mut cluster, 60, "the namespace goes with it", |cluster| {
                stored(cluster, "namespaces/team").is_none() && stored(cluster, inner).is_none()
            })
            .await;
            create(&cluster, &widgets("default"), widget("c")).await;
            delete(&cluster, &format!("{DEFINITIONS}/{WIDGETS}")).await;
            wait(&mut cluster, 30, "the definition goes after its objects", |cluster| {
                let definition = format!("apiextensions.k8s.io/customresourcedefinitions/{WIDGETS}");
                stored(cluster, &definition).is_none()
            })
            .await;
            assert!(stored(&cluster, "example.com/widgets/default/c").is_none(), "nothing is left");
        }
    });
}

#[test]
fn custom_objects_migrate_into_the_version_that_is_stored_now() {
    const MIGRATIONS: &str = "/apis/storagemigration.k8s.io/v1/storageversionmigrations";
    simulated(async {
        let mut cluster = Cluster::start(7).await.expect("a cluster");
        define(&mut cluster).await;
        create(&cluster, "/apis/example.com/v1/namespaces/default/widgets", widget("a")).await;
        let versions = definition("v2")["spec"]["versions"].clone();
        let path = format!("{DEFINITIONS}/{WIDGETS}");
        patch(&cluster, &path, json!({"spec": {"versions": versions}})).await;
        let migration = json!({"metadata": {"name": "widgets"},
            "spec": {"resource": {"group": "example.com", "resource": "widgets"}}});
        create(&cluster, MIGRATIONS, migration).await;
        wait(&mut cluster, 60, "it is stored in the new version", |cluster| {
            let found = stored(cluster, "example.com/widgets/default/a").unwrap_or_default();
            found["apiVersion"] == "example.com/v2"
        })
        .await;
    });
}
