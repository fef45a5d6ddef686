//! How a worker is woken: a few bits, so that any number of messages takes the room of one.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// Why a worker is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Something of the pod's changed in the runtime.
    Runtime = 1,
    /// The runtime answers again.
    RuntimeBack = 2,
    /// Something that the pod mentions changed.
    Objects = 4,
    /// A probe has news.
    Probes = 8,
}

const ALL: [Signal; 4] = [Signal::Runtime, Signal::RuntimeBack, Signal::Objects, Signal::Probes];

#[derive(Debug, Default)]
pub(crate) struct Signals {
    bits: AtomicU8,
    notify: Notify,
}

impl Signals {
    pub fn raise(&self, signal: Signal) {
        self.bits.fetch_or(signal as u8, Ordering::AcqRel);
        self.notify.notify_one();
    }

    /// Returns when something was raised.
    pub async fn raised(&self) {
        self.notify.notified().await;
    }

    /// What was raised since the last call.
    pub fn take(&self) -> Vec<Signal> {
        let bits = self.bits.swap(0, Ordering::AcqRel);
        ALL.into_iter().filter(|signal| bits & *signal as u8 != 0).collect()
    }
}
