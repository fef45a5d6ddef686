//! Control-loop kit
