//! Questions to the authorizer from within an expression: whom and what is asked is gathered step by step, and who
//! answers is handed in.

use std::fmt;
use std::rc::Rc;

use crate::cost::Charge::{Authorization, One};
use crate::eval::Context;
use crate::library::{Line, Opaque, Outcome, text};
use crate::types::Type;
use crate::value::{EvalError, Value};

/// Who answers.
pub trait Authorizer {
    /// Whether somebody may do it. Without a service account it is the user of the request who asks.
    fn authorize(&self, question: &Question) -> Decision;
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Namespace and name of the one who would act, if it is not the user of the request.
    pub service_account: Option<(String, String)>,
    /// The verb.
    pub verb: String,
    /// A path that is not a resource's; the rest is empty then.
    pub path: Option<String>,
    /// API group.
    pub group: String,
    /// Resource, in the plural.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace; empty for all or for what has none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Field selector, as text.
    pub field_selector: String,
    /// Label selector, as text.
    pub label_selector: String,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Yes.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// A question as far as it is known, or its answer.
#[derive(Clone)]
pub enum Stage<'a> {
    /// Nothing is known but who asks.
    Authorizer(&'a dyn Authorizer, Question),
    /// A path.
    Path(&'a dyn Authorizer, Question),
    /// A group.
    Group(&'a dyn Authorizer, Question),
    /// A resource.
    Resource(&'a dyn Authorizer, Question),
    /// The answer.
    Decision(Decision),
}

impl Stage<'_> {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Stage::Authorizer(..) => AUTHORIZER,
            Stage::Path(..) => "kubernetes.authorization.PathCheck",
            Stage::Group(..) => "kubernetes.authorization.GroupCheck",
            Stage::Resource(..) => RESOURCE,
            Stage::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}

impl fmt::Debug for Stage<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.type_name())
    }
}

const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";

/// The type of the variable `authorizer`.
pub fn authorizer_type() -> Type {
    Type::Opaque(AUTHORIZER)
}

/// The type of the variable `authorizer.requestResource`.
pub fn request_resource_type() -> Type {
    Type::Opaque(RESOURCE)
}

/// The value of the variable `authorizer`.
pub fn authorizer<'a>(who: &'a dyn Authorizer) -> Value<'a> {
    staged(Stage::Authorizer(who, Question::default()))
}

/// The value of the variable `authorizer.requestResource`: the resource of the request.
pub fn request_resource<'a>(who: &'a dyn Authorizer, request: Question) -> Value<'a> {
    staged(Stage::Resource(who, request))
}

fn staged(stage: Stage<'_>) -> Value<'_> {
    Value::Opaque(Rc::new(Opaque::Authorization(stage)))
}

macro_rules! resource_part {
    ($name:literal, $field:ident) => {
        (
            $name,
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
            One,
            |_, args| {
                step(args, |stage, text| match stage {
                    Stage::Resource(who, question) => {
                        Some(Stage::Resource(who, Question { $field: text.to_owned(), ..question }))
                    }
                    _ => None,
                })
            },
        )
    };
}

pub(crate) const LINES: &[Line] = &[
    (
        "path",
        "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.PathCheck",
        One,
        |_, args| {
            step(args, |stage, text| match stage {
                Stage::Authorizer(who, question) => {
                    Some(Stage::Path(who, Question { path: Some(text.to_owned()), ..question }))
                }
                _ => None,
            })
        },
    ),
    (
        "group",
        "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.GroupCheck",
        One,
        |_, args| {
            step(args, |stage, text| match stage {
                Stage::Authorizer(who, question) => {
                    Some(Stage::Group(who, Question { group: text.to_owned(), ..question }))
                }
                _ => None,
            })
        },
    ),
    (
        "serviceAccount",
        "kubernetes.authorization.Authorizer.(string, string) -> kubernetes.authorization.Authorizer",
        One,
        |_, args| {
            let name = text(&args[2])?.to_owned();
            step(args, |stage, namespace| match stage {
                Stage::Authorizer(who, question) => {
                    let service_account = Some((namespace.to_owned(), name));
                    Some(Stage::Authorizer(who, Question { service_account, ..question }))
                }
                _ => None,
            })
        },
    ),
    (
        "resource",
        "kubernetes.authorization.GroupCheck.(string) -> kubernetes.authorization.ResourceCheck",
        One,
        |_, args| {
            step(args, |stage, text| match stage {
                Stage::Group(who, question) => {
                    Some(Stage::Resource(who, Question { resource: text.to_owned(), ..question }))
                }
                _ => None,
            })
        },
    ),
    resource_part!("subresource", subresource),
    resource_part!("namespace", namespace),
    resource_part!("name", name),
    resource_part!("fieldSelector", field_selector),
    resource_part!("labelSelector", label_selector),
    (
        "check",
        "kubernetes.authorization.PathCheck.(string) -> kubernetes.authorization.Decision",
        Authorization,
        check,
    ),
    (
        "check",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.Decision",
        Authorization,
        check,
    ),
    ("allowed", "kubernetes.authorization.Decision.() -> bool", One, |_, args| {
        decision(args).map(|found| Value::Bool(found.allowed))
    }),
    ("reason", "kubernetes.authorization.Decision.() -> string", One, |_, args| {
        decision(args).map(|found| Value::text(found.reason.as_str()))
    }),
    ("errored", "kubernetes.authorization.Decision.() -> bool", One, |_, args| {
        decision(args).map(|found| Value::Bool(found.error.is_some()))
    }),
    ("error", "kubernetes.authorization.Decision.() -> string", One, |_, args| {
        decision(args).map(|found| Value::text(found.error.as_deref().unwrap_or_default()))
    }),
];

fn stage<'v, 'a>(value: &'v Value<'a>) -> Result<&'v Stage<'a>, EvalError> {
    match value {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Authorization(stage) => Ok(stage),
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn step<'a>(args: &[Value<'a>], next: impl FnOnce(Stage<'a>, &str) -> Option<Stage<'a>>) -> Outcome<'a> {
    next(stage(&args[0])?.clone(), text(&args[1])?).map(staged).ok_or(EvalError::NoOverload)
}

fn check<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    step(args, |stage, verb| match stage {
        Stage::Path(who, question) | Stage::Resource(who, question) => {
            Some(Stage::Decision(who.authorize(&Question { verb: verb.to_owned(), ..question })))
        }
        _ => None,
    })
}

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v Decision, EvalError> {
    match stage(&args[0])? {
        Stage::Decision(decision) => Ok(decision),
        _ => Err(EvalError::NoOverload),
    }
}
