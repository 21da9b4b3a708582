//! What every benchmark shares: the machine it runs on, the floor it divides by, the way it takes turns and reports.
//!
//! A benchmark is a list of [`Case`](measure::Case)s and a few [`System`](measure::System)s that can run them. The first
//! system is the [floor](floor::Floor): the least that two processes on this machine cost, with nothing in between.
//! [`take_turns`](measure::take_turns) lets the systems run them, and [`report`] prints each figure beside its ratio to the floor of
//! the same run. Nothing here knows the library that is measured.

#![allow(dead_code, reason = "each benchmark uses its part of the folder")]

pub mod floor;
pub mod machine;
pub mod measure;
pub mod options;
pub mod process;
pub mod report;
pub mod tally;
