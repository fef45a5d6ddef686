//! Requests for the objects of one kind, as `kube::Api` offers them, but decoded by code that exists once in the program.
//!
//! Decoding typed objects is the largest part of a client. Generic as it is in `kube`, every crate that names a kind gets
//! a copy of its own, and three per kind: for answers, for lists and for watches. Here a kind is decoded by one plain
//! function of this crate, [`Decode::decode`]; lists and watches are taken apart by code that knows no kind, and hand it
//! each object's text. Deliberately absent: kinds that are only known at run time (those stay with `kube::Api`), except
//! by their metadata.

use std::fmt::Debug;
use std::marker::PhantomData;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use kube::core::{DynamicObject, NamespaceResourceScope, PartialObjectMeta, Request, Status, WatchEvent};
use kube::{Client, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::compat::FuturesAsyncReadCompatExt;

/// The longest event of a watch that is taken, in bytes: an object of the largest size that servers store, with its
/// envelope, several times over.
const EVENT_LIMIT: usize = 16 << 20;

/// What this program decodes from the API.
pub trait Decode: Sized {
    /// Decodes JSON text.
    ///
    /// # Errors
    /// It is not such an object.
    fn decode(json: &str) -> serde_json::Result<Self>;
}

/// Objects of a kind that is known when this program is compiled.
pub trait Object: kube::Resource + Decode + Clone + Debug + Send + Sync + 'static {}
impl<K: kube::Resource + Decode + Clone + Debug + Send + Sync + 'static> Object for K {}

/// Kinds are decoded here and nowhere else. Add a kind when a component begins to read it. Who owns which fields is left
/// out: no component asks, it is as large as the rest of most objects, and a write that does not say keeps it.
macro_rules! decoded_here {
    ($($group:ident :: $version:ident { $($kind:ident),* $(,)? })*) => {$($(
        impl Decode for k8s_openapi::api::$group::$version::$kind {
            fn decode(json: &str) -> serde_json::Result<Self> {
                let mut object: Self = serde_json::from_str(json)?;
                object.metadata.managed_fields = None;
                Ok(object)
            }
        }
    )*)*};
}

decoded_here! {
    apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
    authentication::v1 { TokenRequest, TokenReview }
    authorization::v1 { SubjectAccessReview }
    batch::v1 { CronJob, Job }
    certificates::v1 { CertificateSigningRequest }
    coordination::v1 { Lease }
    core::v1 {
        ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
        ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
    }
    discovery::v1 { EndpointSlice }
    policy::v1 { PodDisruptionBudget }
    rbac::v1 { ClusterRole }
    storage::v1 { StorageClass, VolumeAttachment, VolumeAttributesClass }
}

impl Decode for k8s_openapi::api::core::v1::PodTemplateSpec {
    fn decode(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }
}

impl Decode for Status {
    fn decode(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }
}

impl Decode for PartialObjectMeta<DynamicObject> {
    fn decode(json: &str) -> serde_json::Result<Self> {
        let mut object: Self = serde_json::from_str(json)?;
        object.metadata.managed_fields = None;
        Ok(object)
    }
}

/// Decodes one object from the API's answer.
fn decode<K: Decode>(json: &str) -> Result<K> {
    K::decode(json).map_err(Error::SerdeError)
}

fn encode<T: Serialize>(object: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(object).map_err(Error::SerdeError)
}

fn built(
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<http::Request<Vec<u8>>> {
    request.map_err(Error::BuildRequest)
}

/// One page of objects.
#[derive(Debug)]
pub struct List<K> {
    /// Its revision, and where it goes on.
    pub metadata: ListMeta,
    /// The objects.
    pub items: Vec<K>,
}

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

impl<K: Decode> Decode for List<K> {
    fn decode(json: &str) -> serde_json::Result<Self> {
        let RawList { metadata, items } = serde_json::from_str(json)?;
        let items = items.unwrap_or_default().into_iter().map(|item| K::decode(item.get()));
        Ok(Self { metadata, items: items.collect::<serde_json::Result<_>>()? })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    r#type: EventType,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl<K: Decode> Decode for WatchEvent<K> {
    fn decode(json: &str) -> serde_json::Result<Self> {
        let RawEvent { r#type, object } = serde_json::from_str(json)?;
        Ok(match r#type {
            EventType::Added => Self::Added(K::decode(object.get())?),
            EventType::Modified => Self::Modified(K::decode(object.get())?),
            EventType::Deleted => Self::Deleted(K::decode(object.get())?),
            EventType::Bookmark => Self::Bookmark(serde_json::from_str(object.get())?),
            EventType::Error => Self::Error(serde_json::from_str(object.get())?),
        })
    }
}

/// Sends requests for the objects of one kind, of one namespace or of all. Cheaply cloned.
pub struct Api<K> {
    client: Client,
    request: Request,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), request: self.request.clone(), kind: PhantomData }
    }
}

impl<K: Object<DynamicType = ()>> Api<K> {
    /// Objects without a namespace, or of all namespaces.
    pub fn all(client: Client) -> Self {
        Self { client, request: Request::new(K::url_path(&(), None)), kind: PhantomData }
    }

    /// Objects of a namespace.
    pub fn namespaced(client: Client, namespace: &str) -> Self
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
    {
        Self { client, request: Request::new(K::url_path(&(), Some(namespace))), kind: PhantomData }
    }
}

impl<K: Object> Api<K> {
    async fn send<T: Decode>(&self, request: http::Request<Vec<u8>>) -> Result<T> {
        decode(&self.client.request_text(request).await?)
    }

    /// One object.
    ///
    /// # Errors
    /// As all requests here: the server's refusal, a failed connection, or an answer that is not such an object.
    pub async fn get(&self, name: &str) -> Result<K> {
        self.send(built(self.request.get(name, &GetParams::default()))?).await
    }

    /// One object, if there is one of that name.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A page of objects.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn list(&self, parameters: &ListParams) -> Result<List<K>> {
        self.send(built(self.request.list(parameters))?).await
    }

    /// Follows what happens to objects after the revision `from`.
    ///
    /// # Errors
    /// As [`Api::get`]; later ones come as items, and end the stream.
    pub async fn watch(
        &self,
        parameters: &WatchParams,
        from: &str,
    ) -> Result<BoxStream<'static, Result<WatchEvent<K>>>> {
        events(&self.client, built(self.request.watch(parameters, from))?).await
    }

    /// Creates an object; returns it as it is stored.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn create(&self, parameters: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.send(built(self.request.create(parameters, encode(object)?))?).await
    }

    /// Writes a whole object; returns it as it is stored.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn replace(&self, name: &str, parameters: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.send(built(self.request.replace(name, parameters, encode(object)?))?).await
    }

    /// Writes the subresource of an object, which it is sent with; returns the object as it is stored.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn replace_subresource(
        &self,
        subresource: &str,
        name: &str,
        parameters: &PostParams,
        object: &K,
    ) -> Result<K>
    where
        K: Serialize,
    {
        let body = encode(object)?;
        self.send(built(self.request.replace_subresource(subresource, name, parameters, body))?).await
    }

    /// Writes the status of an object, which it is sent with; returns the object as it is stored.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn replace_status(&self, name: &str, parameters: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.replace_subresource("status", name, parameters, object).await
    }

    /// Sends something to the subresource of an object; returns its answer.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn create_subresource<S: Serialize, T: Decode>(
        &self,
        subresource: &str,
        name: &str,
        parameters: &PostParams,
        body: &S,
    ) -> Result<T> {
        let body = encode(body)?;
        self.send(built(self.request.create_subresource(subresource, name, parameters, body))?).await
    }

    /// Changes an object; returns it as it is stored.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn patch<P: Serialize>(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        self.send(built(self.request.patch(name, parameters, patch))?).await
    }

    /// Changes the status of an object; returns the object as it is stored.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn patch_status<P: Serialize>(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        self.send(built(self.request.patch_subresource("status", name, parameters, patch))?).await
    }

    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn delete(&self, name: &str, parameters: &DeleteParams) -> Result<()> {
        self.client.request_text(built(self.request.delete(name, parameters))?).await.map(drop)
    }
}

/// Lists and follows objects of any kind, by their metadata alone.
#[derive(Clone)]
pub(crate) struct MetadataApi {
    client: Client,
    request: Request,
}

impl MetadataApi {
    pub(crate) fn new(api: kube::Api<DynamicObject>) -> Self {
        let request = Request::new(api.resource_url());
        Self { client: api.into_client(), request }
    }

    pub(crate) async fn list(
        &self,
        parameters: &ListParams,
    ) -> Result<List<PartialObjectMeta<DynamicObject>>> {
        decode(&self.client.request_text(built(self.request.list_metadata(parameters))?).await?)
    }

    pub(crate) async fn watch(
        &self,
        parameters: &WatchParams,
        from: &str,
    ) -> Result<BoxStream<'static, Result<WatchEvent<PartialObjectMeta<DynamicObject>>>>> {
        events(&self.client, built(self.request.watch_metadata(parameters, from))?).await
    }
}

async fn events<K: Decode + Send + 'static>(
    client: &Client,
    request: http::Request<Vec<u8>>,
) -> Result<BoxStream<'static, Result<WatchEvent<K>>>> {
    let lines = lines(client, request).await?;
    Ok(lines.map(|line| line.and_then(|line| decode(&line))).boxed())
}

/// The lines of an answer, as they come.
async fn lines(
    client: &Client,
    request: http::Request<Vec<u8>>,
) -> Result<BoxStream<'static, Result<String>>> {
    let body = Box::pin(client.request_stream(request).await?);
    let lines = FramedRead::new(body.compat(), LinesCodec::new_with_max_length(EVENT_LIMIT));
    let failed = |error| match error {
        LinesCodecError::Io(error) => Error::ReadEvents(error),
        LinesCodecError::MaxLineLengthExceeded => Error::LinesCodecMaxLineLengthExceeded,
    };
    Ok(lines.map_err(failed).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    const OBJECT: &str = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":"v"}}"#;

    #[test]
    fn a_list_is_taken_apart_and_each_object_decoded() {
        let text = format!(
            r#"{{"kind":"ConfigMapList","apiVersion":"v1","metadata":{{"resourceVersion":"7","continue":"x"}},"items":[{OBJECT}]}}"#
        );
        let list = List::<ConfigMap>::decode(&text).expect("a list");
        assert_eq!(list.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(list.metadata.continue_.as_deref(), Some("x"));
        assert_eq!(list.items[0].data.as_ref().expect("data")["k"], "v");
        for empty in [r#"{"items":null}"#, r#"{"items":[]}"#, "{}"] {
            assert!(List::<ConfigMap>::decode(empty).expect("a list").items.is_empty());
        }
    }

    #[test]
    fn an_item_that_is_something_else_fails_the_list() {
        let text = r#"{"metadata":{},"items":[{"metadata":{"name":"a"},"data":7}]}"#;
        assert!(List::<ConfigMap>::decode(text).is_err());
    }

    #[test]
    fn events_are_what_they_say() {
        let event = |kind: &str, object: &str| {
            WatchEvent::<ConfigMap>::decode(&format!(r#"{{"type":"{kind}","object":{object}}}"#))
        };
        assert!(matches!(event("ADDED", OBJECT), Ok(WatchEvent::Added(_))));
        assert!(matches!(event("MODIFIED", OBJECT), Ok(WatchEvent::Modified(_))));
        assert!(matches!(event("DELETED", OBJECT), Ok(WatchEvent::Deleted(_))));
        let bookmark = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"9"}}"#;
        match event("BOOKMARK", bookmark) {
            Ok(WatchEvent::Bookmark(bookmark)) => assert_eq!(bookmark.metadata.resource_version, "9"),
            other => panic!("{other:?}"),
        }
        match event("ERROR", r#"{"kind":"Status","status":"Failure","reason":"Expired","code":410}"#) {
            Ok(WatchEvent::Error(status)) => assert_eq!(status.code, 410),
            other => panic!("{other:?}"),
        }
        assert!(event("SOMETHING", OBJECT).is_err());
        assert!(event("ADDED", "7").is_err());
    }
}
