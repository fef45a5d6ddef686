//! The approver: nodes get their certificates without anybody looking, if whoever asks holds the right to. For a client
//! certificate that is what a SubjectAccessReview says. Two things that upstream leaves to others are approved if the node
//! itself asks: a serving certificate for names and addresses that its Node object has, and a client certificate for its
//! service proxy and pod network, which may read what a kubelet may not.
//!
//! Reads CertificateSigningRequests and Nodes, writes `/approval`. Woken by changes of either; what it does not approve it
//! leaves to people.

use std::collections::BTreeMap;

use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;

use super::request::{self, Asked, NODES};
use super::{API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, NODE_NETWORK, condition, with_condition};
use crate::Informers;
use crate::answers::{is_conflict, is_not_found};
use crate::wiring::{self, Cache};

const WORKERS: usize = 2;

#[derive(Clone)]
struct Approver {
    client: kube::Client,
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
}

/// Starts the approver.
pub fn start(context: &Context, informers: &Informers) {
    let queue: Queue<String> = Queue::new();
    let keys = queue.clone();
    informers.certificate_requests.on_change(move |change| {
        if change.new.is_some_and(|request| is_undecided(request)) {
            keys.add(ObjectKey::of(&**change.latest()).name);
        }
    });
    let (keys, requests) = (queue.clone(), informers.certificate_requests.clone());
    informers.nodes.on_change(move |change| {
        let addresses = |node: Option<&std::sync::Arc<Node>>| {
            node.and_then(|node| node.status.as_ref().and_then(|status| status.addresses.clone()))
        };
        if addresses(change.old) != addresses(change.new) {
            let user = format!("{}{}", request::NODE_USER, ObjectKey::of(&**change.latest()).name);
            let waiting = requests.list().into_iter().filter(|request| {
                is_undecided(request) && request.spec.username.as_deref() == Some(user.as_str())
            });
            waiting.for_each(|request| keys.add(ObjectKey::of(&*request).name));
        }
    });
    let approver = Approver {
        client: context.client.clone(),
        requests: informers.certificate_requests.clone(),
        nodes: informers.nodes.clone(),
    };
    let caches: [&dyn Cache; 2] = [&informers.certificate_requests, &informers.nodes];
    wiring::run(
        context,
        ("certificate-approver", queue, WORKERS),
        &caches,
        approver,
        |approver, key| async move { approver.reconcile(&key).await },
    );
}

pub(super) fn is_undecided(request: &CertificateSigningRequest) -> bool {
    matches!(request.spec.signer_name.as_str(), API_CLIENT | KUBELET_CLIENT | KUBELET_SERVING)
        && condition(request, "Approved").is_none()
        && condition(request, "Denied").is_none()
        && !super::is_issued(request)
        && request.metadata.deletion_timestamp.is_none()
}

/// What stands between a request and its approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Approve(&'static str),
    /// The right to create these subresources of requests: one of them suffices, in this order.
    Ask(Vec<(&'static str, &'static str)>),
    /// It is for people to decide.
    Leave,
}

const SELF_CLIENT: &str = "Auto approving self kubelet client certificate after SubjectAccessReview.";
const CLIENT: &str = "Auto approving kubelet client certificate after SubjectAccessReview.";
const NETWORK: &str = "Auto approving certificate for the network of the node that asks.";
const SERVING: &str = "Auto approving kubelet serving certificate for addresses of the node that asks.";

/// Decides, as far as that is possible without asking who may what.
pub(super) fn decide(request: &CertificateSigningRequest, asked: &Asked, node: Option<&Node>) -> Verdict {
    let signer = request.spec.signer_name.as_str();
    if asked.fits(signer, &request::usages(request)).is_err() {
        return Verdict::Leave;
    }
    let user = request.spec.username.as_deref().unwrap_or_default();
    let itself = user == asked.common_name;
    if signer == KUBELET_CLIENT {
        let mut ways = Vec::new();
        if itself {
            ways.push(("selfnodeclient", SELF_CLIENT));
        }
        ways.push(("nodeclient", CLIENT));
        return Verdict::Ask(ways);
    }
    let member = request.spec.groups.iter().flatten().any(|group| group == NODES);
    if signer == API_CLIENT {
        let node = user.strip_prefix(request::NODE_USER).filter(|node| !node.is_empty() && member);
        let own = node.is_some_and(|node| asked.common_name == format!("{NODE_NETWORK}:{node}"));
        let plain = asked.organizations == [NODE_NETWORK] && asked.alternatives.is_none();
        return if own && plain { Verdict::Approve(NETWORK) } else { Verdict::Leave };
    }
    let known = |name: &str| {
        let Some(node) = node else { return false };
        let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
        node.metadata.name.as_deref() == Some(name)
            || addresses.into_iter().flatten().any(|address| address.address == name)
    };
    let owned = asked.dns_names.iter().all(|name| known(name))
        && asked.addresses.iter().all(|address| address.is_loopback() || known(&address.to_string()));
    if itself && member && owned { Verdict::Approve(SERVING) } else { Verdict::Leave }
}

impl Approver {
    async fn reconcile(&self, name: &str) -> kube::Result<Next> {
        let found = self.requests.get(&ObjectKey::new("", name));
        let Some(found) = found.filter(|request| is_undecided(request)) else { return Ok(Next::Done) };
        let asked = match request::parse(&found.spec.request.0) {
            Ok(asked) => asked,
            Err(error) => {
                tracing::info!(request = name, error, "a request for a certificate cannot be read");
                return Ok(Next::Done);
            }
        };
        let node = asked.node().and_then(|node| self.nodes.get(&ObjectKey::new("", node)));
        let message = match decide(&found, &asked, node.as_deref()) {
            Verdict::Leave => return Ok(Next::Done),
            Verdict::Approve(message) => message,
            Verdict::Ask(ways) => {
                let mut message = None;
                for (subresource, words) in ways {
                    if self.may_create(&found, subresource).await? {
                        message = Some(words);
                        break;
                    }
                }
                let Some(message) = message else { return Ok(Next::Done) };
                message
            }
        };
        let changed = with_condition(&found, "Approved", "AutoApproved", message.to_owned());
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        match api.replace_subresource("approval", name, &PostParams::default(), &changed).await {
            Ok(_) => Ok(Next::Done),
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }

    async fn may_create(&self, request: &CertificateSigningRequest, subresource: &str) -> kube::Result<bool> {
        let spec = &request.spec;
        let extra: Option<BTreeMap<String, Vec<String>>> = spec.extra.clone();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra,
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    verb: Some("create".to_owned()),
                    version: Some("*".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}
