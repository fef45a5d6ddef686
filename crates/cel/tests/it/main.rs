//! Tables of expressions: what they give, what they cost, what is wrong with them.
//!
//! Values are compared through the language itself: the expected one is an expression too.

mod random;
mod tables;
