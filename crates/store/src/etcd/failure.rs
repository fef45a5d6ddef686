//! What a failed call means: whether it can have had an effect, whether another member may do better, and if not what
//! the caller is told.

use tonic::{Code, Status};

use crate::StoreError;

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It had no effect; another member, or the same one later, may do it.
    Refused(String),
    /// It may have had its effect.
    Unknown(String),
    /// The revision asked for has been compacted.
    Compacted,
    /// The revision asked for has not happened yet.
    Future,
    /// No other attempt would fare better.
    Final(StoreError),
}

impl Failure {
    /// What happened, in words.
    pub(crate) fn words(&self) -> String {
        match self {
            Failure::Refused(words) | Failure::Unknown(words) => words.clone(),
            Failure::Compacted => "the revision has been compacted".to_owned(),
            Failure::Future => "the revision is in the future".to_owned(),
            Failure::Final(error) => error.to_string(),
        }
    }
}

/// Sorts what etcd, or the way to it, answered.
pub(crate) fn classify(status: &Status) -> Failure {
    let words = words(status);
    let says = |text: &str| status.message().contains(text);
    match status.code() {
        Code::OutOfRange if says("has been compacted") => Failure::Compacted,
        Code::OutOfRange if says("future revision") => Failure::Future,
        Code::InvalidArgument => Failure::Final(StoreError::BadTransaction(words)),
        // What is a little too large is etcd's to refuse, what is much too large gRPC's before it.
        Code::ResourceExhausted if says("received message larger than max") => {
            Failure::Final(StoreError::BadTransaction(words))
        }
        Code::ResourceExhausted if says("database space exceeded") => {
            Failure::Final(StoreError::DiskFull(words))
        }
        Code::DataLoss => Failure::Final(StoreError::Unsuitable(format!(
            "etcd says that the data of one of its members is damaged ({words}); replace that member"
        ))),
        Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => {
            Failure::Final(StoreError::Unsuitable(format!("etcd refuses this server: {words}")))
        }
        Code::Unimplemented => {
            Failure::Final(StoreError::Unsuitable(format!("this is no etcd that is known here: {words}")))
        }
        Code::Unavailable if says("no leader") => Failure::Refused(words),
        Code::ResourceExhausted if says("too many requests") => Failure::Refused(words),
        _ if never_connected(status) => Failure::Refused(words),
        _ => Failure::Unknown(words),
    }
}

/// Whether there was no connection on which the call could have been sent.
fn never_connected(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An error with its causes: tonic's own words are only "transport error".
fn words(status: &Status) -> String {
    let mut words = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_happened_is_called_refused() {
        let of = |code, message: &str| classify(&Status::new(code, message));
        assert!(matches!(of(Code::Unavailable, "etcdserver: no leader"), Failure::Refused(_)));
        assert!(matches!(of(Code::ResourceExhausted, "etcdserver: too many requests"), Failure::Refused(_)));
        for (code, message) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unknown, "transport error"),
            (Code::Internal, "h2 protocol error"),
            (Code::Cancelled, "operation was canceled"),
            (Code::DeadlineExceeded, "context deadline exceeded"),
        ] {
            assert!(matches!(of(code, message), Failure::Unknown(_)), "{message}");
        }
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(of(Code::OutOfRange, compacted), Failure::Compacted);
        let full = of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full, Failure::Final(StoreError::DiskFull(_))));
        let large = of(Code::InvalidArgument, "etcdserver: request is too large");
        assert!(matches!(large, Failure::Final(StoreError::BadTransaction(_))));
        let damaged = of(Code::DataLoss, "etcdserver: corrupt cluster");
        assert!(matches!(damaged, Failure::Final(StoreError::Unsuitable(_))));
    }
}
