//! From inputs to documents.
//!
//! [`input`] lists the files, by their [`kinds`]. [`blocks`] reads a span of a file in blocks of whole
//! records: text through [`stream`] and [`text_blocks`], tables through [`rows`]. [`documents`] extracts the
//! texts of a block and decides which to keep. [`reader`] does the same for uses other than encoding.

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
