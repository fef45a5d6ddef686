//! The election for one address: a Lease with the address's name. Who holds it tells everybody on the link.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use component::events::{EventType, Recorder};
use component::lease::{Attempt, Candidate, Timing};
use host::arp::{MacAddress, Wire};
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::answer;
use crate::board::{Board, Change};
use crate::plan::Candidacy;

/// A dead node is missed after at most `retry` and `duration`.
pub const TIMING: Timing = Timing {
    duration: Duration::from_secs(2),
    renew_deadline: Duration::from_millis(1500),
    retry: Duration::from_millis(800),
};
/// Those who are later in line let the earlier ones go first by so much for each place.
const HEAD_START: Duration = Duration::from_millis(150);
/// How often an address that was taken over is announced: a frame may be lost.
const ANNOUNCEMENTS: u8 = 5;
/// The shortest time between attempts, whatever is heard on the wire.
const PAUSE: Duration = Duration::from_millis(400);

/// One node's part in an election.
pub struct Campaign {
    /// What it is about.
    pub address: Ipv4Addr,
    /// For whom.
    pub candidacy: Candidacy,
    /// The Lease.
    pub candidate: Candidate,
    /// Where the outcome is noted.
    pub board: Board,
    /// The link.
    pub wire: Arc<dyn Wire>,
    /// For people.
    pub recorder: Recorder,
    /// This node.
    pub node_name: String,
}

impl Campaign {
    /// Stands for the address until told to stop, and then gives it up, so that others need not wait.
    pub async fn run(mut self, wake: Arc<Notify>, stop: CancellationToken) {
        let places = u32::try_from(self.candidacy.place).unwrap_or(u32::MAX);
        let head_start = tokio::time::sleep(HEAD_START.saturating_mul(places));
        let mut to_announce = 0;
        let mut contested = false;
        let mut stands = stop.run_until_cancelled(head_start).await;
        while stands.is_some() {
            let began = Instant::now();
            let attempt = self.candidate.attempt().await;
            match self.board.settle(self.address, &wake, attempt, began + TIMING.renew_deadline) {
                Change::None => {}
                Change::Taken => {
                    to_announce = ANNOUNCEMENTS;
                    self.taken();
                }
                Change::Lost => {
                    tracing::info!(address = %self.address, "another node answers for the address")
                }
            }
            let by = self.board.contested(self.address);
            if let Some(by) = by {
                to_announce = to_announce.max(1);
                self.warn(by, std::mem::replace(&mut contested, true));
            }
            contested = by.is_some();
            if to_announce > 0 && self.board.answers(self.address) {
                to_announce -= 1;
                self.announce();
            }
            stands = stop.run_until_cancelled(self.wait(attempt, &wake)).await;
        }
        self.candidate.release().await;
    }

    /// Until the next attempt: when it is time, when the Lease of another runs out, or when something is heard.
    async fn wait(&self, attempt: Attempt, wake: &Notify) {
        let now = Instant::now();
        let mut next = now + self.candidate.jittered();
        if let Attempt::Others(until) = attempt {
            next = next.min(until);
        }
        tokio::time::sleep_until((now + PAUSE).min(next)).await;
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = wake.notified() => {}
        }
    }

    fn taken(&self) {
        let (address, node) = (self.address, &self.node_name);
        tracing::info!(%address, service = %self.candidacy.service, "this node answers for the address");
        let note = format!("{address} is announced by node {node:?}");
        self.recorder.event(&self.reference(), EventType::Normal, "AddressAnnounced", note);
    }

    /// Another machine on the link has the address; said once for as long as it goes on.
    fn warn(&self, by: MacAddress, said: bool) {
        if said {
            return;
        }
        let address = self.address;
        tracing::warn!(%address, %by, "another machine uses the address");
        let note = format!("{address} is used by another machine on the link, too: {by}");
        self.recorder.event(&self.reference(), EventType::Warning, "AddressContested", note);
    }

    fn announce(&self) {
        let told = || -> io::Result<()> {
            let own = self.wire.hardware_address()?;
            for packet in answer::announcements(self.address, own) {
                self.wire.send(MacAddress::BROADCAST, &packet)?;
            }
            Ok(())
        };
        if let Err(error) = told() {
            tracing::warn!(address = %self.address, %error, "the address could not be announced");
        }
    }

    fn reference(&self) -> ObjectReference {
        let Candidacy { service, uid, .. } = &self.candidacy;
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(service.namespace.clone()),
            name: Some(service.name.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }
    }
}
