//! Validating admission policies: what they refuse, in which words, and what their bindings make of it.

use http::HeaderMap;
use serde_json::{Value, json};

use super::receiver::Receiver;
use super::{GROUP, MAPS, configure, map, patch, rule, send};
use crate::fixture::{Fixture, read};

/// Stores an object of the group, and waits until the server goes by it.
pub(super) async fn store(fixture: &Fixture, plural: &str, object: &Value) {
    let made = fixture.must("POST", &format!("{GROUP}/{plural}"), Some(object)).await;
    let (name, revision) = (&made["metadata"]["name"], &made["metadata"]["resourceVersion"]);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let path = format!("{GROUP}/{plural}/{}?resourceVersion={}", text(name), text(revision));
    fixture.must("GET", &path, None).await;
}

/// A policy about config maps, with its binding.
async fn policy(fixture: &Fixture, name: &str, spec: Value, binding: Value) {
    let mut policy = json!({"metadata": {"name": name}, "spec": {
        "matchConstraints": {"resourceRules": rule(&["CREATE", "UPDATE"], "configmaps")}}});
    let mut bound = json!({"metadata": {"name": format!("{name}-binding")},
        "spec": {"policyName": name, "validationActions": ["Deny"]}});
    for (object, more) in [(&mut policy, spec), (&mut bound, binding)] {
        for (field, value) in more.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
    }
    store(fixture, "validatingadmissionpolicies", &policy).await;
    store(fixture, "validatingadmissionpolicybindings", &bound).await;
}

async fn create(fixture: &Fixture, name: &str) -> (u16, HeaderMap, Value) {
    send(fixture, "POST", MAPS, &map(name)).await
}

#[tokio::test]
async fn refusals_have_upstreams_words_codes_and_reasons() {
    let fixture = Fixture::new().await;
    let not = |name: &str, more: Value| {
        let mut validation = json!({"expression": format!("object.metadata.name != '{name}'")});
        for (field, value) in more.as_object().into_iter().flatten() {
            validation[field] = value.clone();
        }
        validation
    };
    let validations = json!([
        not("a", json!({})),
        not("b", json!({"message": "not b"})),
        not("c", json!({"messageExpression": "'not ' + object.metadata.name", "reason": "Forbidden"})),
        not("d", json!({"message": "not d", "messageExpression": "''"})),
        {"expression": "object.data.a != 'nothing' || object.nothing == 1"},
        {"expression": "variables.short || !variables.short"},
        {"expression": "!authorizer.requestResource.check('nothing').allowed() || request.name != 'f'"},
    ]);
    let variables = json!([{"name": "short", "expression": "size(object.metadata.name) < 3"}]);
    let annotations = json!([{"key": "name", "valueExpression": "string(object.metadata.name)"}]);
    let spec = json!({"validations": validations, "variables": variables, "auditAnnotations": annotations});
    policy(&fixture, "p.example.com", spec, json!({})).await;
    let text = |name: &str, why: &str| {
        format!(
            "configmaps \"{name}\" is forbidden: ValidatingAdmissionPolicy 'p.example.com' with binding 'p.example.com-binding' denied request: {why}"
        )
    };
    for (name, code, reason, why) in [
        ("a", 422, "Invalid", "failed expression: object.metadata.name != 'a'"),
        ("b", 422, "Invalid", "not b"),
        ("c", 403, "Forbidden", "not c"),
        ("d", 422, "Invalid", "not d"),
        (
            "f",
            422,
            "Invalid",
            "failed expression: !authorizer.requestResource.check('nothing').allowed() || request.name != 'f'",
        ),
    ] {
        let (got, _, status) = create(&fixture, name).await;
        assert_eq!(
            (got, &status["reason"], &status["message"]),
            (code, &json!(reason), &json!(text(name, why)))
        );
        assert_eq!(status["details"]["name"], name);
        let cause = &status["details"]["causes"][0]["message"];
        assert!(
            cause.as_str().is_some_and(|cause| cause.starts_with("ValidatingAdmissionPolicy")),
            "{status}"
        );
    }
    assert_eq!(create(&fixture, "e").await.0, 201);
    let broken = patch(&format!("{MAPS}/e"), r#"{"data": {"a": "nothing"}}"#);
    let (code, status) = read(fixture.call(broken).await).await;
    let why = "expression 'object.data.a != 'nothing' || object.nothing == 1' resulted in error: no such key: nothing";
    assert_eq!((code, &status["message"]), (422, &json!(text("e", why))));
}

#[tokio::test]
async fn a_binding_says_what_findings_lead_to() {
    let fixture = Fixture::new().await;
    let never = json!({"validations": [{"expression": "false", "message": "no"}]});
    policy(&fixture, "warned", never.clone(), json!({"validationActions": ["Warn", "Audit"]})).await;
    policy(&fixture, "audited", never.clone(), json!({"validationActions": ["Audit"]})).await;
    let red = json!({"namespaceSelector": {"matchLabels": {"color": "red"}}});
    policy(&fixture, "elsewhere", never.clone(), json!({"matchResources": red})).await;
    let mut named = rule(&["*"], "*");
    named[0]["resourceNames"] = json!(["b"]);
    policy(&fixture, "named", never.clone(), json!({"matchResources": {"resourceRules": named}})).await;
    let all_but = json!({"excludeResourceRules": rule(&["*"], "configmaps")});
    policy(&fixture, "excepted", never.clone(), json!({"matchResources": all_but})).await;
    let mut conditional = never.clone();
    conditional["matchConditions"] = json!([{"name": "c", "expression": "object.metadata.name == 'c'"}]);
    policy(&fixture, "conditional", conditional, json!({})).await;
    let broken = json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.nothing"}]});
    let (code, _, status) = send(
        &fixture,
        "POST",
        &format!("{GROUP}/validatingadmissionpolicies"),
        &json!({
        "metadata": {"name": "x"}, "spec": {"validations": broken["validations"],
            "matchConstraints": {"resourceRules": rule(&["*"], "*")}}}),
    )
    .await;
    assert_eq!(code, 422, "{status}");
    let broken = json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.nothing == 1"}]});
    policy(&fixture, "broken", broken, json!({})).await;
    let (code, headers, _) = create(&fixture, "a").await;
    assert_eq!(code, 201);
    let warnings: Vec<_> = headers.get_all("warning").iter().collect();
    let text = "299 - \"Validation failed for ValidatingAdmissionPolicy 'warned' with binding 'warned-binding': no\"";
    assert_eq!(warnings, [text]);
    for (name, policy) in [("b", "named"), ("c", "conditional")] {
        let (code, _, status) = create(&fixture, name).await;
        let part = format!(
            "ValidatingAdmissionPolicy '{policy}' with binding '{policy}-binding' denied request: no"
        );
        assert!(
            code == 422 && status["message"].as_str().is_some_and(|text| text.ends_with(&part)),
            "{status}"
        );
    }
    // Nobody is kept from mending them.
    let path = format!("{GROUP}/validatingadmissionpolicies/named");
    fixture.must("DELETE", &path, None).await;
}

#[tokio::test]
async fn parameters_come_from_where_the_binding_says() {
    let fixture = Fixture::new().await;
    let limit = |name: &str, most: u32, labels: Value| json!({"metadata": {"name": name, "labels": labels}, "data": {"most": most.to_string()}});
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret =
        |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}, "type": "x/y"});
    fixture.must("POST", MAPS, Some(&limit("limit", 3, json!({})))).await;
    fixture.must("POST", MAPS, Some(&limit("limit-a", 5, json!({"limits": "yes"})))).await;
    fixture.must("POST", MAPS, Some(&limit("limit-b", 4, json!({"limits": "yes"})))).await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": {"resourceRules": rule(&["CREATE"], "secrets")},
        "validations": [{"expression": "size(object.metadata.name) <= int(params.data.most)",
            "messageExpression": "'at most ' + params.data.most"}],
    });
    let reference = |reference: Value, chosen: &str| json!({"paramRef": reference, "matchResources": {"objectSelector": {"matchLabels": {"by": chosen}}}});
    let named = |name: &str, action: &str| json!({"name": name, "parameterNotFoundAction": action});
    let selected = json!({"selector": {"matchLabels": {"limits": "yes"}}, "parameterNotFoundAction": "Deny"});
    policy(&fixture, "named", spec.clone(), reference(named("limit", "Deny"), "name")).await;
    policy(&fixture, "missing", spec.clone(), reference(named("none", "Deny"), "missing")).await;
    policy(&fixture, "allowed", spec.clone(), reference(named("none", "Allow"), "allowed")).await;
    policy(&fixture, "selected", spec.clone(), reference(selected, "label")).await;
    let mut unknown = spec.clone();
    unknown["paramKind"] = json!({"apiVersion": "example.com/v1", "kind": "Limit"});
    policy(&fixture, "unknown", unknown, reference(named("none", "Allow"), "unknown")).await;
    for (name, by, why) in [
        ("aaa", "name", ""),
        ("aaaa", "name", "at most 3"),
        ("bbbb", "label", ""),
        ("bbbbb", "label", "at most 4"),
        (
            "c",
            "missing",
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
        ),
        ("ddddddd", "allowed", ""),
        (
            "e",
            "unknown",
            "failed to configure binding: paramKind kind `example.com/v1, Kind=Limit` not known",
        ),
    ] {
        let (code, status) = fixture.send("POST", secrets, Some(&secret(name, json!({"by": by})))).await;
        let message = status["message"].as_str().unwrap_or_default();
        let fits = if why.is_empty() { code == 201 } else { code == 422 && message.ends_with(why) };
        assert!(fits, "{name} by {by}: {code} {message}");
    }
}

#[tokio::test]
async fn policies_have_no_say_in_who_may_do_what() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let never = json!({"validations": [{"expression": "false"}], "matchConstraints": {"resourceRules": rule(&["*"], "*/*")}});
    policy(&fixture, "never", never, json!({})).await;
    configure(&fixture, "Validating", "v", &[receiver.hook("see", "allow", rule(&["*"], "*/*"))]).await;
    assert_eq!(create(&fixture, "m").await.0, 422);
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = fixture.must("POST", path, Some(&review)).await;
    assert_eq!(answer["status"]["allowed"], true);
    let asked = receiver.asked();
    assert_eq!(asked.len(), 1, "webhooks have");
    assert_eq!(asked[0].1["kind"]["kind"], "SelfSubjectAccessReview");
}
