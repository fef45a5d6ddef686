//! What can go wrong with a call to the runtime, told apart as far as callers act differently.

use std::time::Duration;

use tonic::{Code, Status};

/// A failed call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the socket: the runtime is down or restarting.
    #[error("container runtime is not reachable: {0}")]
    Unavailable(String),
    /// The named sandbox, container or image does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The runtime is too old for this call.
    #[error("not implemented by the container runtime: {0}")]
    Unimplemented(String),
    /// No answer within the deadline; the runtime may still be at it.
    #[error("no answer from the container runtime within {0:?}")]
    Deadline(Duration),
    /// The runtime tried and failed.
    #[error("rpc error: code = {code} desc = {message}")]
    Failed {
        /// gRPC's name of the code, as upstream prints it.
        code: &'static str,
        /// The runtime's own words.
        message: String,
    },
}

impl Error {
    /// Whether the thing that was asked about is gone.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// Whether the runtime itself, not the request, is the trouble.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether the call does not exist on the other side.
    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Unimplemented(_))
    }

    pub(crate) fn from_status(status: &Status, deadline: Duration) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unavailable => Self::Unavailable(message),
            // A connection that breaks under a call surfaces as Unknown with a transport source.
            Code::Unknown if std::error::Error::source(status).is_some() => Self::Unavailable(message),
            Code::NotFound => Self::NotFound(message),
            Code::Unimplemented => Self::Unimplemented(message),
            Code::DeadlineExceeded => Self::Deadline(deadline),
            Code::Cancelled if message == "Timeout expired" => Self::Deadline(deadline),
            code => Self::Failed { code: code_name(code), message },
        }
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
