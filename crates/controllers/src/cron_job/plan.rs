//! What a CronJob needs next: whether a Job is due, which Jobs go, what its status is. Pure.

use std::sync::Arc;

use api_machinery::cron::Schedule;
use component::events::EventType;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::claim;
use crate::job;

/// The time that a Job is for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are told.
const MANY: usize = 100;
/// More than this are not counted.
const TOO_MANY: usize = 10_000;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub kind: EventType,
    pub reason: &'static str,
    pub text: String,
}

/// What one pass does, in this order.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub notes: Vec<Note>,
    /// Jobs that are over and older than the history goes, and those that give way to the next one.
    pub delete: Vec<Arc<Job>>,
    /// The Job that is due.
    pub create: Option<Box<Job>>,
    pub status: CronJobStatus,
    /// When the next one is.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn note(&mut self, kind: EventType, reason: &'static str, text: impl Into<String>) {
        self.notes.push(Note { kind, reason, text: text.into() });
    }
}

/// Compares a CronJob with its Jobs.
pub(crate) fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    let spec = &cron.spec;
    if cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    look_at(jobs, &mut plan);
    plan.delete = history(spec, jobs);
    if spec.suspend == Some(true) {
        return plan;
    }
    let zone = spec.time_zone.as_deref().map_or(Ok(TimeZone::UTC), TimeZone::get);
    let zone = match zone {
        Ok(zone) => zone,
        Err(error) => {
            let name = spec.time_zone.as_deref().unwrap_or_default();
            plan.note(EventType::Warning, "UnknownTimeZone", format!("invalid timeZone: {name:?}: {error}"));
            return plan;
        }
    };
    match Schedule::parse(&spec.schedule) {
        Ok(schedule) => start(cron, spec, jobs, (&schedule, &zone), now, &mut plan),
        Err(error) => {
            let text = format!("unparseable schedule: {:?} : {error}", spec.schedule);
            plan.note(EventType::Warning, "UnparseableSchedule", text);
        }
    }
    plan
}

/// Which Jobs are active, and which have been and are over.
fn look_at(jobs: &[Arc<Job>], plan: &mut Plan) {
    let before = plan.status.active.take().unwrap_or_default();
    for job in jobs {
        let Some(over) = job::finished(job) else { continue };
        let name = job.metadata.name.as_deref().unwrap_or_default();
        if before.iter().any(|known| known.uid == job.metadata.uid) {
            let text = format!("Saw completed job: {name}, condition: {}", over.type_);
            plan.note(EventType::Normal, "SawCompletedJob", text);
        }
        let done = job.status.as_ref().and_then(|status| status.completion_time.clone());
        if over.type_ == "Complete"
            && let Some(done) = done
            && plan.status.last_successful_time.as_ref().is_none_or(|last| last.0 < done.0)
        {
            plan.status.last_successful_time = Some(done);
        }
    }
    for known in &before {
        if !jobs.iter().any(|job| job.metadata.uid == known.uid) {
            let name = known.name.as_deref().unwrap_or_default();
            plan.note(EventType::Normal, "MissingJob", format!("Active job went missing: {name}"));
        }
    }
    let mut active: Vec<_> = jobs.iter().filter(|job| job::finished(job).is_none()).collect();
    active.sort_by_key(|job| {
        (job.metadata.creation_timestamp.as_ref().map(|time| time.0), job.metadata.name.clone())
    });
    let active: Vec<_> = active.into_iter().map(|job| entry(job)).collect();
    plan.status.active = (!active.is_empty()).then_some(active);
}

/// How a status names a Job.
pub(crate) fn entry(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// Jobs that are over, beyond the few of each kind that are kept: the oldest.
fn history(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let surplus = |kind: &str, limit: Option<i32>| {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return Vec::new() };
        let over = jobs.iter().filter(|job| job::finished(job).is_some_and(|over| over.type_ == kind));
        let mut over: Vec<_> =
            over.filter(|job| job.metadata.deletion_timestamp.is_none()).cloned().collect();
        over.sort_by_key(|job| {
            let started =
                job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
            (started, job.metadata.name.clone())
        });
        over.truncate(over.len().saturating_sub(limit));
        over
    };
    let mut surplus_of_both = surplus("Complete", spec.successful_jobs_history_limit);
    surplus_of_both.extend(surplus("Failed", spec.failed_jobs_history_limit));
    surplus_of_both
}

/// Times of a schedule.
struct Times {
    /// The last one that has come and was not used.
    due: Option<Zoned>,
    next: Option<Zoned>,
    missed: usize,
}

/// The times since the last Job, or since the CronJob or as far back as a Job may be late.
fn times(
    cron: &CronJob,
    spec: &CronJobSpec,
    (schedule, zone): (&Schedule, &TimeZone),
    now: Timestamp,
) -> Times {
    let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let mut since = last.map_or(created, |last| last.0);
    if let Some(deadline) = spec.starting_deadline_seconds {
        let earliest = now.saturating_sub(SignedDuration::from_secs(deadline)).unwrap_or(Timestamp::MIN);
        since = since.max(earliest);
    }
    let mut times = Times { due: None, next: schedule.next(&since.to_zoned(zone.clone())), missed: 0 };
    while let Some(next) = times.next.take() {
        if next.timestamp() > now {
            times.next = Some(next);
            break;
        }
        times.missed += 1;
        if times.missed > TOO_MANY {
            // Counting on from now gives the same next time, and the last one is close enough.
            times.next = schedule.next(&now.to_zoned(zone.clone()));
            times.due = Some(next);
            break;
        }
        times.next = schedule.next(&next);
        times.due = Some(next);
    }
    times
}

fn start(
    cron: &CronJob,
    spec: &CronJobSpec,
    jobs: &[Arc<Job>],
    clock: (&Schedule, &TimeZone),
    now: Timestamp,
    plan: &mut Plan,
) {
    let times = times(cron, spec, clock, now);
    plan.wake = times.next.as_ref().map(Zoned::timestamp);
    if times.missed > MANY && spec.starting_deadline_seconds.is_none() {
        let text =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.note(EventType::Warning, "TooManyMissedTimes", text);
    }
    let Some(due) = times.due else { return };
    let name = job_name(cron, due.timestamp());
    // An earlier pass made it, and did not come to say so.
    if jobs.iter().any(|job| job.metadata.name.as_ref() == Some(&name)) {
        plan.status.last_schedule_time = Some(Time(due.timestamp()));
        return;
    }
    let active = || jobs.iter().filter(|job| job::finished(job).is_none());
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if active().next().is_some() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.note(EventType::Normal, "JobAlreadyActive", text);
        }
        Some("Replace") => {
            plan.delete.extend(active().filter(|job| job.metadata.deletion_timestamp.is_none()).cloned());
            plan.status.active = None;
        }
        _ => {}
    }
    plan.create = Some(Box::new(new_job(cron, spec, name, &due)));
    plan.status.last_schedule_time = Some(Time(due.timestamp()));
}

/// Jobs are named by the minute that they are for, so that none is made twice.
fn job_name(cron: &CronJob, due: Timestamp) -> String {
    format!("{}-{}", cron.metadata.name.as_deref().unwrap_or_default(), due.as_second() / 60)
}

fn new_job(cron: &CronJob, spec: &CronJobSpec, name: String, due: &Zoned) -> Job {
    let template = spec.job_template.clone();
    let from = template.metadata.unwrap_or_default();
    let mut annotations = from.annotations.unwrap_or_default();
    let at = match due.offset().is_zero() {
        true => due.strftime("%Y-%m-%dT%H:%M:%SZ"),
        false => due.strftime("%Y-%m-%dT%H:%M:%S%:z"),
    };
    annotations.insert(SCHEDULED.to_owned(), at.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: from.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![claim::owner_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
