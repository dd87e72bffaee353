//! A corpus folder on the disk.
//!
//! [`plan`] says what is to be done, [`commit`] that a task is done, [`manifest`] what the corpus holds; they are made of
//! [`records`]. [`shard`] and [`index`] are the two files of a shard. [`disk`] holds every operation that could leave
//! something half done, [`lock`] keeps runs apart, [`folder`] knows the names.

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
