//! Rolling updates played through: the Deployment controller, the ReplicaSet controller's two steps (pods, status) and the
//! kubelets act in any order, so that every view is as old as it can be. At no moment may there be too many pods, or too
//! few that are available because of what a controller did.

use api_machinery::entropy::Entropy;
use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::json;

use super::super::world::size;
use super::{Cluster, deployment, now, version};

/// The pods of one set.
#[derive(Clone, Copy, Debug, Default)]
struct Pods {
    ready: i32,
    /// On their way to being ready.
    starting: i32,
    /// Never ready.
    broken: i32,
}

impl Pods {
    fn all(self) -> i32 {
        self.ready + self.starting + self.broken
    }

    /// Deletes one, as ReplicaSets choose.
    fn delete(&mut self) {
        for kind in [&mut self.broken, &mut self.starting, &mut self.ready] {
            if *kind > 0 {
                *kind -= 1;
                return;
            }
        }
    }
}

struct Game {
    cluster: Cluster,
    pods: Vec<Pods>,
    entropy: Entropy,
    most: i32,
    fewest: i32,
    /// Whether pods of the second version start at all.
    good: bool,
}

impl Game {
    /// A complete Deployment of `replicas`, of which `broken` are not available any more, and a new version.
    fn new(replicas: i32, surge: i32, unavailable: i32, broken: i32, good: bool, seed: u64) -> Self {
        let update = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let spec = json!({"replicas": replicas, "strategy": {"rollingUpdate": update}});
        let mut cluster = Cluster::settled(deployment(json!({"spec": spec})));
        cluster.follow(|set| size(set) - broken);
        cluster.change(version("2"));
        let fewest = replicas - unavailable.min(replicas);
        let pods = vec![Pods { ready: replicas - broken, starting: 0, broken }];
        Self { cluster, pods, entropy: Entropy::seeded(seed), most: replicas + surge, fewest, good }
    }

    fn available(&self) -> i32 {
        self.pods.iter().map(|pods| pods.ready).sum()
    }

    fn step(&mut self) {
        let before = self.available();
        let sets = self.cluster.sets.len() as u64;
        let which = self.entropy.below(sets) as usize;
        match self.entropy.below(4) {
            0 => self.cluster.step(now()),
            1 => self.manage(which),
            2 => self.write_status(which),
            _ => self.kubelet(which),
        }
        self.pods.resize(self.cluster.sets.len(), Pods::default());
        let all: i32 = self.pods.iter().map(|pods| pods.all()).sum();
        let why =
            || format!("{:?} {:?} bounds {}..{}", self.pods, self.cluster.sizes(), self.fewest, self.most);
        assert!(all <= self.most, "too many: {}", why());
        assert!(self.available() >= before.min(self.fewest), "too few are left: {}", why());
    }

    fn manage(&mut self, which: usize) {
        let (pods, wanted) = (&mut self.pods[which], size(&self.cluster.sets[which]));
        while pods.all() > wanted {
            pods.delete();
        }
        let missing = wanted - pods.all();
        match which == 0 || self.good {
            true => pods.starting += missing,
            false => pods.broken += missing,
        }
    }

    fn write_status(&mut self, which: usize) {
        let pods = self.pods[which];
        let set: &mut ReplicaSet = &mut self.cluster.sets[which];
        let status = json!({
            "replicas": pods.all(), "readyReplicas": pods.ready, "availableReplicas": pods.ready,
            "observedGeneration": set.metadata.generation,
        });
        set.status = Some(serde_json::from_value(status).expect("a status"));
    }

    fn kubelet(&mut self, which: usize) {
        let pods = &mut self.pods[which];
        if pods.starting > 0 {
            pods.starting -= 1;
            pods.ready += 1;
        }
    }

    fn is_complete(&self) -> bool {
        self.cluster.reason("Progressing") == "NewReplicaSetAvailable"
            && self.cluster.sets.len() == 2
            && self.cluster.sizes()[0] == 0
            && self
                .cluster
                .condition("Progressing")
                .2
                .contains(self.cluster.sets[1].metadata.name.as_ref().expect("named"))
    }
}

#[test]
fn bounds_are_never_violated_and_the_end_is_reached() {
    let mut played = 0;
    for (replicas, surge, unavailable) in (0..5)
        .flat_map(|r| (0..3).flat_map(move |s| (0..3).map(move |u| (r, s, u))))
        .filter(|(_, s, u)| s + u > 0)
    {
        for broken in 0..=replicas {
            for seed in 0..2 {
                let mut game = Game::new(replicas, surge, unavailable, broken, true, seed);
                let mut steps = 0;
                while !game.is_complete() {
                    game.step();
                    steps += 1;
                    assert!(
                        steps < 3000,
                        "{replicas}+{surge}-{unavailable} broken {broken} seed {seed} stands still: {:?} {:?}",
                        game.pods,
                        game.cluster.sizes()
                    );
                }
                played += 1;
            }
        }
    }
    assert_eq!(played, 240);
}

#[test]
fn a_version_that_never_starts_takes_no_more_than_allowed() {
    for (replicas, surge, unavailable) in [(3, 1, 0), (4, 0, 1), (4, 2, 2), (1, 1, 0), (2, 0, 2)] {
        let mut game = Game::new(replicas, surge, unavailable, 0, false, 7);
        for _ in 0..400 {
            game.step();
        }
        assert_eq!(game.available(), game.fewest, "{replicas}+{surge}-{unavailable}: the old ones serve");
        assert!(game.pods[1].broken > 0, "the new version was tried");
    }
}
