//! The cleaner: requests that were dealt with go after an hour, those that nobody decided after a day, and those whose
//! certificate has expired at once. Woken by changes, and by the deadline of each request.

use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::{DeleteParams, Preconditions};

use super::{condition, is_issued};
use crate::Informers;
use crate::answers::{is_conflict, is_not_found};
use crate::wiring::{self, Cache};

/// After a decision.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// Without one.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone)]
struct Cleaner {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
}

/// Starts the cleaner.
pub fn start(context: &Context, informers: &Informers) {
    let queue: Queue<String> = Queue::new();
    let keys = queue.clone();
    informers.certificate_requests.on_change(move |change| {
        if change.new.is_some() {
            keys.add(ObjectKey::of(&**change.latest()).name);
        }
    });
    let cleaner = Cleaner { context: context.clone(), requests: informers.certificate_requests.clone() };
    let caches: [&dyn Cache; 1] = [&informers.certificate_requests];
    wiring::run(context, ("certificate-cleaner", queue, 1), &caches, cleaner, |cleaner, key| async move {
        cleaner.reconcile(&key).await
    });
}

/// When a request is no longer needed.
pub(super) fn deadline(request: &CertificateSigningRequest) -> Timestamp {
    let created = request.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let since = |condition: &CertificateSigningRequestCondition| {
        let time = condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref());
        time.map_or(created, |time| time.0)
    };
    let decided =
        ["Denied", "Failed", "Approved"].iter().find_map(|kind| condition(request, kind)).map(since);
    let Some(decided) = decided else { return created + PENDING };
    let expires = request.status.as_ref().and_then(|status| status.certificate.as_ref()).and_then(|pem| {
        let block = pem::parse(&pem.0).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(block.contents()).ok()?;
        Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
    });
    match expires {
        Some(expires) if is_issued(request) => expires.min(decided + DECIDED),
        _ => decided + DECIDED,
    }
}

impl Cleaner {
    async fn reconcile(&self, name: &str) -> kube::Result<Next> {
        let Some(found) = self.requests.get(&ObjectKey::new("", name)) else { return Ok(Next::Done) };
        let left = deadline(&found).duration_since(self.context.clock.now());
        if left > SignedDuration::ZERO {
            return Ok(Next::After(left.unsigned_abs()));
        }
        let api: Api<CertificateSigningRequest> = Api::all(self.context.client.clone());
        let preconditions = Preconditions {
            uid: found.metadata.uid.clone(),
            resource_version: found.metadata.resource_version.clone(),
        };
        let parameters = DeleteParams::default().preconditions(preconditions);
        match api.delete(name, &parameters).await {
            Ok(_) => Ok(Next::Done),
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }
}
