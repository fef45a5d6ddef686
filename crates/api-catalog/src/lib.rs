//! One entry per built-in resource and its own rules
