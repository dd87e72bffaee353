//! `zhuzi.CorpusOptions` as the core's options.

use pyo3::{exceptions::PyValueError, prelude::*};
use zhuzi_core::{
    Error,
    corpus::{EncodeOptions, Format, Split},
    message::{Message, Setting, Value, option},
};

use crate::errors::to_py;

/// The fields of the dataclass, which holds their defaults and says what they mean.
#[derive(FromPyObject)]
pub struct CorpusOptions {
    #[pyo3(from_py_with = one_or_more)]
    field: Vec<String>,
    split: String,
    separator: Option<String>,
    stdin_format: String,
    bos: bool,
    eos: bool,
    fold_fullwidth: bool,
    clean: bool,
    min_chars: Option<u64>,
    max_chars: Option<u64>,
    min_han: Option<f64>,
    sample: Option<f64>,
    dedup: bool,
    limit: Option<u64>,
    max_record_bytes: u64,
    shard_bytes: u64,
}

impl CorpusOptions {
    /// The core's options. Raises `ValueError` for values that no run can have.
    pub fn into_core(self) -> PyResult<EncodeOptions> {
        if (self.split == "separator") != self.separator.is_some() {
            let split = Setting { name: "split", value: Some(Value::Word("separator")) };
            let reason = Message::from(split).text(" and ").option(option("separator"));
            return Err(to_py(Error::Argument(reason.text(" belong together; give both or neither"))));
        }
        let split = match (self.split.as_str(), self.separator) {
            (_, Some(separator)) => Split::Separator(separator),
            ("line", None) => Split::Line,
            ("blank-line", None) => Split::BlankLine,
            ("file", None) => Split::File,
            (other, None) => {
                return Err(PyValueError::new_err(format!(
                    "split must be 'line', 'blank-line', 'separator' or 'file', not {other:?}"
                )));
            }
        };
        let stdin = match self.stdin_format.as_str() {
            "jsonl" => Format::Jsonl,
            "txt" => Format::Txt,
            other => {
                return Err(PyValueError::new_err(format!(
                    "stdin_format must be 'jsonl' or 'txt', not {other:?}"
                )));
            }
        };
        let options = EncodeOptions {
            fields: self.field,
            split,
            stdin,
            bos: self.bos,
            eos: self.eos,
            fold_fullwidth: self.fold_fullwidth,
            clean: self.clean,
            min_chars: self.min_chars,
            max_chars: self.max_chars,
            min_han: self.min_han,
            sample: self.sample,
            dedup: self.dedup,
            limit: self.limit,
            max_record_bytes: self.max_record_bytes,
            shard_bytes: self.shard_bytes,
        };
        options.check().map_err(to_py)?;
        Ok(options)
    }
}

/// Raises `ValueError` for options that no run can have.
#[pyfunction]
pub fn check_options(options: CorpusOptions) -> PyResult<()> {
    options.into_core().map(drop)
}

fn one_or_more(value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    match value.extract::<String>() {
        Ok(one) => Ok(vec![one]),
        Err(_) => value.extract(),
    }
}
