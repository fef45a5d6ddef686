//! Bugs that are planted on purpose, to see that the checkers find them: what a component sends is changed on its way, as if
//! the component, or the API server, had been written wrongly.
//!
//! Deliberately absent: any use outside the tests of the checkers. Nothing in `scenarios/` is sabotaged.

use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::types::{Body as AnswerBody, UserInfo};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Every pod that a component creates is created twice.
    Doubles,
    /// Every pod is bound to this node, whatever the scheduler says.
    Crowding(String),
    /// Pods that a component deletes are said to be deleted, and are not.
    LostDeletes,
}

impl Sabotage {
    /// Carries a component's request out, wrongly if it is one of those that this is about.
    pub(crate) async fn call(
        &self,
        server: &Arc<ApiServer>,
        user: UserInfo,
        request: Request<Body>,
    ) -> Response<AnswerBody> {
        let (mut head, body) = request.into_parts();
        let mut body = body.collect().await.expect("a body in memory has no errors").to_bytes();
        let path = head.uri.path();
        let of_pods = path.contains("/pods");
        match self {
            Self::Doubles if head.method == Method::POST && path.ends_with("/pods") => {
                let first = Request::from_parts(head.clone(), Body::from(body.clone()));
                drop(server.call(user.clone(), first).await);
            }
            Self::Crowding(node) if of_pods && path.ends_with("/binding") => {
                let mut binding: Value = serde_json::from_slice(&body).expect("a component sends JSON");
                binding["target"]["name"] = node.as_str().into();
                body = binding.to_string().into();
            }
            Self::LostDeletes if of_pods && head.method == Method::DELETE => {
                head.method = Method::GET;
                head.headers.clear();
                body.clear();
            }
            _ => {}
        }
        server.call(user, Request::from_parts(head, Body::from(body))).await
    }
}
