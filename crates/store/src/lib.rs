//! Revisioned, watchable bytes
