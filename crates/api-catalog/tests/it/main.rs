//! Tests of the catalogue: fixtures as data, a walk over every entry, and rules under arbitrary input.

mod defaults;
mod discovery;
mod fixture;
mod invalid;
mod published;
mod survive;
mod tables;
mod walk;
