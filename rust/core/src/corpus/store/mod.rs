//! A corpus folder on disk.
//!
//! The [`plan`] says what to do, a [`commit`] that a task is done, the [`manifest`] what the corpus contains;
//! all three are made of [`records`]. [`shard`] and [`index`] write the two files of a shard. Every operation
//! that could leave something incomplete is in [`disk`]; [`lock`] keeps runs apart; [`folder`] has the names.

pub mod commit;
pub mod config;
pub mod digest;
pub mod disk;
pub mod folder;
pub mod index;
pub mod lock;
pub mod manifest;
pub mod plan;
pub mod records;
pub mod shard;
pub mod width;
