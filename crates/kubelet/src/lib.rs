//! Pod lifecycle
