//! The namespace controller: a namespace that is being deleted is emptied, pods first, and then let go.
//!
//! Reads Namespaces, discovery, and the metadata of what is in them; deletes content, writes the conditions that say what
//! is left, and takes the finalizer `kubernetes` away. Woken by changes of the namespace and by content that goes. Pods
//! keep their grace, and finalizers of others their say: both are waited for.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::DynamicObject;
use serde_json::json;
use tokio::time::Instant;

use crate::answers::{is_not_found, message};
use crate::informers::Informers;
use crate::resources::{Discovered, Metadata, Resources, discover};
use crate::wiring::{self, Cache};
use plan::Content;

/// Namespaces that are emptied side by side.
const WORKERS: usize = 4;
/// A namespace stays at least this long after its deletion was seen: another API server may let content in until it has
/// seen it too. What came in so is found by the last pass, which is made after this time.
const SETTLE: Duration = Duration::from_secs(5);
/// Objects that go together are one reason to look.
const GATHER: Duration = Duration::from_millis(100);
/// When to look again for content whose end nobody tells.
const UNTOLD: Duration = Duration::from_secs(5);
/// Items in one page of a list.
const PAGE: u32 = 500;

/// A namespace's uid, and when its deletion was first seen.
type Seen = (Option<String>, Instant);

#[derive(Clone)]
struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    resources: Resources,
    /// When the deletion of a namespace was first seen, by name.
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
}

/// Starts the controller.
pub fn start(context: &Context, informers: &Informers, resources: &Resources) {
    let queue: Queue<String> = Queue::new();
    let keys = queue.clone();
    informers.namespaces.on_change(move |change| {
        if change.new.is_none_or(|namespace| plan::is_ours(namespace)) {
            keys.add(ObjectKey::of(&**change.latest()).name);
        }
    });
    let (keys, namespaces) = (queue.clone(), informers.namespaces.clone());
    resources.on_kind(move |followed| {
        let (keys, namespaces) = (keys.clone(), namespaces.clone());
        followed.objects.on_change(move |change| {
            let namespace = change.latest().metadata.namespace.as_deref().unwrap_or("");
            let ours =
                || namespaces.get(&ObjectKey::new("", namespace)).is_some_and(|found| plan::is_ours(&found));
            if change.new.is_none() && !namespace.is_empty() && ours() {
                keys.add_after(namespace.to_owned(), GATHER);
            }
        });
    });
    let controller = Controller {
        context: context.clone(),
        namespaces: informers.namespaces.clone(),
        resources: resources.clone(),
        seen: Arc::default(),
    };
    let caches: [&dyn Cache; 1] = [&informers.namespaces];
    wiring::run(context, ("namespace", queue, WORKERS), &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
}

impl Controller {
    async fn reconcile(&self, name: &str) -> kube::Result<Next> {
        let cached = self.namespaces.get(&ObjectKey::new("", name));
        let Some(cached) = cached.filter(|cached| plan::is_ours(cached)) else {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
            return Ok(Next::Done);
        };
        let api: Api<Namespace> = Api::all(self.context.client.clone());
        // Live: content must never be deleted because an older namespace had this name.
        let Some(mut namespace) = api.get_opt(name).await? else { return Ok(Next::Done) };
        if namespace.metadata.uid != cached.metadata.uid || !plan::is_ours(&namespace) {
            return Ok(Next::Done);
        }
        let settled = self.first_seen(name, &namespace.metadata.uid) + SETTLE;
        let (content, untold) = self.empty(name).await?;
        if let Some(conditions) = plan::conditions(&namespace, &content, self.context.clock.now()) {
            let body = json!({
                "metadata": {"resourceVersion": namespace.metadata.resource_version},
                "status": {"phase": "Terminating", "conditions": conditions},
            });
            namespace = api.patch_status(name, &PatchParams::default(), &Patch::Merge(body)).await?;
        }
        if !content.is_empty() {
            let failed = !content.failures.is_empty() || !content.undiscovered.is_empty();
            return Ok(if untold || failed { Next::After(UNTOLD) } else { Next::Done });
        }
        let now = Instant::now();
        if now < settled {
            return Ok(Next::After(settled - now));
        }
        match api
            .replace_subresource("finalize", name, &PostParams::default(), &plan::finalized(&namespace))
            .await
        {
            Ok(_) => Ok(Next::Done),
            Err(error) if is_not_found(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }

    /// When the deletion of this very namespace was first seen.
    fn first_seen(&self, name: &str, uid: &Option<String>) -> Instant {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(name) {
            Some((known, at)) if known == uid => *at,
            _ => {
                let now = Instant::now();
                seen.insert(name.to_owned(), (uid.clone(), now));
                now
            }
        }
    }

    /// Deletes what is in a namespace, and says what is left; the flag is set if something is left whose end is not told.
    async fn empty(&self, name: &str) -> kube::Result<(Content, bool)> {
        let mut content = Content::default();
        let found = match discover(&self.context.client).await {
            Ok(found) => found,
            Err(error) => {
                content.undiscovered.push(message(&error));
                return Ok((content, true));
            }
        };
        content.undiscovered = found.missing;
        let kinds = found.kinds.iter().filter(|kind| kind.namespaced && kind.supports(&["delete", "list"]));
        let (first, others): (Vec<&Discovered>, Vec<&Discovered>) =
            kinds.partition(|kind| kind.name() == plan::FIRST);
        let mut untold = false;
        for kinds in [first, others] {
            for kind in kinds {
                let before = content.remaining.len();
                if let Err(error) = self.empty_kind(name, kind, &mut content).await {
                    content.failures.push(format!("{}: {}", kind.name(), message(&error)));
                }
                untold |= content.remaining.len() > before && self.resources.get(&kind.name()).is_none();
            }
            if !content.remaining.is_empty() {
                break;
            }
        }
        Ok((content, untold))
    }

    /// Deletes the objects of one kind, unless they are being deleted already, and notes those that are left.
    async fn empty_kind(&self, name: &str, kind: &Discovered, content: &mut Content) -> kube::Result<()> {
        let api = kind.access(&self.context.client, name);
        let mut left = list(&api).await?;
        if left.iter().any(|object| object.metadata.deletion_timestamp.is_none()) {
            if kind.supports(&["deletecollection"]) {
                api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
            } else {
                delete_each(&api, &left).await?;
            }
            left = list(&api).await?;
        }
        let plural = format!("{}.{}", kind.api.plural, kind.api.group);
        content.remains(&plural, left.iter().map(|object| &object.metadata));
        Ok(())
    }
}

async fn list(api: &kube::Api<DynamicObject>) -> kube::Result<Vec<Metadata>> {
    let mut parameters = ListParams::default().limit(PAGE);
    let mut items = Vec::new();
    loop {
        let page = api.list_metadata(&parameters).await?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return Ok(items),
        }
    }
}

async fn delete_each(api: &kube::Api<DynamicObject>, objects: &[Metadata]) -> kube::Result<()> {
    for object in objects {
        let preconditions = Preconditions { uid: object.metadata.uid.clone(), resource_version: None };
        let parameters = DeleteParams::background().preconditions(preconditions);
        match api.delete(object.metadata.name.as_deref().unwrap_or_default(), &parameters).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
