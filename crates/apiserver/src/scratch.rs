#![allow(dead_code, missing_docs)]
use std::sync::Arc;
use crate::server::ApiServer;
use crate::request::route::ResourceCall;
use crate::request::decode::Body;
use futures::future::BoxFuture;
type B = BoxFuture<'static, ()>;
fn a(s: Arc<ApiServer>, c: ResourceCall) -> B { Box::pin(async move { drop(crate::registry::read(&s, &c).await); }) }
fn b(s: Arc<ApiServer>, c: ResourceCall, b: Body) -> B { Box::pin(async move { drop(crate::registry::write(&s, &c, &b).await); }) }
fn c(s: Arc<ApiServer>, c: crate::request::route::Call) -> B { Box::pin(async move { drop(crate::discovery::serve(&s, &c).await); }) }
fn d(s: Arc<ApiServer>, p: http::request::Parts) -> B { Box::pin(async move { drop(crate::request::authenticate::user(&s, &p).await); }) }
fn e(s: Arc<ApiServer>, c: ResourceCall) -> B { Box::pin(async move { drop(crate::allocation::plan(&s, &c, None, None).await); }) }
fn f(s: Arc<ApiServer>, u: crate::types::UserInfo, i: crate::types::RequestInfo) -> B { Box::pin(async move { drop(crate::request::flow::enter(&s, &u, &i).await); }) }
fn g(s: Arc<ApiServer>, u: crate::types::UserInfo, i: crate::types::RequestInfo) -> B { Box::pin(async move { drop(crate::request::authorize::check(&s, &u, &i).await); }) }
