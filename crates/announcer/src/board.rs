//! Which addresses this node answers for at this moment. Elections write it, the wire reads it; who ends an election takes its
//! address off first, and nothing puts it back.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use component::lease::Attempt;
use host::arp::MacAddress;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What an attempt changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// From now on this node answers.
    Taken,
    /// From now on another does.
    Lost,
}

/// The addresses of a node.
#[derive(Clone, Default)]
pub struct Board {
    entries: Arc<Mutex<BTreeMap<Ipv4Addr, Entry>>>,
}

/// An election that goes on.
#[derive(Default)]
struct Entry {
    /// We answer; no other can have been elected before this time.
    held_until: Option<Instant>,
    /// Who else said that the address is his.
    contested: Option<MacAddress>,
    wake: Arc<Notify>,
}

impl Board {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<Ipv4Addr, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An election begins. What comes back is told when it should look again before its time.
    pub fn enter(&self, address: Ipv4Addr) -> Arc<Notify> {
        self.entries().entry(address).or_default().wake.clone()
    }

    /// An election ends: from now on nobody is answered for the address.
    pub fn leave(&self, address: Ipv4Addr) {
        self.entries().remove(&address);
    }

    /// Whether we answer for the address.
    #[must_use]
    pub fn answers(&self, address: Ipv4Addr) -> bool {
        self.entries().get(&address).is_some_and(|entry| entry.held_until.is_some())
    }

    /// What an attempt means, that of the election which was told `wake` by, counted from when the attempt began.
    ///
    /// Where nothing was learned, whoever answered goes on: while the API server is away nobody can be elected, and services
    /// outlive it. Should another be elected all the same, we hear it on the wire.
    pub fn settle(
        &self,
        address: Ipv4Addr,
        wake: &Arc<Notify>,
        attempt: Attempt,
        good_until: Instant,
    ) -> Change {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&address).filter(|entry| Arc::ptr_eq(&entry.wake, wake)) else {
            return Change::None;
        };
        let before = entry.held_until;
        match attempt {
            Attempt::Held => entry.held_until = Some(good_until),
            Attempt::Others(_) => entry.held_until = None,
            Attempt::Unknown => {}
        }
        match (before, entry.held_until) {
            (None, Some(_)) => Change::Taken,
            (Some(_), None) => Change::Lost,
            _ => Change::None,
        }
    }

    /// Somebody else says that an address is his. Where he may have been elected, we stop at once; else the address is
    /// somebody's by mistake, and stays ours.
    pub fn contest(&self, address: Ipv4Addr, by: MacAddress, now: Instant) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&address) else { return };
        if entry.held_until.is_some_and(|until| until < now) {
            tracing::info!(%address, %by, "another node answers for the address");
            entry.held_until = None;
        } else {
            entry.contested = Some(by);
        }
        entry.wake.notify_one();
    }

    /// Who contested the address since the last call.
    #[must_use]
    pub fn contested(&self, address: Ipv4Addr) -> Option<MacAddress> {
        self.entries().get_mut(&address)?.contested.take()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
    const OTHER: MacAddress = MacAddress([2; 6]);

    #[test]
    fn an_election_decides_who_answers() {
        let now = Instant::now();
        let (board, until) = (Board::default(), now + Duration::from_secs(1));
        let wake = board.enter(ADDRESS);
        for (attempt, change, answers) in [
            (Attempt::Unknown, Change::None, false),
            (Attempt::Others(now), Change::None, false),
            (Attempt::Held, Change::Taken, true),
            (Attempt::Held, Change::None, true),
            (Attempt::Unknown, Change::None, true),
            (Attempt::Others(now), Change::Lost, false),
            (Attempt::Unknown, Change::None, false),
            (Attempt::Held, Change::Taken, true),
        ] {
            assert_eq!(board.settle(ADDRESS, &wake, attempt, until), change, "{attempt:?}");
            assert_eq!(board.answers(ADDRESS), answers, "{attempt:?}");
        }
    }

    #[test]
    fn an_election_that_ended_changes_nothing_any_more() {
        let (board, until) = (Board::default(), Instant::now());
        let old = board.enter(ADDRESS);
        board.settle(ADDRESS, &old, Attempt::Held, until);
        board.leave(ADDRESS);
        assert_eq!(board.settle(ADDRESS, &old, Attempt::Held, until), Change::None);
        board.enter(ADDRESS);
        assert_eq!(board.settle(ADDRESS, &old, Attempt::Held, until), Change::None);
        assert!(!board.answers(ADDRESS));
    }

    #[test]
    fn an_address_is_yielded_only_where_another_may_have_been_elected() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let board = Board::default();
        let wake = board.enter(ADDRESS);
        board.settle(ADDRESS, &wake, Attempt::Held, now + second);
        board.contest(ADDRESS, OTHER, now);
        assert!(board.answers(ADDRESS));
        assert_eq!((board.contested(ADDRESS), board.contested(ADDRESS)), (Some(OTHER), None));
        board.settle(ADDRESS, &wake, Attempt::Unknown, now + second + second);
        board.contest(ADDRESS, OTHER, now + second + second);
        assert!(!board.answers(ADDRESS));
        assert_eq!(board.contested(ADDRESS), None);
    }
}
