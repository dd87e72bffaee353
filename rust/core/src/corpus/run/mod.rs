//! A run, from a request to a sealed corpus.
//!
//! [`start`] joins the steps: [`inputs`] lists and checks; [`tasks`] cuts the inputs; [`pipeline`] reads blocks, encodes
//! them side by side ([`encode`]) and hands them to [`write`] in order; [`seal`] writes the manifest. [`worker`] runs
//! some tasks for a cluster, [`estimate`] looks at samples only.

mod encode;
pub mod estimate;
mod inputs;
mod pipeline;
pub mod progress;
pub mod request;
mod seal;
pub mod start;
mod tasks;
pub mod worker;
mod write;
