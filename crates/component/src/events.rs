//! Events: what happened to an object, for people to read. Repeats of one event raise its count instead of making
//! another. Best effort by design: the queue is bounded, an event that cannot be written is logged and dropped, and
//! nothing may depend on one.

use std::collections::BTreeMap;

use crate::Api;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

use crate::Context;

/// Events that wait to be written.
const WAITING: usize = 1000;
/// Events whose repeats are recognised; the oldest are forgotten.
const REMEMBERED: usize = 4096;
/// Longest note that the API takes.
const NOTE: usize = 1024;

/// Whether an event is good news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    /// Information.
    Normal,
    /// Something needs attention.
    Warning,
}

impl EventType {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Everything that makes two events the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    object: (String, String, String, String, String),
    kind: EventType,
    reason: String,
    note: String,
}

struct Record {
    object: ObjectReference,
    identity: Identity,
    at: Timestamp,
}

/// Records events in the name of one component. Cheaply cloned.
#[derive(Clone)]
pub struct Recorder {
    records: mpsc::Sender<Record>,
    clock: api_machinery::clock::Clock,
}

impl Recorder {
    /// A recorder whose events say that they come from `component` (and from the node `host`, if it is one's).
    pub fn new(context: &Context, component: &'static str, host: Option<String>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let writer = Writer {
            client: context.client.clone(),
            entropy: context.entropy.clone(),
            source: EventSource { component: Some(component.to_owned()), host },
            known: BTreeMap::new(),
            order: 0,
        };
        let shutdown = context.shutdown.clone();
        context.tasks.spawn(async move {
            shutdown.run_until_cancelled(writer.run(receiver)).await;
        });
        Self { records: sender, clock: context.clock.clone() }
    }

    /// Records that something happened to an object.
    pub fn event(&self, object: &ObjectReference, kind: EventType, reason: &str, note: impl Into<String>) {
        let mut note = note.into();
        if note.len() > NOTE {
            note.truncate(note.floor_char_boundary(NOTE - 3));
            note.push_str("...");
        }
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let key = (
            text(&object.kind),
            text(&object.namespace),
            text(&object.name),
            text(&object.uid),
            text(&object.field_path),
        );
        let identity = Identity { object: key, kind, reason: reason.to_owned(), note };
        let record = Record { object: object.clone(), identity, at: self.clock.now() };
        if let Err(error) = self.records.try_send(record) {
            tracing::warn!(%error, reason, "an event was dropped");
        }
    }
}

/// A reference to an object, as events carry it.
pub fn reference<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

struct Known {
    name: String,
    count: i32,
    used: u64,
}

struct Writer {
    client: kube::Client,
    entropy: api_machinery::entropy::Entropy,
    source: EventSource,
    known: BTreeMap<Identity, Known>,
    order: u64,
}

impl Writer {
    async fn run(mut self, mut records: mpsc::Receiver<Record>) {
        while let Some(record) = records.recv().await {
            if let Err(error) = self.write(&record).await {
                // Nobody can act on it, and an event about an event would not end.
                tracing::debug!(%error, reason = record.identity.reason, "an event was not written");
            }
        }
    }

    async fn write(&mut self, record: &Record) -> kube::Result<()> {
        self.order += 1;
        let namespace = record.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Some(known) = self.known.get_mut(&record.identity) {
            known.count += 1;
            known.used = self.order;
            let patch = serde_json::json!({"count": known.count, "lastTimestamp": Time(record.at)});
            match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // It has expired: what happened is news again.
                Err(kube::Error::Api(status)) if status.code == 404 => self.known.remove(&record.identity),
                other => return other.map(drop),
            };
        }
        let name = self.create(&api, &namespace, record).await?;
        self.known.insert(record.identity.clone(), Known { name, count: 1, used: self.order });
        self.forget_oldest();
        Ok(())
    }

    async fn create(&self, api: &Api<Event>, namespace: &str, record: &Record) -> kube::Result<String> {
        let object = record.object.name.as_deref().unwrap_or("object");
        let name = format!("{object}.{:016x}", self.entropy.below(u64::MAX));
        let Identity { kind, reason, note, .. } = &record.identity;
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: record.object.clone(),
            type_: Some(kind.name().to_owned()),
            reason: Some(reason.clone()),
            message: Some(note.clone()),
            count: Some(1),
            first_timestamp: Some(Time(record.at)),
            last_timestamp: Some(Time(record.at)),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            source: Some(self.source.clone()),
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await?;
        Ok(name)
    }

    fn forget_oldest(&mut self) {
        if self.known.len() > REMEMBERED {
            let mut ages: Vec<u64> = self.known.values().map(|known| known.used).collect();
            ages.sort_unstable();
            let keep_from = ages[REMEMBERED / 2];
            self.known.retain(|_, known| known.used >= keep_from);
        }
    }
}
