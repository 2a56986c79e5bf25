//! Fields of records: each type says how it is read from Python, and shown to it.
//!
//! A value of the wrong type is a `TypeError`, one out of range an `InvalidArgument`; both name the field.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use meshos_core::digest::Digest;
use meshos_core::finite::{self, Finite};
use meshos_core::id::{NodeId, Origin};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyFrozenSet, PyInt, PyString, PyTuple};
use pyo3::{BoundObject, PyClass};

use crate::args;
use crate::errors::InvalidArgument;

/// A type that a field of a record may have.
pub trait Field: Sized {
    /// Reads a value, which was given for the field `name`.
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self>;

    /// Shows it.
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>>;
}

/// Reads a value, where the type is known from what becomes of it.
pub fn read<T: Field>(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<T> {
    T::from_python(value, name)
}

/// An argument that may be left out. Unlike with `Option`, `None` is then a value like any other, and a wrong one.
pub enum Given<'py> {
    /// It was left out.
    Not,
    /// What was given.
    This(Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Given<'py> {
    type Error = Infallible;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> Result<Self, Infallible> {
        Ok(Self::This(value.to_owned()))
    }
}

impl<'py> Given<'py> {
    /// Reads it with `read`, or takes the default.
    pub fn map_or<T>(&self, default: T, read: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>) -> PyResult<T> {
        match self {
            Self::Not => Ok(default),
            Self::This(value) => read(value),
        }
    }

    /// Reads it as a field that has no default.
    pub fn read<T: Field>(&self, name: &'static str) -> PyResult<T> {
        match self {
            Self::Not => Err(PyTypeError::new_err(format!("{name} is missing"))),
            Self::This(value) => T::from_python(value, name),
        }
    }

    /// Reads it as a field, or makes the default.
    pub fn read_or_else<T: Field>(&self, name: &'static str, default: impl FnOnce() -> T) -> PyResult<T> {
        match self {
            Self::Not => Ok(default()),
            Self::This(value) => T::from_python(value, name),
        }
    }

    /// Reads it as a field, or takes the default.
    pub fn read_or<T: Field>(&self, name: &'static str, default: T) -> PyResult<T> {
        self.map_or(default, |value| T::from_python(value, name))
    }
}

fn shown<'py, T: IntoPyObject<'py>>(value: T, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
    value
        .into_pyobject(py)
        .map(|object| object.into_any().into_bound())
        .map_err(Into::into)
}

impl Field for u64 {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        args::u64(value, name)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(*self, py)
    }
}

impl Field for u32 {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let out_of_range = || InvalidArgument::new_err((name, "must be from 0 to 2^32 - 1"));
        match args::u64(value, name) {
            Ok(number) => Self::try_from(number).map_err(|_| out_of_range()),
            Err(error) if error.is_instance_of::<InvalidArgument>(value.py()) => Err(out_of_range()),
            Err(error) => Err(error),
        }
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(*self, py)
    }
}

impl Field for bool {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        match value.cast::<PyBool>() {
            Ok(value) => Ok(value.is_true()),
            Err(_) => Err(args::wrong_type(name, "a bool", value)),
        }
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(*self, py)
    }
}

impl Field for String {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let text = value
            .cast::<PyString>()
            .map_err(|_| args::wrong_type(name, "a str", value))?;
        text.to_str()
            .map(str::to_owned)
            .map_err(|_| InvalidArgument::new_err((name, "must be Unicode text")))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(self, py)
    }
}

/// A text that is shared, not copied.
impl Field for Arc<str> {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        String::from_python(value, name).map(Self::from)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(&**self, py)
    }
}

/// A text that is mostly one of ours.
impl Field for Cow<'static, str> {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        String::from_python(value, name).map(Self::from)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(&**self, py)
    }
}

/// A whole number or a fraction; `bool` is neither.
pub fn number(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<f64> {
    let is_number =
        value.is_instance_of::<PyFloat>() || (value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>());
    if !is_number {
        return Err(args::wrong_type(name, "a float", value));
    }
    // Only an int can fail: one that no float is as large as.
    value
        .extract()
        .map_err(|_| InvalidArgument::new_err((name, "must be a finite number")))
}

/// A share of a whole, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(pub f64);

impl Field for Share {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let share = number(value, name)?;
        if (0.0..=1.0).contains(&share) {
            Ok(Self(share))
        } else {
            Err(InvalidArgument::new_err((
                name,
                format!("must be from 0 to 1, not {share}"),
            )))
        }
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(self.0, py)
    }
}

/// A finite number.
impl Field for Finite {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let number = number(value, name)?;
        Self::new(number).ok_or_else(|| InvalidArgument::new_err((name, "must be a finite number")))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(self.get(), py)
    }
}

/// A share in the steps in which the loop counts.
impl Field for finite::Share {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        Share::from_python(value, name).map(Self::from)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(self.get(), py)
    }
}

impl From<Share> for finite::Share {
    fn from(share: Share) -> Self {
        Self::new(share.0).expect("a share is finite")
    }
}

impl From<finite::Share> for Share {
    fn from(share: finite::Share) -> Self {
        Self(share.get())
    }
}

impl<const N: usize> Field for [u8; N] {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let bytes = args::payload(value, name)?;
        let bytes = bytes.as_bytes();
        bytes
            .try_into()
            .map_err(|_| InvalidArgument::new_err((name, format!("must be {N} bytes, not {}", bytes.len()))))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyBytes::new(py, self).into_any())
    }
}

impl Field for Digest {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        read(value, name).map(Self::from_bytes)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.as_bytes().to_python(py)
    }
}

impl Field for Origin {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        args::u64(value, name).map(Self::new)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.get().to_python(py)
    }
}

impl Field for NodeId {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        args::u64(value, name).map(Self::new)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.get().to_python(py)
    }
}

impl<T: Field> Field for Option<T> {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        if value.is_none() {
            Ok(None)
        } else {
            T::from_python(value, name).map(Some)
        }
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.as_ref()
            .map_or_else(|| Ok(py.None().into_bound(py)), |value| value.to_python(py))
    }
}

/// Several values, as a tuple.
impl<T: Field> Field for Vec<T> {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let items = value
            .cast::<PyTuple>()
            .map_err(|_| args::wrong_type(name, "a tuple", value))?;
        items.iter().map(|item| T::from_python(&item, name)).collect()
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let items = self.iter().map(|item| item.to_python(py));
        Ok(PyTuple::new(py, items.collect::<PyResult<Vec<_>>>()?)?.into_any())
    }
}

/// A set of texts.
impl Field for Arc<BTreeSet<String>> {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let texts = value
            .cast::<PyFrozenSet>()
            .map_err(|_| args::wrong_type(name, "a frozenset", value))?;
        let texts = texts.iter().map(|text| String::from_python(&text, name));
        texts.collect::<PyResult<BTreeSet<_>>>().map(Self::new)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyFrozenSet::new(py, self.iter())?.into_any())
    }
}

/// Reads records of one class from any iterable.
pub fn records<'py, T: PyClass>(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Vec<Bound<'py, T>>> {
    let wanted = format!("an iterable of {}", value.py().get_type::<T>().name()?);
    items(value, name, &wanted, |item| {
        item.cast::<T>()
            .cloned()
            .map_err(|_| args::wrong_type(name, &wanted, item))
    })
}

/// Reads texts from any iterable but a `str`, which is one of its own letters.
pub fn texts<C: FromIterator<String>>(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<C> {
    let wanted = "an iterable of str";
    if value.is_instance_of::<PyString>() {
        return Err(args::wrong_type(name, wanted, value));
    }
    items(value, name, wanted, |item| String::from_python(item, name))
}

/// Reads what an iterable gives, each by `read`; an iterable that raises passes its error on.
pub fn items<'py, T, C: FromIterator<T>>(
    value: &Bound<'py, PyAny>,
    name: &str,
    wanted: &str,
    mut read: impl FnMut(&Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<C> {
    let items = value.try_iter().map_err(|error| {
        if error.is_instance_of::<PyTypeError>(value.py()) {
            args::wrong_type(name, wanted, value)
        } else {
            error
        }
    })?;
    items.map(|item| item.and_then(|item| read(&item))).collect()
}
