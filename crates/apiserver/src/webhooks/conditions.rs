//! Expressions about a request: what they may speak of, and what they ask of the authorizer.
//!
//! Expressions are evaluated without waiting. What they want to know of the authorizer is not known then: it is asked
//! afterwards, and they are evaluated once more with what is known by now.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

use api_machinery::resource::Resource;
use api_machinery::status::ApiError;
use cel::Variables;
use cel::authorizer::{Authorizer, Decision, Question, authorizer, request_resource};
use cel::conditions::request_schema;
use cel::value::Value as CelValue;
use serde_json::Value;

use super::subject::Subject;
use crate::authn::account_user;
use crate::server::ApiServer;
use crate::types::{self, RequestInfo, UserInfo};

/// The most that may be asked of the authorizer; what expressions may cost ends before.
const MOST_QUESTIONS: usize = 64;

/// What expressions may speak of.
pub struct Input<'a> {
    request: Value,
    object: Option<Cow<'a, Value>>,
    old: Option<Cow<'a, Value>>,
    resource: Question,
    user: &'a UserInfo,
    /// The object's namespace, for policies.
    pub namespace: Option<Arc<Value>>,
    /// The parameter, for policies.
    pub params: Option<Arc<Value>>,
}

impl<'a> Input<'a> {
    /// A request as `form` shows it.
    pub async fn new(
        server: &ApiServer,
        subject: &Subject<'a>,
        form: &Resource,
        object: Option<&'a Value>,
    ) -> Result<Input<'a>, ApiError> {
        let resource = Question {
            group: form.group.to_string(),
            resource: form.plural.to_string(),
            subresource: subject.subresource().to_owned(),
            namespace: subject.namespace().to_owned(),
            name: subject.name().to_owned(),
            ..Question::default()
        };
        let [object, old] = subject.both(server, form, object).await?;
        Ok(Input {
            request: Value::Object(subject.request(form)),
            object,
            old,
            resource,
            user: subject.user(),
            namespace: None,
            params: None,
        })
    }
}

/// What was answered so far, and what is still to be asked.
#[derive(Default)]
pub struct Known {
    answers: Vec<(Question, Decision)>,
    open: RefCell<Option<Question>>,
}

impl Authorizer for Known {
    fn authorize(&self, question: &Question) -> Decision {
        if let Some((_, decision)) = self.answers.iter().find(|(known, _)| known == question) {
            return decision.clone();
        }
        self.open.borrow_mut().get_or_insert_with(|| question.clone());
        Decision::default()
    }
}

/// Evaluates, as often as it takes to answer what is asked of the authorizer.
pub async fn evaluate<T>(
    server: &ApiServer,
    input: &Input<'_>,
    judge: impl Fn(&Known) -> T,
) -> Result<T, ApiError> {
    let mut answers = Vec::new();
    loop {
        let (verdict, open) = attempt(&judge, &mut answers);
        let Some(question) = open else { return Ok(verdict) };
        if answers.len() >= MOST_QUESTIONS {
            return Err(ApiError::internal("too many questions to the authorizer"));
        }
        let decision = ask(server, input.user, &question).await;
        answers.push((question, decision));
    }
}

/// One evaluation, and the first question in it that was not answered yet.
fn attempt<T>(
    judge: &impl Fn(&Known) -> T,
    answers: &mut Vec<(Question, Decision)>,
) -> (T, Option<Question>) {
    let known = Known { answers: std::mem::take(answers), open: RefCell::default() };
    let verdict = judge(&known);
    *answers = known.answers;
    (verdict, known.open.into_inner())
}

impl Input<'_> {
    /// The variables of an evaluation.
    pub fn variables<'a>(&'a self, known: &'a Known) -> Variables<'a> {
        static SCHEMA: LazyLock<Arc<cel::types::Schema>> = LazyLock::new(request_schema);
        fn object(object: Option<&Value>) -> CelValue<'_> {
            object.map_or(CelValue::Null, |object| CelValue::from_json(object, None))
        }
        Variables(vec![
            ("object", object(self.object.as_deref())),
            ("oldObject", object(self.old.as_deref())),
            ("request", CelValue::from_json(&self.request, Some(&SCHEMA))),
            ("authorizer", authorizer(known)),
            ("authorizer.requestResource", request_resource(known, self.resource.clone())),
            ("namespaceObject", object(self.namespace.as_deref())),
            ("params", object(self.params.as_deref())),
        ])
    }
}

async fn ask(server: &ApiServer, user: &UserInfo, question: &Question) -> Decision {
    let account =
        question.service_account.as_ref().map(|(namespace, name)| account_user(namespace, name, ""));
    let info = RequestInfo {
        verb: question.verb.clone(),
        api_group: question.group.clone(),
        api_version: if question.path.is_none() { "*".to_owned() } else { String::new() },
        resource: question.resource.clone(),
        subresource: question.subresource.clone(),
        namespace: question.namespace.clone(),
        name: question.name.clone(),
        path: question.path.clone().unwrap_or_default(),
        is_resource: question.path.is_none(),
        label_selector: question.label_selector.clone(),
        field_selector: question.field_selector.clone(),
    };
    match server.gate().authorize(account.as_ref().unwrap_or(user), &info).await {
        Ok(types::Decision::Allow) => Decision { allowed: true, ..Decision::default() },
        Ok(types::Decision::Deny(reason)) => Decision { reason, ..Decision::default() },
        Err(error) => Decision { error: Some(error.message().to_owned()), ..Decision::default() },
    }
}
