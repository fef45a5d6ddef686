//! Assigns pods to nodes
