//! Errors of the core as Python exceptions, by meaning.

use pyo3::{
    create_exception,
    exceptions::{PyException, PyKeyboardInterrupt, PyOSError, PyValueError},
    prelude::*,
};
use zhuzi_core::Error;

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
pub fn to_py(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Io { path, source } => match source.raw_os_error() {
            // With its parts, so that Python picks FileNotFoundError and its like.
            Some(code) => {
                let reason = source.to_string();
                let reason = reason.rsplit_once(" (os error").map_or(reason.as_str(), |(text, _)| text);
                PyOSError::new_err((code, reason.to_owned(), path))
            }
            None => PyOSError::new_err(message),
        },
        Error::Model { .. } => ModelFileError::new_err(message),
        Error::Record { .. } | Error::Element { .. } | Error::Row { .. } | Error::Damaged { .. } => {
            InputError::new_err(message)
        }
        Error::Occupied(_) => OutputExistsError::new_err(message),
        Error::Argument(_) => PyValueError::new_err(message),
        Error::Stopped => PyKeyboardInterrupt::new_err(message),
    }
}
