//! JSON records and arrays of them.
//!
//! The scanner is our own, because values of other fields must not matter: `NaN`, numbers of 5,000 digits and any
//! depth of nesting are skipped. Text is unescaped exactly as JSON says.

pub mod elements;
pub mod fields;
mod scanner;
