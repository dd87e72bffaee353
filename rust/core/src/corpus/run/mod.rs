//! A run, from a request to a complete corpus.
//!
//! [`start`] combines the steps: [`inputs`] lists and checks the inputs; [`decide`] compares the request with the
//! folder; [`tasks`] cuts the inputs; [`pipeline`] reads blocks, encodes them in parallel ([`encode`]) and writes
//! them in order ([`lane`], [`write`]); [`seal`] writes the manifest. [`worker`] runs some tasks for a cluster; [`estimate`]
//! reads samples only.

mod decide;
mod encode;
pub mod estimate;
mod inputs;
mod lane;
mod pipeline;
pub mod progress;
pub mod request;
mod seal;
pub mod start;
mod tasks;
mod work;
pub mod worker;
mod write;
