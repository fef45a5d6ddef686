//! Which part of the cluster's ranges a node gets. Pure: what is taken is remembered here, and given again to nobody.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;

use super::range::Range;

/// One range of the cluster, divided into parts of equal size.
#[derive(Clone, Debug)]
struct Pool {
    whole: Range,
    prefix: u8,
    /// How many hold each part that is taken. More than one only where somebody else wrote overlapping ranges.
    taken: BTreeMap<u128, u32>,
    /// Where the search begins: behind what was given last, so that a range rests before it is given again.
    next: u128,
}

impl Pool {
    fn take(&mut self) -> Option<Range> {
        let parts = self.whole.parts(self.prefix);
        let free = |from: u128, to: u128| (from..to).find(|part| !self.taken.contains_key(part));
        let part = free(self.next, parts).or_else(|| free(0, self.next.min(parts)))?;
        self.taken.insert(part, 1);
        self.next = part + 1;
        self.whole.part(self.prefix, part)
    }

    fn mark(&mut self, range: &Range, taken: bool) {
        let Some((first, last)) = self.whole.parts_within(self.prefix, range) else { return };
        // A range that a node cannot have is looked at no further than the pool's own end.
        for part in first..=last {
            let holders = self.taken.entry(part).or_insert(0);
            *holders = if taken { holders.saturating_add(1) } else { holders.saturating_sub(1) };
            if *holders == 0 {
                self.taken.remove(&part);
            }
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// More than one range of a family.
    #[error("cluster CIDRs: at most one of each IP family, got {0} and {1}")]
    SameFamily(Range, Range),
    /// An address would be a pod's and a Service's.
    #[error("cluster CIDR {0} overlaps with service CIDR {1}; pods and Services need ranges of their own")]
    Services(Range, Range),
    /// Nodes would get more than there is.
    #[error("cluster CIDR {whole} is smaller than a node's share of /{prefix}")]
    TooSmall {
        /// The range.
        whole: Range,
        /// A node's share.
        prefix: u8,
    },
    /// So many parts that remembering them has no bound.
    #[error("cluster CIDR {whole} has more than 65536 shares of /{prefix}")]
    TooLarge {
        /// The range.
        whole: Range,
        /// A node's share.
        prefix: u8,
    },
}

/// Checks that pods and Services have nothing in common.
///
/// # Errors
/// One range is within the other.
pub fn check_apart(cluster: &Range, services: &Range) -> Result<(), RangesError> {
    match cluster.overlaps(services) {
        true => Err(RangesError::Services(*cluster, *services)),
        false => Ok(()),
    }
}

/// As upstream: at most this many bits between a cluster's range and a node's.
const MOST_BITS: u8 = 16;

/// What every node holds.
#[derive(Clone, Debug)]
pub struct Allocations {
    pools: Vec<Pool>,
    held: BTreeMap<String, Vec<Range>>,
}

/// What is to be done for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It has its ranges.
    Settled,
    /// It has ranges that another node has too.
    Overlap(String),
    /// It gets these.
    Assign(Vec<Range>),
    /// Nothing is left.
    Exhausted,
}

impl Allocations {
    /// Nothing is taken.
    ///
    /// # Errors
    /// The ranges do not go together.
    pub fn new(cluster: &[Range], prefixes: (u8, u8)) -> Result<Self, RangesError> {
        let mut pools: Vec<Pool> = Vec::new();
        for whole in cluster {
            if let Some(other) = pools.iter().find(|pool| pool.whole.is_v4() == whole.is_v4()) {
                return Err(RangesError::SameFamily(other.whole, *whole));
            }
            let prefix = if whole.is_v4() { prefixes.0 } else { prefixes.1 };
            if whole.parts(prefix) == 0 {
                return Err(RangesError::TooSmall { whole: *whole, prefix });
            }
            if prefix - whole.prefix() > MOST_BITS {
                return Err(RangesError::TooLarge { whole: *whole, prefix });
            }
            pools.push(Pool { whole: *whole, prefix, taken: BTreeMap::new(), next: 0 });
        }
        Ok(Self { pools, held: BTreeMap::new() })
    }

    /// Notes what a node says that it has.
    pub fn see(&mut self, name: &str, node: &Node) {
        let ranges = ranges(node);
        if !ranges.is_empty() && self.held.get(name) != Some(&ranges) {
            self.forget(name);
            self.mark(&ranges, true);
            self.held.insert(name.to_owned(), ranges);
        }
    }

    /// A node is gone: what it had may be given again.
    pub fn forget(&mut self, name: &str) {
        if let Some(ranges) = self.held.remove(name) {
            self.mark(&ranges, false);
        }
    }

    /// Decides for a node. What was decided and perhaps not written is decided again.
    pub fn decide(&mut self, name: &str, node: &Node) -> Decision {
        let has = ranges(node);
        if !has.is_empty() {
            self.see(name, node);
            return match self.sharer(name, &has) {
                Some(other) => Decision::Overlap(other.to_owned()),
                None => Decision::Settled,
            };
        }
        if let Some(held) = self.held.get(name) {
            return Decision::Assign(held.clone());
        }
        let mut given = Vec::new();
        for pool in &mut self.pools {
            given.extend(pool.take());
        }
        if given.len() < self.pools.len() {
            self.mark(&given, false);
            return Decision::Exhausted;
        }
        self.held.insert(name.to_owned(), given.clone());
        Decision::Assign(given)
    }

    /// The first other node that has a part of these ranges.
    fn sharer(&self, name: &str, ranges: &[Range]) -> Option<&str> {
        let shares = |held: &[Range]| held.iter().any(|one| ranges.iter().any(|other| one.overlaps(other)));
        let mut others = self.held.iter().filter(|(other, held)| *other != name && shares(held));
        others.next().map(|(other, _)| other.as_str())
    }

    fn mark(&mut self, ranges: &[Range], taken: bool) {
        for pool in &mut self.pools {
            ranges.iter().for_each(|range| pool.mark(range, taken));
        }
    }
}

/// The ranges that a node has, the main one first. What cannot be read is none.
pub fn ranges(node: &Node) -> Vec<Range> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all: Vec<&String> = match &spec.pod_cidrs {
        Some(all) if !all.is_empty() => all.iter().collect(),
        _ => spec.pod_cidr.iter().collect(),
    };
    all.into_iter().filter_map(|text| text.parse().ok()).collect()
}
