//! Announcers on a real link, in a network namespace without a way out, with the real API server in this process: elected,
//! heard, replaced, silenced. Needs root; without it the tests say loudly that they were skipped, unless
//! SKIFF_REQUIRE_CONTAINERD demands the real parts.

mod lan;

use std::time::Duration;

use announcer::campaign::TIMING;
use host::arp::Wire;
use serde_json::json;
use tokio::time::Instant;

use crate::lan::{ADDRESS, Lan, isolated};

/// What the issue promises, for a node that dies.
const MOVED: Duration = Duration::from_secs(5);

#[test]
fn an_address_is_announced_moves_when_its_node_dies_and_is_nobodys_in_the_end() {
    isolated(async |mut lan: Lan| {
        lan.start("n1");
        lan.service(json!({})).await;
        lan.until("n1 answers", async |lan| lan.answers().await == [lan.mac("n1")]).await;
        // The kernel of a client learns it, and is told when that changes.
        lan.touch().await;
        lan.until("the client knows n1", async |lan| lan.neighbour().await == Some(lan.mac("n1"))).await;
        lan.start("n2");
        lan.kill("n1").await;
        let died = Instant::now();
        lan.until("the client was told of n2", async |lan| lan.neighbour().await == Some(lan.mac("n2")))
            .await;
        assert!(died.elapsed() < MOVED, "{:?}", died.elapsed());
        assert_eq!(lan.answers().await, [lan.mac("n2")]);
        // It comes back: nothing moves without need.
        lan.start("n1");
        let until = Instant::now() + 2 * TIMING.duration;
        while Instant::now() < until {
            assert_eq!(lan.answers().await, [lan.mac("n2")]);
        }
        // An orderly end is no death: nobody waits for the Lease to run out.
        lan.stop("n2").await;
        lan.until("n1 answers", async |lan| lan.answers().await == [lan.mac("n1")]).await;
        lan.delete_service().await;
        lan.until("nobody answers", async |lan| lan.answers().await.is_empty()).await;
    });
}

#[test]
fn nodes_that_must_not_answer_do_not() {
    isolated(async |mut lan: Lan| {
        lan.start("n1");
        lan.start("n2");
        lan.service(json!({"spec": {"externalTrafficPolicy": "Local"}})).await;
        lan.endpoints(&["n2"]).await;
        lan.until("n2 answers", async |lan| lan.answers().await == [lan.mac("n2")]).await;
        lan.endpoints(&["n1"]).await;
        lan.until("n1 answers", async |lan| lan.answers().await == [lan.mac("n1")]).await;
        lan.endpoints(&["n1", "n2"]).await;
        lan.label("n1", "node.kubernetes.io/exclude-from-external-load-balancers").await;
        lan.until("n2 answers", async |lan| lan.answers().await == [lan.mac("n2")]).await;
    });
}

#[test]
fn a_dead_control_plane_changes_nothing_and_who_is_elected_elsewhere_is_heard() {
    isolated(async |mut lan: Lan| {
        lan.start("n1");
        lan.service(json!({})).await;
        lan.until("n1 answers", async |lan| lan.answers().await == [lan.mac("n1")]).await;
        // An address that somebody took by mistake stays, and is claimed back.
        lan.claim("n2");
        lan.until("n1 claims it back", async |lan| lan.heard_claim("n1").await).await;
        lan.cut_off();
        let until = Instant::now() + 2 * TIMING.duration;
        while Instant::now() < until {
            assert_eq!(lan.answers().await, [lan.mac("n1")]);
        }
        lan.claim("n2");
        lan.until("n1 yields", async |lan| lan.answers().await.is_empty()).await;
    });
}

#[test]
fn a_link_of_this_machine_can_be_spoken_on() {
    isolated(async |lan: Lan| {
        let absent = host::arp::PacketSocket::open("absent").expect_err("there is no such link");
        assert_eq!(absent.raw_os_error(), Some(19), "{absent}");
        let own = lan.client.hardware_address().expect("it is there");
        assert_ne!(own, lan.mac("n1"));
        lan.ip(&["link set client down"]).await;
        lan.client.receive().await.expect_err("the link is down");
        lan.ip(&["link delete client"]).await;
        lan.client.hardware_address().expect_err("the link is gone");
        assert!(!ADDRESS.is_loopback());
    });
}
