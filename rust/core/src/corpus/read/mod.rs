//! From inputs to documents.
//!
//! [`input`] lists the files, by their [`kinds`]; [`blocks`] reads a span of one in blocks of whole records: text through
//! [`stream`] and [`text_blocks`], tables through [`rows`]; [`documents`] takes the texts out of a block and judges
//! them. [`reader`] is the same for other uses than encoding.

mod arrow;
pub mod block;
pub mod blocks;
mod clean;
pub mod cut;
pub mod documents;
pub mod input;
mod ipc;
mod json;
mod kinds;
mod offer;
pub mod parquet;
pub mod reader;
mod row_batch;
pub mod rows;
mod stream;
mod text_blocks;
