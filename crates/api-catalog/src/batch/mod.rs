//! `batch/v1`: jobs and cron jobs.

mod cron_job;
mod job;

use std::sync::Arc;

use api_machinery::resource::{Propagation, Resource, Rules};
use api_machinery::schema::Arena;
use serde_json::json;

use crate::entry::{Family, selectable, texts, with_status};
use crate::fill::set;

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let batch = Family { arena, group: "batch", version: "v1", package: "io.k8s.api.batch.v1" };
    vec![
        Resource {
            short_names: texts(&["cj"]),
            categories: texts(&["all"]),
            subresources: with_status(),
            has_generation: true,
            columns: cron_job::table(),
            rules: Rules {
                default: cron_job::default,
                validate: cron_job::validate,
                prepare_create: |object| set(object, "status", json!({})),
                ..Rules::default()
            },
            ..batch.kind("CronJob", "cronjobs")
        },
        Resource {
            categories: texts(&["all"]),
            subresources: with_status(),
            has_generation: true,
            columns: job::table(),
            selectable: selectable(&["status.successful"]),
            rules: Rules {
                default: job::default,
                validate: job::validate,
                validate_update: job::validate_update,
                prepare_create: job::prepare_create,
                propagation: Propagation::Orphan,
                ..Rules::default()
            },
            ..batch.kind("Job", "jobs")
        },
    ]
}
