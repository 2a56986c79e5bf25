//! Calling Python with one argument, as cheaply as the stable ABI allows.

use pyo3::ffi;
use pyo3::prelude::*;

/// Calls `callable(argument)`.
///
/// The stable ABI of 3.11 has no vectorcall, and PyO3 makes a tuple for each call. `PyObject_CallFunctionObjArgs` is in
/// the stable ABI and uses vectorcall inside: it saves the tuple, which is a third of the cost of a small call.
#[inline]
#[allow(unsafe_code)]
pub fn one<'py>(callable: &Bound<'py, PyAny>, argument: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: both pointers are alive, the list of arguments ends with null, the interpreter is attached as `callable`
    // shows, and the result is a new reference or null with an exception set.
    unsafe {
        let result = ffi::PyObject_CallFunctionObjArgs(
            callable.as_ptr(),
            argument.as_ptr(),
            std::ptr::null_mut::<ffi::PyObject>(),
        );
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}
