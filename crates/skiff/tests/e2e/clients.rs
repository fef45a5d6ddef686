//! What others have written for Kubernetes: an operator on the official Python client, the official JavaScript client, and
//! Helm with a chart that has hooks. Their programs are in `clients/`, they themselves in `out/` (`scripts/setup --tests`).

use crate::machine::{Cluster, repository};

const FOLDER: &str = "crates/skiff/tests/e2e/clients";

/// All of them, in a cluster that is there.
pub fn official_clients_do_their_work(cluster: &Cluster) {
    if !repository().join("out/clients/node_modules").exists() {
        let required = std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_some_and(|value| value == "1");
        assert!(!required, "out/clients is not there (scripts/setup --tests)");
        eprintln!("SKIPPED: out/clients is not there (scripts/setup --tests)");
        return;
    }
    let kubeconfig = cluster.kubeconfig();
    let kubeconfig = kubeconfig.display();
    let said = cluster.inside(&format!("out/clients/bin/python {FOLDER}/sites.py {kubeconfig}"));
    assert!(said.starts_with("converged"), "{said}");
    let said = cluster.inside(&format!("out/clients/bin/node {FOLDER}/crud.mjs {kubeconfig} out/clients"));
    assert!(said.ends_with("events seen"), "{said}");
    helm(cluster);
}

fn helm(cluster: &Cluster) {
    let home = cluster.state().join("helm");
    let try_helm = |arguments: &str| {
        let (home, kubeconfig) = (home.display(), cluster.kubeconfig());
        let environment = format!("HELM_CACHE_HOME={home} HELM_CONFIG_HOME={home} HELM_DATA_HOME={home}");
        cluster.try_inside(&format!(
            "{environment} out/bin/helm --kubeconfig {} {arguments}",
            kubeconfig.display()
        ))
    };
    let helm =
        |arguments: &str| try_helm(arguments).unwrap_or_else(|error| panic!("helm {arguments}: {error}"));
    let chart = format!("{FOLDER}/chart");
    let is = |text: &str, replicas: &str, revision: &str| {
        let field = |what: &str| cluster.kubectl(&format!("get {what}"));
        assert_eq!(field("configmap page -o jsonpath='{.data.text}'"), text);
        assert_eq!(field("bookmark page -o jsonpath='{.spec.of}'"), text, "what the chart defines itself");
        assert_eq!(field("configmap page-after -o jsonpath='{.data.revision}'"), revision);
        assert_eq!(field("deployment page -o jsonpath='{.status.availableReplicas}'"), replicas);
        assert!(cluster.try_kubectl("get pod page-before").is_err(), "the hook is taken away");
    };
    let wait = "--wait --timeout 90s";
    helm(&format!("install page {chart} {wait}"));
    is("one", "1", "1");
    let taken = try_helm(&format!("install page {chart}")).expect_err("it is there");
    assert!(taken.contains("cannot reuse a name that is still in use"), "{taken}");
    helm(&format!("upgrade page {chart} --set text=two --set replicas=2 {wait}"));
    is("two", "2", "2");
    helm(&format!("rollback page 1 {wait}"));
    // The hooks of a rollback are those of the revision that it goes back to.
    is("one", "1", "1");
    let history = helm("history page");
    assert!(history.contains("superseded") && history.contains("Rollback to 1"), "{history}");
    assert!(helm("list").contains("deployed"));
    helm(&format!("uninstall page {wait}"));
    for gone in ["deployment", "service", "configmap", "bookmark"] {
        assert!(cluster.try_kubectl(&format!("get {gone} page")).is_err(), "{gone}");
    }
    assert!(!helm("list --all-namespaces").contains("page"));
}
