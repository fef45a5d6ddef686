//! Streams that tell that something changed: CRI's own, and containerd's for versions that lack it.

use super::{ContainerStatus, PodSandboxStatus};

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct GetEventsRequest {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ContainerEventType {
    ContainerCreatedEvent = 0,
    ContainerStartedEvent = 1,
    ContainerStoppedEvent = 2,
    ContainerDeletedEvent = 3,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerEventResponse {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(enumeration = "ContainerEventType", tag = "2")]
    pub container_event_type: i32,
    #[prost(int64, tag = "3")]
    pub created_at: i64,
    #[prost(message, optional, tag = "4")]
    pub pod_sandbox_status: Option<PodSandboxStatus>,
    #[prost(message, repeated, tag = "5")]
    pub containers_statuses: Vec<ContainerStatus>,
}

/// containerd's `events.v1.SubscribeRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// containerd's `events.v1.Envelope`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Envelope {
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub topic: String,
    #[prost(message, optional, tag = "4")]
    pub event: Option<AnyEvent>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AnyEvent {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// containerd's `events.TaskExit`, in short. `id` differs from `container_id` for what was run beside the container's
/// own process.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TaskExit {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub id: String,
}

impl Envelope {
    /// The container whose own process ended, if that is what happened.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        if self.topic != "/tasks/exit" {
            return None;
        }
        let exit = <TaskExit as prost::Message>::decode(self.event.as_ref()?.value.as_slice()).ok()?;
        (exit.id.is_empty() || exit.id == exit.container_id).then_some(exit.container_id)
    }
}
