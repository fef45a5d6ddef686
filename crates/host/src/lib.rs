//! Linux behind traits
