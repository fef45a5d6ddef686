//! The storage version migrator: all objects of a resource are written anew, unchanged, so that they are stored in the form
//! that the API server stores now.
//!
//! Reads StorageVersionMigrations, discovery, and the metadata of the resource's objects; writes those objects and the
//! migration's status. Woken by changes of a migration. An object that changed meanwhile was written by who changed it.

mod plan;
#[cfg(test)]
mod tests;

use component::controller::Next;
use component::queue::Queue;
use component::{Context, ObjectKey};
use kube::Api;
use kube::api::{ApiResource, ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::answers::{is_conflict, is_not_found, message};
use crate::resources::{Discovered, Resources, discover};
use crate::wiring::{self, Cache};
use plan::{Outcome, Phase};

/// Migrations that go on side by side.
const WORKERS: usize = 2;
/// Items in one page of a list.
const PAGE: u32 = 500;
/// The migrations, as [`Discovered::name`] has them.
const MIGRATIONS: &str = "storageversionmigrations.storagemigration.k8s.io";
const MANAGER: &str = "storage-version-migrator-controller";

#[derive(Clone)]
struct Controller {
    context: Context,
}

/// Starts the controller.
pub fn start(context: &Context, resources: &Resources) {
    let queue: Queue<String> = Queue::new();
    let keys = queue.clone();
    resources.on_kind(move |followed| {
        if &*followed.name == MIGRATIONS {
            let keys = keys.clone();
            followed.objects.on_change(move |change| keys.add(ObjectKey::of(&**change.latest()).name));
        }
    });
    let controller = Controller { context: context.clone() };
    let caches: [&dyn Cache; 0] = [];
    wiring::run(
        context,
        ("storage-migration", queue, WORKERS),
        &caches,
        controller,
        |controller, key| async move { controller.reconcile(&key).await },
    );
}

impl Controller {
    async fn reconcile(&self, name: &str) -> kube::Result<Next> {
        let Some(migration) = self.migrations().get_opt(name).await? else { return Ok(Next::Done) };
        if plan::is_done(&migration) {
            return Ok(Next::Done);
        }
        let found = discover(&self.context.client).await?;
        let (group, plural) = plan::wanted(&migration);
        let wanted = found.kinds.iter().find(|kind| kind.api.group == group && kind.api.plural == plural);
        let outcome = match wanted {
            Some(kind) if kind.supports(&["list", "patch"]) => self.migrate(&migration, kind).await?,
            _ => match plan::may_appear(&migration, self.context.clock.now()) {
                Some(wait) => return Ok(Next::After(wait)),
                None => Outcome::Failed("resource not found".to_owned()),
            },
        };
        let phase = match outcome {
            Outcome::Gone => return Ok(Next::Done),
            Outcome::Complete => Phase::Succeeded,
            Outcome::Failed(why) => Phase::Failed(why),
        };
        self.say(name, &phase, None).await
    }

    fn migrations(&self) -> Api<DynamicObject> {
        let api = ApiResource {
            group: "storagemigration.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "storagemigration.k8s.io/v1".to_owned(),
            kind: "StorageVersionMigration".to_owned(),
            plural: "storageversionmigrations".to_owned(),
        };
        Api::all_with(self.context.client.clone(), &api)
    }

    /// Writes what has become of a migration, and from which revision on it looked, on the status that is there now.
    async fn say(&self, name: &str, phase: &Phase, revision: Option<&str>) -> kube::Result<Next> {
        let Some(current) = self.migrations().get_opt(name).await? else { return Ok(Next::Done) };
        let mut status = json!({"conditions": plan::conditions(&current, phase, self.context.clock.now())});
        if let Some(revision) = revision.filter(|_| current.data["status"]["resourceVersion"].is_null()) {
            status["resourceVersion"] = Value::from(revision);
        }
        let body =
            json!({"metadata": {"resourceVersion": current.metadata.resource_version}, "status": status});
        let written =
            self.migrations().patch_status(name, &PatchParams::default(), &Patch::Merge(body)).await;
        match written {
            Ok(_) => Ok(Next::Done),
            Err(error) if is_not_found(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }

    /// Writes every object that there is when it begins. Those made later are stored in the new form anyhow.
    async fn migrate(&self, migration: &DynamicObject, kind: &Discovered) -> kube::Result<Outcome> {
        let name = migration.metadata.name.as_deref().unwrap_or_default();
        let all: Api<DynamicObject> = Api::all_with(self.context.client.clone(), &kind.api);
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = all.list_metadata(&parameters).await?;
            if parameters.continue_token.is_none() {
                self.say(name, &Phase::Running, page.metadata.resource_version.as_deref()).await?;
            }
            for object in &page.items {
                if let Err(error) = self.write(kind, &object.metadata).await {
                    return Ok(Outcome::Failed(message(&error)));
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => break,
            }
        }
        let still = self.migrations().get_opt(name).await?;
        let same = still.is_some_and(|still| still.metadata.uid == migration.metadata.uid);
        Ok(if same { Outcome::Complete } else { Outcome::Gone })
    }

    async fn write(&self, kind: &Discovered, object: &kube::core::ObjectMeta) -> kube::Result<()> {
        let api = kind.access(&self.context.client, object.namespace.as_deref().unwrap_or_default());
        // With both it is refused if it is not this very object as it was seen.
        let body = json!({"metadata": {"uid": object.uid, "resourceVersion": object.resource_version}});
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch(object.name.as_deref().unwrap_or_default(), &parameters, &Patch::Merge(body)).await {
            Ok(_) => Ok(()),
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
