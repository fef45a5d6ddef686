//! Mutating admission policies: what they make of objects, in which order, and what becomes of a request when they cannot.

use serde_json::{Value, json};

use super::policies::store;
use super::receiver::Receiver;
use super::{MAPS, PODS, configure, creation, map, patch, pod, rule};
use crate::fixture::{Fixture, read};

fn merge(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn steps(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

/// A policy about creations and updates of a resource, with its binding. `more` goes into its spec.
async fn policy(fixture: &Fixture, name: &str, resource: &str, mutations: &[Value], more: Value) {
    let mut spec = json!({"reinvocationPolicy": "Never", "mutations": mutations,
        "matchConstraints": {"resourceRules": rule(&["CREATE", "UPDATE"], resource)}});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let policy = json!({"metadata": {"name": name}, "spec": spec});
    let bound = json!({"metadata": {"name": format!("{name}-binding")}, "spec": {"policyName": name}});
    store(fixture, "mutatingadmissionpolicies", &policy).await;
    store(fixture, "mutatingadmissionpolicybindings", &bound).await;
}

fn label(key: &str, value: &str) -> Value {
    merge(&format!("Object{{metadata: Object.metadata{{labels: {{'{key}': {value}}}}}}}"))
}

#[tokio::test]
async fn objects_get_what_policies_say() {
    let fixture = Fixture::new().await;
    let sidecar = merge(
        "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'sidecar', image: 'i:2'}], ?nodeName: optional.none()}}",
    );
    let conditions = json!([{"name": "c", "expression": "!has(object.metadata.labels) || !('plain' in object.metadata.labels)"}]);
    policy(
        &fixture,
        "a",
        "pods",
        &[sidecar, label("seen", "string(size(object.spec.containers))")],
        json!({"matchConditions": conditions}),
    )
    .await;
    let made = fixture.must("POST", PODS, Some(&pod("p"))).await;
    let containers = made["spec"]["containers"].as_array().expect("containers");
    // The second mutation has seen what the first one made, with its defaults.
    let names: Vec<_> = containers.iter().map(|one| (&one["name"], &one["imagePullPolicy"])).collect();
    let always = json!("IfNotPresent");
    assert_eq!(names, [(&json!("c"), &always), (&json!("sidecar"), &always)]);
    assert_eq!(made["metadata"]["labels"], json!({"seen": "2"}));
    let owned = made["metadata"]["managedFields"].to_string();
    assert!(owned.contains("f:containers") && !owned.contains("sidecar"), "nobody owns it: {owned}");
    let mut plain = pod("q");
    plain["metadata"]["labels"] = json!({"plain": "yes"});
    let made = fixture.must("POST", PODS, Some(&plain)).await;
    assert_eq!(made["spec"]["containers"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn patches_are_steps_that_are_taken_together_or_not_at_all() {
    let fixture = Fixture::new().await;
    let annotate = steps(
        "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'first': 'x'}},
          JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('example.com/a'), value: object.data.a}]",
    );
    let tested = steps(
        "[JSONPatch{op: 'add', path: '/data/never', value: 'x'}, JSONPatch{op: 'test', path: '/data/a', value: 'other'}]",
    );
    let moved = steps("[JSONPatch{op: 'copy', from: '/data/a', path: '/data/z'}]");
    policy(&fixture, "a", "configmaps", &[annotate, tested, moved], json!({})).await;
    let made = fixture.must("POST", MAPS, Some(&map("m"))).await;
    assert_eq!(made["metadata"]["annotations"], json!({"first": "x", "example.com/a": "b"}));
    assert_eq!(made["data"], json!({"a": "b", "z": "b"}));
    // An update is changed as well, and a patch.
    let changed = fixture.call(patch(&format!("{MAPS}/m"), r#"{"data": {"a": "c"}}"#)).await;
    assert_eq!(read(changed).await.1["data"], json!({"a": "c", "z": "c"}));
    let dry = fixture.must("POST", &format!("{MAPS}?dryRun=All"), Some(&map("d"))).await;
    assert_eq!(dry["data"]["z"], "b");
    assert_eq!(fixture.send("GET", &format!("{MAPS}/d"), None).await.0, 404);
}

#[tokio::test]
async fn what_goes_wrong_is_told_unless_it_is_excused() {
    let words = |name: &str, why: &str| {
        json!(format!("policy '{name}' with binding '{name}-binding' denied request: {why}"))
    };
    let atomic = "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].command";
    let command =
        "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', command: ['x']}]}}";
    let wrong = "type mismatch: unexpected type name \"Object.status\", expected \"Object.spec\", which matches field name path from root Object type";
    let table = [
        (merge(command), atomic),
        (merge("Object{spec: Object.status{}}"), wrong),
        (
            merge("Object{metadata: Object.metadata{name: object.nothing}}"),
            "expression 'Object{metadata: Object.metadata{name: object.nothing}}' resulted in error: no such key: nothing",
        ),
        (
            merge("Object{spec: Object.spec{replicas: 3}}"),
            "error applying patch: failed to convert patch object to typed object: ",
        ),
        (
            steps("[JSONPatch{op: 'replace', path: '/none/there', value: 1}]"),
            "JSONPath: replace operation does not apply: doc is missing path: \"/none/there\": missing value",
        ),
    ];
    for (mutation, why) in table {
        let fixture = Fixture::new().await;
        policy(&fixture, "p", "pods", std::slice::from_ref(&mutation), json!({})).await;
        let (code, status) = fixture.send("POST", PODS, Some(&pod("p"))).await;
        let message = status["message"].as_str().unwrap_or_default();
        let wanted = words("p", why);
        assert!(message.starts_with(wanted.as_str().expect("text")), "{message}");
        assert_eq!(
            (code, &status["reason"], &status["details"]["causes"][0]["message"]),
            (403, &json!("Invalid"), &json!(message))
        );
        let fixture = Fixture::new().await;
        policy(
            &fixture,
            "p",
            "pods",
            &[mutation, label("next", "'one'")],
            json!({"failurePolicy": "Ignore"}),
        )
        .await;
        let made = fixture.must("POST", PODS, Some(&pod("p"))).await;
        assert_eq!(made["metadata"]["labels"]["next"], "one", "what comes next is still done");
    }
    // A patch that makes something unknown ends the request.
    let fixture = Fixture::new().await;
    policy(
        &fixture,
        "p",
        "pods",
        &[steps("[JSONPatch{op: 'add', path: '/spec/unheard', value: 1}]")],
        json!({}),
    )
    .await;
    let (code, status) = fixture.send("POST", PODS, Some(&pod("p"))).await;
    let text = "Internal error occurred: Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.unheard\"";
    assert_eq!((code, &status["message"]), (500, &json!(text)));
}

#[tokio::test]
async fn parameters_are_found_one_by_one() {
    let fixture = Fixture::new().await;
    for (name, color) in [("one", "red"), ("two", "blue")] {
        let mut params = map(name);
        params["metadata"]["labels"] = json!({"of": "policy"});
        params["data"] = json!({"color": color});
        fixture.must("POST", MAPS, Some(&params)).await;
    }
    let kind = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}});
    let mutation = label("color-' + params.metadata.name + '", "params.data.color");
    policy(&fixture, "p", "pods", &[mutation], kind).await;
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings/p-binding";
    let bind = async |reference: Value| {
        let mut binding = fixture.must("GET", path, None).await;
        binding["spec"]["paramRef"] = reference;
        let bound = fixture.must("PUT", path, Some(&binding)).await;
        let revision = bound["metadata"]["resourceVersion"].as_str().expect("a revision");
        fixture.must("GET", &format!("{path}?resourceVersion={revision}"), None).await;
    };
    bind(json!({"selector": {"matchLabels": {"of": "policy"}}, "parameterNotFoundAction": "Deny"})).await;
    let made = fixture.must("POST", PODS, Some(&pod("p"))).await;
    assert_eq!(made["metadata"]["labels"], json!({"color-one": "red", "color-two": "blue"}));
    bind(json!({"name": "three", "parameterNotFoundAction": "Deny"})).await;
    let (code, status) = fixture.send("POST", PODS, Some(&pod("q"))).await;
    let why =
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    let words = format!("policy 'p' with binding 'p-binding' denied request: {why}");
    assert_eq!((code, &status["message"], &status["reason"]), (403, &json!(words), &json!("Forbidden")));
    bind(json!({"name": "three", "parameterNotFoundAction": "Allow"})).await;
    let made = fixture.must("POST", PODS, Some(&pod("q"))).await;
    assert!(made["metadata"].get("labels").is_none(), "{made}");
}

#[tokio::test]
async fn policies_come_before_webhooks_and_again_when_they_want_to() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    configure(&fixture, "Mutating", "m", &[receiver.hook("count", "count", creation("configmaps"))]).await;
    let count = |key: &str| {
        let value = format!("(has(object.data.{key}) ? object.data.{key} : '') + 'x'");
        merge(&format!("Object{{data: {{'{key}': {value}}}}}"))
    };
    let needed = json!({"reinvocationPolicy": "IfNeeded"});
    policy(&fixture, "a", "configmaps", &[count("again")], needed.clone()).await;
    policy(&fixture, "b", "configmaps", &[count("once")], json!({})).await;
    // It comes first, and is asked again because of what comes later.
    let late = merge("'once' in object.data ? Object{data: {'late': 'seen'}} : Object{}");
    policy(&fixture, "0", "configmaps", &[late], needed).await;
    let made = fixture.must("POST", MAPS, Some(&map("m"))).await;
    assert_eq!(made["data"], json!({"a": "b", "again": "xx", "once": "x", "late": "seen"}));
    assert_eq!(made["metadata"]["annotations"]["count"], "x");
    // The webhook has seen what the policies had made by then.
    let asked = receiver.asked();
    assert_eq!(asked[0].1["object"]["data"], json!({"a": "b", "again": "x", "once": "x"}));
}

#[tokio::test]
async fn what_policies_made_is_judged_and_custom_resources_are_theirs_too() {
    let fixture = Fixture::new().await;
    let properties = json!({"spec": {"type": "object", "properties": {"size": {"type": "integer", "maximum": 5},
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}}}});
    let version = json!({"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}});
    let definition = json!({"metadata": {"name": "boxes.example.com"}, "spec": {"group": "example.com",
        "scope": "Namespaced", "names": {"plural": "boxes", "kind": "Box"}, "versions": [version]}});
    fixture.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", Some(&definition)).await;
    let boxes = "/apis/example.com/v1/namespaces/default/boxes";
    let grow = merge("Object{spec: Object.spec{size: object.spec.size + 1, tags: ['grown']}}");
    policy(&fixture, "p", "boxes", &[grow], json!({})).await;
    let of = |name: &str, size: u8| {
        json!({"apiVersion": "example.com/v1", "kind": "Box", "metadata": {"name": name},
            "spec": {"size": size, "tags": ["new"]}})
    };
    let made = fixture.must("POST", boxes, Some(&of("a", 3))).await;
    assert_eq!(made["spec"], json!({"size": 4, "tags": ["new", "grown"]}));
    let (code, status) = fixture.send("POST", boxes, Some(&of("b", 5))).await;
    assert_eq!(code, 422, "{status}");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.contains("spec.size: Invalid value: 6: "), "{message}");
}
