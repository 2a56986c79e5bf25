//! Records: frozen native classes whose value is their fields.
//!
//! A record has a constructor with its fields in order, a read-only attribute for each, `__eq__` and `__hash__` by its
//! fields, a `__repr__` that could be evaluated, `__match_args__`, and pickles as a call of its constructor.
//! [`record!`] declares one that is nothing but its fields; a class with more to it implements [`Record`] and passes
//! its dunders on to the functions here.

pub mod field;
pub mod moment;

use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

/// What `__reduce__` gives: a callable, and its arguments.
pub type Reduced<'py> = (Bound<'py, PyAny>, Bound<'py, PyTuple>);

/// A class whose value is its fields.
pub trait Record: PyClass {
    /// Its fields, in the order of its constructor.
    const FIELDS: &'static [&'static str];
    /// Whether its constructor takes them by keyword only.
    const BY_KEYWORD: bool = false;
}

/// `__match_args__`: the fields that may be matched by position.
pub fn match_args<R: Record>(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    PyTuple::new(py, if R::BY_KEYWORD { &[] } else { R::FIELDS })
}

/// `__repr__`: the call that makes an equal record.
pub fn repr<R: Record>(record: &Bound<'_, R>) -> PyResult<String> {
    let mut text = format!("{}(", record.as_any().get_type().name()?);
    for (index, name) in R::FIELDS.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let value = record.as_any().getattr(*name)?.repr()?;
        text.push_str(&format!("{separator}{name}={}", value.to_string_lossy()));
    }
    text.push(')');
    Ok(text)
}

/// `__hash__` of a record whose fields have no hash of their own in Rust.
pub fn hash<R: Record>(record: &Bound<'_, R>) -> PyResult<isize> {
    (record.as_any().get_type(), values(record)?)
        .into_pyobject(record.py())?
        .hash()
}

/// `__reduce__`: pickling and copying call the constructor.
pub fn reduce<'py, R: Record>(record: &Bound<'py, R>) -> PyResult<Reduced<'py>> {
    let class = record.as_any().get_type();
    if !R::BY_KEYWORD {
        return Ok((class.into_any(), values(record)?));
    }
    static BY_KEYWORD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = record.py();
    let fields = PyDict::new(py);
    for name in R::FIELDS {
        fields.set_item(name, record.as_any().getattr(*name)?)?;
    }
    let new = BY_KEYWORD.import(py, "copyreg", "__newobj_ex__")?;
    Ok((new.clone(), (class, PyTuple::empty(py), fields).into_pyobject(py)?))
}

/// `__reduce__` of a class that is read back from its bytes.
pub fn reduce_bytes<'py, T: PyClass>(object: &Bound<'py, T>, bytes: Bound<'py, PyAny>) -> PyResult<Reduced<'py>> {
    Ok((
        object.as_any().get_type().getattr("from_bytes")?,
        (bytes,).into_pyobject(object.py())?,
    ))
}

fn values<'py, R: Record>(record: &Bound<'py, R>) -> PyResult<Bound<'py, PyTuple>> {
    let values: Vec<_> = R::FIELDS
        .iter()
        .map(|name| record.as_any().getattr(*name))
        .collect::<PyResult<_>>()?;
    PyTuple::new(record.py(), values)
}

/// Declares a record that is nothing but its fields, each of a type that is a [`field::Field`].
///
/// `kind` is a class attribute that tells the records of a union apart; `by keyword` makes a record of options.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $class:ident in $module:literal as $name:literal $(, kind $kind:literal)? {
            $($(#[$doc:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $crate::record::record! { @declare [$($field),*] false
            $(#[$meta])* $class $module $name [$($kind)?] { $($(#[$doc])* $field: $type,)* } }
    };
    (
        $(#[$meta:meta])*
        pub struct $class:ident in $module:literal as $name:literal, by keyword {
            $($(#[$doc:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $crate::record::record! { @declare [*, $($field),*] true
            $(#[$meta])* $class $module $name [] { $($(#[$doc])* $field: $type,)* } }
    };
    (@declare [$($signature:tt)*] $by_keyword:literal
        $(#[$meta:meta])* $class:ident $module:literal $name:literal [$($kind:literal)?]
        { $($(#[$doc:meta])* $field:ident: $type:ty,)* }
    ) => {
        $(#[$meta])*
        #[pyo3::pyclass(frozen, eq, name = $name, module = $module)]
        #[derive(Debug, Clone, PartialEq)]
        pub struct $class {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl $crate::record::Record for $class {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];
            const BY_KEYWORD: bool = $by_keyword;
        }

        #[pyo3::pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = ($($signature)*))]
            fn py_new($($field: &pyo3::Bound<'_, pyo3::PyAny>),*) -> pyo3::PyResult<Self> {
                $crate::guard::entry($name, || {
                    Ok(Self { $($field: $crate::record::field::Field::from_python($field, stringify!($field))?,)* })
                })
            }

            $(#[getter]
            fn $field<'py>(&self, py: pyo3::Python<'py>) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                $crate::record::field::Field::to_python(&self.$field, py)
            })*

            $(#[classattr]
            fn kind() -> &'static str {
                $kind
            })?

            #[classattr]
            fn __match_args__(py: pyo3::Python<'_>) -> pyo3::PyResult<pyo3::Bound<'_, pyo3::types::PyTuple>> {
                $crate::record::match_args::<Self>(py)
            }

            fn __hash__(slf: &pyo3::Bound<'_, Self>) -> pyo3::PyResult<isize> {
                $crate::record::hash(slf)
            }

            fn __repr__(slf: &pyo3::Bound<'_, Self>) -> pyo3::PyResult<String> {
                $crate::record::repr(slf)
            }

            fn __reduce__<'py>(slf: &pyo3::Bound<'py, Self>) -> pyo3::PyResult<$crate::record::Reduced<'py>> {
                $crate::record::reduce(slf)
            }
        }
    };
}
pub(crate) use record;
