//! Errors of the core as Python exceptions, by meaning.

use pyo3::{
    IntoPyObjectExt, create_exception,
    exceptions::{PyException, PyKeyboardInterrupt, PyOSError, PyValueError},
    prelude::*,
    types::PyTuple,
};
use zhuzi_core::{
    Error,
    message::{MessagePart, Setting, Value},
};

create_exception!(zhuzi._core, ZhuziError, PyException, "What Zhuzi's own errors have in common.");
create_exception!(zhuzi._core, ModelFileError, ZhuziError, "A model file is damaged or of the wrong kind.");
create_exception!(zhuzi._core, InputError, ZhuziError, "A record or file of the input cannot be used.");
create_exception!(
    zhuzi._core,
    OutputExistsError,
    ZhuziError,
    "The output folder already holds something that this command must not mix with."
);

/// Maps an error of the core to the Python exception of its kind.
///
/// Where the message names options, the exception's text names them as keywords (`overwrite=True`), and its
/// attribute `parts` has them apart from the text, for the command line (see `zhuzi.errors.naming`).
pub fn to_py(error: Error) -> PyErr {
    let message = error.message();
    let text: String = message.parts().iter().map(in_python).collect();
    let names_options = message.parts().iter().any(|part| matches!(part, MessagePart::Option(_)));
    let error = match error {
        Error::Io { path, source } => match source.raw_os_error() {
            // With its parts, so that Python picks FileNotFoundError and its like.
            Some(code) => {
                let reason = source.to_string();
                let reason = reason.rsplit_once(" (os error").map_or(reason.as_str(), |(text, _)| text);
                PyOSError::new_err((code, reason.to_owned(), path))
            }
            None => PyOSError::new_err(text),
        },
        Error::Model { .. } => ModelFileError::new_err(text),
        Error::Record { .. } | Error::Element { .. } | Error::Row { .. } | Error::Damaged { .. } => {
            InputError::new_err(text)
        }
        Error::Occupied(_) => OutputExistsError::new_err(text),
        Error::Argument(_) => PyValueError::new_err(text),
        Error::Stopped => PyKeyboardInterrupt::new_err(text),
    };
    if names_options {
        Python::attach(|py| {
            let parts = message.parts().iter().map(|part| to_object(py, part)).collect::<PyResult<Vec<_>>>();
            // Without the attribute the text alone is shown.
            let _ = parts.and_then(|parts| error.value(py).setattr("parts", PyTuple::new(py, parts)?));
        });
    }
    error
}

fn in_python(part: &MessagePart) -> String {
    match part {
        MessagePart::Text(text) => text.clone(),
        MessagePart::Option(Setting { name, value }) => match value {
            None => format!("`{name}`"),
            Some(Value::Switch(on)) => format!("{name}={}", if *on { "True" } else { "False" }),
            Some(Value::Word(word)) => format!("{name}=\"{word}\""),
        },
    }
}

/// A part as `zhuzi.errors.Part`.
fn to_object<'py>(py: Python<'py>, part: &MessagePart) -> PyResult<Bound<'py, PyAny>> {
    match part {
        MessagePart::Text(text) => text.into_bound_py_any(py),
        MessagePart::Option(Setting { name, value }) => match value {
            None => (*name, py.None()).into_bound_py_any(py),
            Some(Value::Switch(on)) => (*name, *on).into_bound_py_any(py),
            Some(Value::Word(word)) => (*name, *word).into_bound_py_any(py),
        },
    }
}
