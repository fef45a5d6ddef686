//! How many pods a rolling update may add and take away, and what each ReplicaSet's share is when a Deployment is scaled
//! in the middle of one. Pure arithmetic on whole numbers.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What a Deployment allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Pods that are wanted.
    pub replicas: i32,
    /// Pods that may be there beyond that.
    pub surge: i32,
    /// Pods that may be missing.
    pub unavailable: i32,
    /// Whether pods are replaced little by little.
    pub rolling: bool,
}

impl Bounds {
    /// Surge is rounded up and unavailability down, so that "25%" of a few never means less care; if both came out as
    /// nothing, nothing could move, so one pod may be missing.
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let replicas = deployment.spec.replicas.unwrap_or(1).max(0);
        let strategy = deployment.spec.strategy.as_ref();
        let kind = strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate");
        if kind != "RollingUpdate" {
            return Self { replicas, surge: 0, unavailable: 0, rolling: false };
        }
        let update = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = resolve(update.and_then(|update| update.max_surge.as_ref()), replicas, true);
        let mut unavailable =
            resolve(update.and_then(|update| update.max_unavailable.as_ref()), replicas, false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Self { replicas, surge, unavailable: unavailable.min(replicas), rolling: true }
    }

    /// Most pods that may be there.
    pub(crate) fn most(self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    /// Fewest pods that must be available.
    pub(crate) fn fewest(self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// A number, or a percentage of `replicas`. What the API does not let through counts as nothing.
fn resolve(value: Option<&IntOrString>, replicas: i32, up: bool) -> i32 {
    let quarter = IntOrString::String("25%".to_owned());
    match value.unwrap_or(&quarter) {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent =
                text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()).unwrap_or(0).max(0);
            let hundredths = percent.saturating_mul(i64::from(replicas));
            let rounded = if up { hundredths.saturating_add(99) / 100 } else { hundredths / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// One ReplicaSet that takes part in a scaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Its size now.
    pub size: i32,
    /// The most pods that the Deployment allowed when the set was last scaled.
    pub most_before: i32,
}

/// New sizes of sets that share a Deployment which is scaled in the middle of a rolling update: each changes in proportion
/// to its size. `shares` are sorted largest first; the first also gets what rounding left over.
pub(crate) fn proportional(bounds: Bounds, shares: &[Share]) -> Vec<i32> {
    let total: i32 = shares.iter().map(|share| share.size).sum();
    let allowed = if bounds.replicas > 0 { bounds.most() } else { 0 };
    let to_add = allowed - total;
    let mut added = 0;
    let mut sizes: Vec<i32> = shares
        .iter()
        .map(|share| {
            let change = change(bounds, *share, to_add - added, to_add);
            added += change;
            share.size + change
        })
        .collect();
    if let Some(largest) = sizes.first_mut() {
        *largest = (*largest + to_add - added).max(0);
    }
    sizes
}

/// By how much one set changes, when `left` of `to_add` are still to be given out.
fn change(bounds: Bounds, share: Share, left: i32, to_add: i32) -> i32 {
    if share.size == 0 || left == 0 {
        return 0;
    }
    let fair = if bounds.replicas == 0 {
        -share.size
    } else if share.most_before <= 0 {
        0
    } else {
        let (size, now, before) =
            (i64::from(share.size), i64::from(bounds.most()), i64::from(share.most_before));
        let rounded = (2 * size * now + before) / (2 * before);
        i32::try_from(rounded).unwrap_or(i32::MAX) - share.size
    };
    if to_add > 0 { fair.clamp(0, left) } else { fair.clamp(left, 0) }
}
