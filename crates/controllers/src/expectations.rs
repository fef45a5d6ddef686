//! "Never act on a view older than your own last write", for keys that stand for many objects: what was created or changed
//! is seen when the cache has reached its revision, what was deleted when it is gone from the cache or marked there.
//!
//! A write whose answer was lost may have been carried out. Its key is in doubt until the API has been read again, after the
//! failure, and is then waited for as if the answer had come ([`Expectations::resolve`]). Deliberately absent: requests
//! that the server carries out only after that read; and changes, which say what they are based on and are refused when
//! they are made twice.
//!
//! Kept in memory only: a controller that starts anew lists first, and so sees what its predecessor wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use component::Api;
use component::ObjectKey;
use component::api::Object;
use component::controller::Next;
use component::freshness::Freshness;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde::Serialize;

use crate::answers;
use crate::claim;

/// The change that is waited for queues the key. Only one that fell into a gap of the watch (made and gone again
/// meanwhile) does not; then this is when the key comes back.
pub(crate) const NOT_SEEN: Next = Next::After(Duration::from_secs(30));

/// What a reconciler wrote and has not seen yet, per key.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    written: Freshness<ObjectKey>,
    deleted: Mutex<BTreeMap<ObjectKey, BTreeSet<String>>>,
    doubts: Mutex<BTreeMap<ObjectKey, Doubt>>,
}

/// Writes whose outcome is unknown.
#[derive(Clone, Debug, Default)]
struct Doubt {
    /// Something may have been created.
    created: bool,
    /// Names and uids of what may have been deleted.
    deleted: BTreeMap<String, String>,
}

impl Expectations {
    fn deleted(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, BTreeSet<String>>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubts(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Doubt>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates an object for the key. Whether something was made that the server did not answer for is looked up before
    /// the next pass, by [`Expectations::resolve`].
    pub(crate) async fn create<K>(&self, key: &ObjectKey, api: &Api<K>, object: &K) -> kube::Result<K>
    where
        K: Object + Serialize,
    {
        let created = api.create(&PostParams::default(), object).await;
        match &created {
            Ok(object) => self.wrote(key, object),
            Err(error) if answers::outcome_is_unknown(error) => {
                self.doubts().entry(key.clone()).or_default().created = true;
            }
            Err(_) => {}
        }
        created
    }

    /// Deletes this very object and no namesake; that it is gone already is as good. A lost answer is looked up as that of
    /// a creation is.
    pub(crate) async fn delete<K>(
        &self,
        key: &ObjectKey,
        api: &Api<K>,
        object: &K,
        mut parameters: DeleteParams,
    ) -> kube::Result<()>
    where
        K: Object,
    {
        let name = object.meta().name.as_deref().unwrap_or_default();
        let uid = object.meta().uid.clone().unwrap_or_default();
        parameters.preconditions.get_or_insert_default().uid = Some(uid.clone());
        match api.delete(name, &parameters).await {
            Ok(_) => {}
            Err(error) if answers::is_not_found(&error) => {}
            Err(error) => {
                if answers::outcome_is_unknown(&error) {
                    self.doubts().entry(key.clone()).or_default().deleted.insert(name.to_owned(), uid);
                }
                return Err(error);
            }
        }
        self.deleted_uid(key, uid);
        Ok(())
    }

    /// Writes the status of the key's own object, unless that is gone, and says whether it did. When it has changed
    /// meanwhile, nothing is written: the view that the pass acted on is old, and [`Expectations::met`] waits for what is
    /// there now.
    pub(crate) async fn write_status<K>(
        &self,
        key: &ObjectKey,
        api: &Api<K>,
        changed: &K,
    ) -> kube::Result<bool>
    where
        K: Object + Serialize,
    {
        match api.replace_status(&key.name, &PostParams::default(), changed).await {
            Ok(written) => self.wrote(key, &written),
            Err(error) if answers::is_not_found(&error) => return Ok(false),
            Err(error) if answers::is_conflict(&error) => {
                if let Some(live) = api.get_opt(&key.name).await? {
                    self.wrote(key, &live);
                }
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Reads what became of the key's writes whose answers were lost, for [`Expectations::met`] to wait for it. `owner` is
    /// the uid of the key's object and `selector` selects the labels of what it creates. The key stays in doubt when the
    /// API cannot be read.
    pub(crate) async fn resolve<K>(
        &self,
        key: &ObjectKey,
        api: &Api<K>,
        selector: &str,
        owner: &str,
    ) -> kube::Result<()>
    where
        K: Object,
    {
        let Some(doubt) = self.doubts().get(key).cloned() else { return Ok(()) };
        // Neither read names a resourceVersion, so both show all that was written before them.
        for (name, uid) in doubt.deleted {
            match api.get_opt(&name).await? {
                Some(object) if object.meta().uid.as_ref() == Some(&uid) => self.wrote(key, &object),
                Some(_) | None => self.deleted_uid(key, uid),
            }
        }
        if doubt.created {
            let live = api.list(&ListParams::default().labels(selector)).await?;
            let mine = live.items.iter().filter(|object| claim::is_controlled_by(object.meta(), owner));
            mine.for_each(|object| self.wrote(key, object));
        }
        self.doubts().remove(key);
        Ok(())
    }

    /// Notes an object that was created or changed, as the server answered.
    pub(crate) fn wrote<K: kube::Resource>(&self, key: &ObjectKey, object: &K) {
        self.written.note(key.clone(), object.meta().resource_version.as_deref());
    }

    /// Notes that the object with this uid was deleted.
    pub(crate) fn deleted_uid(&self, key: &ObjectKey, uid: impl Into<String>) {
        self.deleted().entry(key.clone()).or_default().insert(uid.into());
    }

    /// Whether a cache that has seen `revision` shows all that was written. `alive` is asked whether the cache still
    /// shows an object of this uid as not deleted; ask it of objects that were read after `revision`.
    pub(crate) fn met(&self, key: &ObjectKey, revision: u64, alive: impl Fn(&str) -> bool) -> bool {
        let mut deleted = self.deleted();
        let gone = deleted.get_mut(key).is_none_or(|uids| {
            uids.retain(|uid| alive(uid));
            uids.is_empty()
        });
        if gone {
            deleted.remove(key);
        }
        drop(deleted);
        self.written.ready(key, revision) && gone
    }

    /// The key is gone for good.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.written.forget(key);
        self.deleted().remove(key);
        self.doubts().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{Method, Request, Response};
    use http_body_util::Full;
    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use serde_json::json;
    use std::convert::Infallible;

    #[test]
    fn both_creations_and_deletions_are_waited_for() {
        let (expectations, key) = (Expectations::default(), ObjectKey::new("n", "a"));
        let mut pod = Pod::default();
        pod.metadata.resource_version = Some("7".to_owned());
        expectations.wrote(&key, &pod);
        expectations.deleted_uid(&key, "x");
        assert!(!expectations.met(&key, 7, |_| true), "the cache shows what was deleted");
        assert!(expectations.met(&key, 7, |_| false));
        expectations.wrote(&key, &pod);
        assert!(!expectations.met(&key, 6, |_| false), "the cache does not show what was created");
        assert!(expectations.met(&ObjectKey::new("n", "b"), 0, |_| true), "others do not wait");
        expectations.forget(&key);
        assert!(expectations.met(&key, 0, |_| true));
    }

    /// Its object has revision 9, and nobody's is the one that is written.
    fn changed_meanwhile() -> kube::Client {
        let service = tower::service_fn(async |request: Request<Body>| {
            let (code, body) = match *request.method() {
                Method::GET => (200, json!({"metadata": {"name": "a", "resourceVersion": "9"}})),
                _ => (409, json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict"})),
            };
            let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
            *answer.status_mut() = http::StatusCode::from_u16(code).expect("a code");
            Ok::<_, Infallible>(answer)
        });
        kube::Client::new(service, "n")
    }

    #[tokio::test]
    async fn a_status_of_an_old_view_is_not_written_and_the_new_view_is_waited_for() {
        let (expectations, key) = (Expectations::default(), ObjectKey::new("n", "a"));
        let mut pod = Pod::default();
        (pod.metadata.name, pod.metadata.resource_version) = (Some("a".to_owned()), Some("7".to_owned()));
        let api: Api<Pod> = Api::namespaced(changed_meanwhile(), "n");
        let written = expectations.write_status(&key, &api, &pod).await.expect("the next pass does it");
        assert!(!written);
        assert!(!expectations.met(&key, 8, |_| false), "something of another object was seen meanwhile");
        assert!(expectations.met(&key, 9, |_| false));
    }
}
