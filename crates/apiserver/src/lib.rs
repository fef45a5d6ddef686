//! The request path
