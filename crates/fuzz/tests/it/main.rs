//! Every target: its corpus, then changes of it; a minute of them with `SKIFF_SOAK`. A harmful input is left in `out/fuzz`.
//! `SKIFF_FUZZ_SEED=N` repeats a search, `SKIFF_FUZZ_SECONDS=N` makes it longer.

use std::time::Duration;

use fuzz::search::{Budget, search};
use fuzz::{TARGETS, Target};

/// Changes that are tried whenever tests run.
const INPUTS: u64 = 300;
/// How long a soak tries.
const SOAK: Duration = Duration::from_secs(60);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn try_all(name: &str) {
    let target: &Target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let soak = number("SKIFF_SOAK").map(|_| SOAK);
    let time = number("SKIFF_FUZZ_SECONDS").map(Duration::from_secs).or(soak);
    let budget = time.map_or(Budget::Inputs(INPUTS), Budget::Time);
    // A soak looks where none has looked before.
    let fresh = || if time.is_some() { api_machinery::entropy::Entropy::from_os().u64() } else { 1 };
    let seed = number("SKIFF_FUZZ_SEED").unwrap_or_else(fresh);
    match search(target, seed, budget) {
        Ok(found) => {
            println!("{name}: {} inputs, {} things said of them", found.inputs, found.said);
            assert!(found.said > 1, "{name} tells no inputs apart");
        }
        Err(error) => panic!("{error} (seed {seed})"),
    }
}

macro_rules! targets {
    ($($name:ident)+) => {
        $(#[test] fn $name() { try_all(stringify!($name)) })+

        #[test]
        fn every_target_has_a_test() {
            let mut tested = vec![$(stringify!($name)),+];
            let mut all: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            tested.sort_unstable();
            all.sort_unstable();
            assert_eq!(tested, all);
        }
    };
}

targets! {
    addresses apply bearer_tokens cel certificate_requests dns_queries field_selectors json json_patches kubeconfigs
    label_selectors managed_fields merge_patches objects printer_columns protobuf quantities requests
    strategic_merge_patches tokens yaml
}
