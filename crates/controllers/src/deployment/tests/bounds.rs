//! The arithmetic of rolling updates and of scaling in the middle of one.

use serde_json::json;

use super::super::bounds::{Bounds, Share, proportional};
use super::deployment;

#[test]
fn what_a_strategy_allows() {
    let table = [
        // replicas, maxSurge, maxUnavailable, most, fewest
        (4, json!(1), json!(0), 5, 4),
        (4, json!("25%"), json!("25%"), 5, 3),
        (1, json!("25%"), json!("25%"), 2, 1),
        (10, json!("25%"), json!("25%"), 13, 8),
        (3, json!(0), json!("25%"), 3, 2),
        (3, json!("0%"), json!("0%"), 3, 2),
        (2, json!(0), json!(5), 2, 0),
        (0, json!(1), json!(0), 1, 0),
        (3, json!("200%"), json!("100%"), 9, 0),
        (3, json!(null), json!(null), 4, 3),
    ];
    for (replicas, surge, unavailable, most, fewest) in table {
        let strategy = json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        let bounds = Bounds::of(&deployment(json!({"spec": {"replicas": replicas, "strategy": strategy}})));
        assert_eq!((bounds.most(), bounds.fewest()), (most, fewest), "{replicas} {surge} {unavailable}");
    }
    let recreate = json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}});
    let expected = Bounds { replicas: 3, surge: 0, unavailable: 0, rolling: false };
    assert_eq!(Bounds::of(&deployment(recreate)), expected);
}

#[test]
fn shares_are_proportional() {
    type Row = (i32, i32, &'static [(i32, i32)], &'static [i32]);
    let table: [Row; 7] = [
        // replicas, surge, (size, most before) largest first, sizes afterwards
        (15, 3, &[(8, 13), (5, 13)], &[11, 7]),
        (5, 0, &[(8, 10), (2, 10)], &[4, 1]),
        (0, 3, &[(8, 13), (5, 13)], &[0, 0]),
        (10, 3, &[(8, 13), (5, 13)], &[8, 5]),
        (11, 0, &[(5, 10), (5, 10)], &[6, 5]),
        (3, 1, &[(2, 0), (1, 0)], &[3, 1]),
        (1, 0, &[(1, 3), (1, 3), (1, 3)], &[0, 0, 1]),
    ];
    for (replicas, surge, shares, expected) in table {
        let bounds = Bounds { replicas, surge, unavailable: 0, rolling: true };
        let shares: Vec<Share> =
            shares.iter().map(|&(size, most_before)| Share { size, most_before }).collect();
        assert_eq!(proportional(bounds, &shares), expected, "{bounds:?} {shares:?}");
    }
}

/// Whatever the sizes before: nothing is negative, all that is allowed is given out, and growing shrinks nobody.
#[test]
fn shares_add_up() {
    for (replicas, surge, before) in
        (0..7).flat_map(|r| (0..3).flat_map(move |s| (0..9).map(move |b| (r, s, b))))
    {
        let bounds = Bounds { replicas, surge, unavailable: 0, rolling: true };
        for (a, b, c) in (1..5).flat_map(|a| (1..=a).flat_map(move |b| (1..=b).map(move |c| (a, b, c)))) {
            let old = [a, b, c];
            let shares = old.map(|size| Share { size, most_before: before });
            let new = proportional(bounds, &shares);
            let allowed = if replicas == 0 { 0 } else { bounds.most() };
            let why = format!("{bounds:?} {shares:?} -> {new:?}");
            assert!(new.iter().all(|size| *size >= 0), "{why}");
            let total: i32 = new.iter().sum();
            if allowed >= a + b + c {
                assert!(new.iter().zip(old).all(|(new, old)| *new >= old), "{why}");
                assert_eq!(total, allowed, "{why}");
            } else {
                assert!(new.iter().zip(old).all(|(new, old)| *new <= old), "{why}");
                assert!(total >= allowed, "{why}");
            }
        }
    }
}
