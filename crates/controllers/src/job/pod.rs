//! The pods of a Job: how they are marked, how they ended, and what a new one looks like. Pure.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, EnvVar, EnvVarSource, ObjectFieldSelector, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_rules::status;

use crate::claim;

/// Held by pods that are not counted yet.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Names are at most this long, with five letters of the server's at their end.
const LONGEST_PREFIX: usize = 63 - 5;

/// Whether a pod waits for being counted.
pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The index that a pod works for.
pub(crate) fn index(pod: &Pod) -> Option<i32> {
    annotation(pod, INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// How often the pods of an index had failed when this one was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// Those that count against the limit.
    pub counted: i32,
    /// Those that the failure policy ignores.
    pub ignored: i32,
}

impl Failures {
    pub(crate) fn of(pod: &Pod) -> Self {
        let number = |key| annotation(pod, key).and_then(|text| text.parse().ok()).unwrap_or(0);
        Self { counted: number(FAILURES), ignored: number(IGNORED) }
    }

    pub(crate) fn all(self) -> i32 {
        self.counted.saturating_add(self.ignored)
    }
}

/// Containers of every kind that have a status.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    })
}

/// How often the containers of a pod were started again.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    containers(pod).map(|container| container.restart_count).sum()
}

/// When a pod ended, as well as that is known.
pub(crate) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let ended = |container: &ContainerStatus| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    };
    let last = containers(pod).filter_map(ended).max();
    let unready = || status::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0);
    let deleted = || pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let created = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    last.or_else(unready).or_else(deleted).or_else(created)
}

/// A new pod; `place` is the index that it works for and, if the Job limits failures by index, what came before.
pub(crate) fn new_pod(job: &Job, place: Option<(i32, Option<Failures>)>) -> Pod {
    let spec = job.spec.as_ref();
    let template = spec.map(|spec| spec.template.clone()).unwrap_or_default();
    let from = template.metadata.unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut finalizers = from.finalizers.unwrap_or_default();
    finalizers.push(FINALIZER.to_owned());
    let mut pod = Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: job.metadata.namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: Some(finalizers),
            owner_references: Some(vec![claim::owner_reference(job)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    if let Some((index, failures)) = place {
        make_indexed(&mut pod, name, index, failures);
    }
    pod
}

fn make_indexed(pod: &mut Pod, job: &str, index: i32, failures: Option<Failures>) {
    let end = format!("-{index}-");
    let mut prefix = job.to_owned();
    prefix.truncate(LONGEST_PREFIX - end.len());
    pod.metadata.generate_name = Some(prefix + &end);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some(failures) = failures {
        annotations.insert(FAILURES.to_owned(), failures.counted.to_string());
        if failures.ignored > 0 {
            annotations.insert(IGNORED.to_owned(), failures.ignored.to_string());
        }
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let Some(spec) = pod.spec.as_mut() else { return };
    spec.hostname = Some(format!("{job}-{index}"));
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        tell_index(container);
    }
}

fn tell_index(container: &mut Container) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let env = container.env.get_or_insert_default();
    if env.iter().any(|known| known.name == NAME) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    env.push(EnvVar {
        name: NAME.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    });
}
