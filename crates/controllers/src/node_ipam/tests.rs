//! Ranges as arithmetic, and who gets which.

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::plan::{Allocations, Decision, RangesError, check_apart};
use super::range::Range;

fn range(text: &str) -> Range {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn node(ranges: &[&str]) -> Node {
    let first = ranges.first();
    serde_json::from_value(json!({"spec": {"podCIDR": first, "podCIDRs": ranges}})).expect("a node")
}

fn pool(cluster: &[&str]) -> Allocations {
    let cluster: Vec<Range> = cluster.iter().map(|text| range(text)).collect();
    Allocations::new(&cluster, (24, 64)).expect("ranges that go together")
}

fn given(decision: &Decision) -> Vec<String> {
    match decision {
        Decision::Assign(ranges) => ranges.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn texts_become_ranges_and_texts_again() {
    let cases = [
        ("10.42.7.9/16", Some("10.42.0.0/16")),
        ("0.0.0.0/0", Some("0.0.0.0/0")),
        ("10.0.0.1/32", Some("10.0.0.1/32")),
        ("fd00:42::7/48", Some("fd00:42::/48")),
        ("::/0", Some("::/0")),
        ("10.0.0.0/33", None),
        ("10.0.0.0", None),
        ("ten/8", None),
        ("::/129", None),
    ];
    for (text, expected) in cases {
        let parsed = text.parse::<Range>().ok().map(|range| range.to_string());
        assert_eq!(parsed.as_deref(), expected, "{text}");
    }
}

#[test]
fn ranges_overlap_where_they_share_an_address() {
    let cases = [
        ("10.42.0.0/16", "10.42.7.0/24", true),
        ("10.42.7.0/24", "10.42.0.0/16", true),
        ("10.42.7.0/24", "10.42.8.0/24", false),
        ("0.0.0.0/0", "10.0.0.0/8", true),
        ("0.0.0.0/0", "::/0", false),
        ("fd00::/64", "fd00:0:0:1::/64", false),
    ];
    for (one, other, expected) in cases {
        assert_eq!(range(one).overlaps(&range(other)), expected, "{one} {other}");
    }
}

#[test]
fn parts_are_counted_and_found() {
    assert_eq!(range("10.42.0.0/16").parts(24), 256);
    assert_eq!(range("10.42.0.0/24").parts(24), 1);
    assert_eq!(range("10.42.0.0/25").parts(24), 0);
    assert_eq!(range("10.42.0.0/16").part(24, 255), Some(range("10.42.255.0/24")));
    assert_eq!(range("10.42.0.0/16").part(24, 256), None);
    assert_eq!(range("fd00::/48").part(64, 3), Some(range("fd00:0:0:3::/64")));
    let within = |other: &str| range("10.42.0.0/16").parts_within(24, &range(other));
    assert_eq!(within("10.42.3.0/24"), Some((3, 3)));
    assert_eq!(within("10.42.4.0/23"), Some((4, 5)));
    assert_eq!(within("10.42.4.128/25"), Some((4, 4)));
    assert_eq!(within("10.0.0.0/8"), Some((0, 255)));
    assert_eq!(within("10.43.0.0/16"), None);
}

#[test]
fn every_node_gets_its_own_and_keeps_it() {
    let mut pool = pool(&["10.42.0.0/16", "fd00::/48"]);
    let bare = Node::default();
    assert_eq!(given(&pool.decide("a", &bare)), ["10.42.0.0/24", "fd00::/64"]);
    assert_eq!(given(&pool.decide("b", &bare)), ["10.42.1.0/24", "fd00:0:0:1::/64"]);
    assert_eq!(
        given(&pool.decide("a", &bare)),
        ["10.42.0.0/24", "fd00::/64"],
        "the write may have been lost"
    );
    assert_eq!(pool.decide("a", &node(&["10.42.0.0/24", "fd00::/64"])), Decision::Settled);
}

#[test]
fn what_was_known_at_the_start_is_not_given_again() {
    let mut pool = pool(&["10.42.0.0/22"]);
    pool.see("old", &node(&["10.42.0.0/24"]));
    pool.see("far", &node(&["10.42.3.0/24"]));
    pool.see("large", &node(&["10.42.2.0/25"]));
    assert_eq!(given(&pool.decide("new", &Node::default())), ["10.42.1.0/24"]);
    assert_eq!(pool.decide("late", &Node::default()), Decision::Exhausted);
    assert_eq!(pool.decide("late", &Node::default()), Decision::Exhausted, "nothing was taken by trying");
    pool.forget("old");
    assert_eq!(given(&pool.decide("late", &Node::default())), ["10.42.0.0/24"]);
}

#[test]
fn a_range_rests_before_it_is_given_again() {
    let mut pool = pool(&["10.42.0.0/22"]);
    pool.decide("a", &Node::default());
    pool.forget("a");
    assert_eq!(given(&pool.decide("b", &Node::default())), ["10.42.1.0/24"]);
}

#[test]
fn ranges_that_two_nodes_have_are_told_and_stay_taken_until_both_are_gone() {
    let mut pool = pool(&["10.42.0.0/24"]);
    pool.see("a", &node(&["10.42.0.0/24"]));
    assert_eq!(pool.decide("b", &node(&["10.42.0.0/24"])), Decision::Overlap("a".to_owned()));
    pool.forget("a");
    assert_eq!(pool.decide("c", &Node::default()), Decision::Exhausted);
    assert_eq!(pool.decide("b", &node(&["10.42.0.0/24"])), Decision::Settled);
    pool.forget("b");
    assert_eq!(given(&pool.decide("c", &Node::default())), ["10.42.0.0/24"]);
}

#[test]
fn half_a_pair_is_not_given() {
    let mut pool = pool(&["10.42.0.0/23", "fd00::/64"]);
    pool.decide("a", &Node::default());
    assert_eq!(pool.decide("b", &Node::default()), Decision::Exhausted);
    pool.forget("a");
    assert_eq!(given(&pool.decide("b", &Node::default())), ["10.42.0.0/24", "fd00::/64"]);
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let refused = |cluster: &[&str]| {
        let cluster: Vec<Range> = cluster.iter().map(|text| range(text)).collect();
        Allocations::new(&cluster, (24, 64)).expect_err("refused")
    };
    assert!(matches!(refused(&["10.0.0.0/16", "10.1.0.0/16"]), RangesError::SameFamily(..)));
    assert!(matches!(refused(&["10.0.0.0/25"]), RangesError::TooSmall { .. }));
    assert!(matches!(refused(&["10.0.0.0/7"]), RangesError::TooLarge { .. }));
    for (cluster, services) in [("10.42.0.0/16", "10.42.7.0/24"), ("10.43.7.0/24", "10.43.0.0/16")] {
        let words = check_apart(&range(cluster), &range(services)).expect_err("refused").to_string();
        assert!(words.starts_with(&format!("cluster CIDR {cluster} overlaps with service CIDR {services};")));
    }
    assert_eq!(check_apart(&range("10.42.0.0/16"), &range("10.43.0.0/16")), Ok(()));
}
