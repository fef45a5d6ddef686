//! CRI messages and client
