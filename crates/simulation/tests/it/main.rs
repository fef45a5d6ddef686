//! Every scenario of `scenarios/` with every one of its seeds. `SKIFF_SOAK=N` runs N times as many seeds.

mod checkers;
mod collector;

use std::path::{Path, PathBuf};

use simulation::run::{Report, run};
use simulation::scenario::Scenario;

/// One test a scenario, so that they run side by side and a failure has a name.
macro_rules! scenarios {
    ($($test:ident),* $(,)?) => {
        const ALL: &[&str] = &[$(stringify!($test)),*];
        $(#[test] fn $test() { all_seeds(stringify!($test)); })*
    };
}

scenarios! {
    affinity,
    affinity_faults,
    attributes_in_use,
    claims_in_use,
    control_plane_away,
    controllers_die,
    cron_job,
    crowd,
    daemon_set,
    daemon_set_faults,
    deployment,
    drain,
    drain_with_faults,
    faults,
    garbage,
    job,
    job_faults,
    job_limits,
    leader_killed,
    leader_stopped,
    namespaces,
    node_dies,
    node_replaced,
    part_of_a_zone,
    power_loss,
    preemption,
    quota,
    replication_controller,
    rolling_update,
    scheduling,
    server_cut_off,
    stateful_claims,
    stateful_faults,
    stateful_node_dies,
    stateful_set,
    stuck_update,
    sums_of_roles,
    taints,
    zones_go_silent,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn read(test: &str) -> Scenario {
    let path = folder().join(format!("{}.txt", test.replace('_', "-")));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// How many times as many seeds as a scenario names: `make soak` says 20 and so runs 40 times as many.
fn factor() -> u64 {
    std::env::var("SKIFF_SOAK")
        .map_or(1, |factor| factor.parse::<u64>().expect("SKIFF_SOAK is a number") * SOAK)
}

const SOAK: u64 = 2;

fn all_seeds(test: &str) {
    let scenario = read(test);
    let (first, last) = (*scenario.seeds.start(), *scenario.seeds.end());
    for seed in first..first + (last - first + 1) * factor() {
        // What stands last before a run that does not end.
        println!("{test}: seed {seed}");
        if let Err(failed) = run(&scenario, seed) {
            panic!("{test}: {failed}");
        }
    }
}

/// 200 nodes and 10,000 pods. Takes a minute, so that `make check` leaves it to `make test`.
#[test]
fn a_large_crowd() {
    let text = std::fs::read_to_string(folder().join("large/crowd.txt")).expect("the scenario is there");
    let scenario: Scenario = text.parse().unwrap_or_else(|error| panic!("{error}"));
    if let Err(failed) = run(&scenario, 1) {
        panic!("{failed}");
    }
}

#[test]
fn enough_seeds_are_run() {
    let seeds: u64 = ALL.iter().map(|test| read(test).seeds.count() as u64).sum();
    assert!(seeds >= 30, "make check runs {seeds}");
    assert!(seeds * 20 * SOAK >= 3000, "make soak runs {}", seeds * 20 * SOAK);
}

#[test]
fn every_scenario_is_run() {
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .expect("the folder of scenarios")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .filter_map(|name| Some(name.strip_suffix(".txt")?.replace('-', "_")))
        .collect();
    files.sort();
    assert_eq!(files, ALL);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let scenario = read("rolling_update");
    let trace = |seed| -> Report { run(&scenario, seed).unwrap_or_else(|failed| panic!("{failed}")) };
    let first = trace(1);
    assert_eq!(first, trace(1));
    assert_ne!(first.trace, trace(2).trace, "another seed is another course of events");
}
