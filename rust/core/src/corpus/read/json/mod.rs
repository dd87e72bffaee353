//! JSON records and arrays of them.
//!
//! We use our own scanner because the values of other fields must not matter: it skips `NaN`, numbers of
//! 5,000 digits and any depth of nesting. Text is unescaped exactly as JSON specifies.

pub mod elements;
pub mod fields;
mod scanner;
