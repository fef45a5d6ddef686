//! One cache per kind, shared by the controllers that run. Kinds of volumes are followed only if the cloud has volumes.

use component::Api;
use component::Context;
use component::api::Object;
use component::informer::{Informer, Selection};
use k8s_openapi::api::core::v1::{Node, Service};

/// The shared caches.
#[derive(Clone)]
pub(crate) struct Informers {
    pub(crate) nodes: Informer<Node>,
    pub(crate) services: Informer<Service>,
}

impl Informers {
    pub(crate) fn start(context: &Context) -> Self {
        Self { nodes: follow(context), services: follow(context) }
    }
}

/// Follows every object of a kind.
pub(crate) fn follow<K>(context: &Context) -> Informer<K>
where
    K: Object + kube::Resource<DynamicType = ()>,
{
    let all = Api::all(context.client.clone());
    Informer::start(&context.tasks, context.shutdown.clone(), all, Selection::default())
}
