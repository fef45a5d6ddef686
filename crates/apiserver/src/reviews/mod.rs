//! Reviews: questions about users and their rights, answered and forgotten.

mod token;

use api_machinery::resource::Resource;
use api_machinery::status::ApiError;
use serde_json::{Map, Value, json};

pub use self::token::request as token_request;
use crate::authn::{self, Authenticator, user_value};
use crate::authz::node::identity;
use crate::authz::rules::Rule;
use crate::authz::{Authorizer, Verdict};
use crate::references::text;
use crate::types::{RequestInfo, UserInfo};

/// Fills in the status of a review.
pub async fn answer(
    authenticator: &Authenticator,
    authorizer: &Authorizer,
    user: &UserInfo,
    resource: &Resource,
    namespace: &str,
    review: &mut Value,
) -> Result<(), ApiError> {
    match &*resource.kind {
        "TokenReview" => authn::review(authenticator, review).await,
        "SelfSubjectReview" => {
            review["status"] = json!({"userInfo": user_value(user)});
            Ok(())
        }
        "SelfSubjectAccessReview" => access(authorizer, user, review).await,
        "SubjectAccessReview" => access(authorizer, &subject(review), review).await,
        "LocalSubjectAccessReview" => {
            let asked = text(review, "/spec/resourceAttributes/namespace");
            if asked != namespace {
                let why = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
                return Err(ApiError::bad_request(why));
            }
            access(authorizer, &subject(review), review).await
        }
        "SelfSubjectRulesReview" => rules(authorizer, user, review).await,
        other => Err(ApiError::internal(format_args!("nothing answers a {other}"))),
    }
}

/// The user that a review asks about.
fn subject(review: &Value) -> UserInfo {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let extra = spec.get("extra").and_then(Value::as_object);
    UserInfo {
        name: text(spec, "/user").to_owned(),
        uid: text(spec, "/uid").to_owned(),
        groups: spec.get("groups").map(texts).unwrap_or_default(),
        extra: extra.into_iter().flatten().map(|(key, values)| (key.clone(), texts(values))).collect(),
    }
}

/// The request that a review asks about.
fn asked(review: &Value) -> RequestInfo {
    if let Some(other) = review.pointer("/spec/nonResourceAttributes").filter(|value| value.is_object()) {
        return RequestInfo {
            verb: text(other, "/verb").to_owned(),
            path: text(other, "/path").to_owned(),
            ..RequestInfo::default()
        };
    }
    let attributes = review.pointer("/spec/resourceAttributes").unwrap_or(&Value::Null);
    let of = |field: &str| attributes.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    RequestInfo {
        verb: of("verb"),
        api_group: of("group"),
        api_version: of("version"),
        resource: of("resource"),
        subresource: of("subresource"),
        namespace: of("namespace"),
        name: of("name"),
        is_resource: true,
        field_selector: text(attributes, "/fieldSelector/rawSelector").to_owned(),
        label_selector: text(attributes, "/labelSelector/rawSelector").to_owned(),
        ..RequestInfo::default()
    }
}

async fn access(authorizer: &Authorizer, user: &UserInfo, review: &mut Value) -> Result<(), ApiError> {
    let (allowed, reason) = match authorizer.explain(user, &asked(review)).await? {
        Verdict::Allow(reason) => (true, reason),
        Verdict::NoOpinion(reason) => (false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    review["status"] = status;
    Ok(())
}

async fn rules(authorizer: &Authorizer, user: &UserInfo, review: &mut Value) -> Result<(), ApiError> {
    let namespace = text(review, "/spec/namespace").to_owned();
    let (found, mut errors) = authorizer.rbac().rules(user, &namespace).await?;
    if identity(user).is_some() {
        errors.push("node authorizer does not support user rule resolution".to_owned());
    }
    let (mut resources, mut others) = (Vec::new(), Vec::new());
    for rule in &found {
        let value = rule_value(rule);
        if rule.urls.is_empty() { resources.push(value) } else { others.push(value) }
    }
    let mut status = json!({
        "resourceRules": resources, "nonResourceRules": others, "incomplete": !errors.is_empty(),
    });
    if !errors.is_empty() {
        status["evaluationError"] = errors.join(", ").into();
    }
    review["status"] = status;
    Ok(())
}

fn rule_value(rule: &Rule) -> Value {
    let mut value = rule.to_value();
    let fields: &mut Map<String, Value> = value.as_object_mut().expect("a rule is an object");
    fields.retain(|_, list| list.as_array().is_none_or(|list| !list.is_empty()));
    value
}
