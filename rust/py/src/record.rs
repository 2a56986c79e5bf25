//! Records: frozen native classes whose value is their fields.
//!
//! A record has a constructor with its fields in order, a read-only attribute for each, `__eq__` and `__hash__` by its
//! fields, a `__repr__` that could be evaluated, `__match_args__`, and pickles as a call of its constructor.
//! [`record!`] declares one that is nothing but its fields; a class with more to it implements [`Record`] and passes
//! its dunders on to the functions here.

pub mod field;
pub mod moment;
pub mod options;
pub mod union;
pub mod word;

use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::args;

/// What `__reduce__` gives: a callable, and its arguments.
pub type Reduced<'py> = (Bound<'py, PyAny>, Bound<'py, PyTuple>);

/// A class whose value is its fields.
pub trait Record: PyClass {
    /// Its fields, in the order of its constructor.
    const FIELDS: &'static [&'static str];
    /// Whether its constructor takes them by keyword only.
    const BY_KEYWORD: bool = false;
    /// More fields, by keyword only, which are not compared.
    const BESIDE: &'static [&'static str] = &[];
}

/// `__match_args__`: the fields that may be matched by position.
pub fn match_args<R: Record>(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    PyTuple::new(py, if R::BY_KEYWORD { &[] } else { R::FIELDS })
}

/// `__repr__`: the call that makes an equal record.
pub fn repr<R: Record>(record: &Bound<'_, R>) -> PyResult<String> {
    let mut text = format!("{}(", record.as_any().get_type().name()?);
    for (index, name) in R::FIELDS.iter().chain(R::BESIDE).enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let value = record.as_any().getattr(*name)?;
        text.push_str(&format!("{separator}{name}={}", word::shown(&value)?));
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
    let py = record.py();
    let (by_position, by_keyword) = if R::BY_KEYWORD {
        (PyTuple::empty(py), R::FIELDS)
    } else {
        (values(record)?, R::BESIDE)
    };
    if !R::BY_KEYWORD && by_keyword.is_empty() {
        return Ok((class.into_any(), by_position));
    }
    static BY_KEYWORD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let fields = PyDict::new(py);
    for name in by_keyword {
        fields.set_item(name, record.as_any().getattr(*name)?)?;
    }
    let new = BY_KEYWORD.import(py, "copyreg", "__newobj_ex__")?;
    Ok((new.clone(), (class, by_position, fields).into_pyobject(py)?))
}

/// `__reduce__` of a class that is read back from its bytes.
pub fn reduce_bytes<'py, T: PyClass>(object: &Bound<'py, T>, bytes: Bound<'py, PyAny>) -> PyResult<Reduced<'py>> {
    Ok((
        object.as_any().get_type().getattr("from_bytes")?,
        (bytes,).into_pyobject(object.py())?,
    ))
}

/// A value of a record that is not compared.
#[derive(Debug, Clone, Default)]
pub struct Beside<T>(pub T);

impl<T> PartialEq for Beside<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T: field::Field> field::Field for Beside<T> {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        T::from_python(value, name).map(Self)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.to_python(py)
    }
}

/// The name of a field; one that is a word of Rust is written as `r#ref`.
pub const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// Reads a record of one class.
pub fn copied<R: PyClass<Frozen = True> + Sync + Clone>(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<R> {
    match value.cast::<R>() {
        Ok(record) => Ok(record.get().clone()),
        Err(_) => {
            let class = value.py().get_type::<R>().name()?.to_string();
            let article = if class.starts_with(['A', 'E', 'I', 'O', 'U']) {
                "an"
            } else {
                "a"
            };
            Err(args::wrong_type(name, &format!("{article} {class}"), value))
        }
    }
}

fn values<'py, R: Record>(record: &Bound<'py, R>) -> PyResult<Bound<'py, PyTuple>> {
    let values: Vec<_> = R::FIELDS
        .iter()
        .map(|name| record.as_any().getattr(*name))
        .collect::<PyResult<_>>()?;
    PyTuple::new(record.py(), values)
}

/// Declares a record that is nothing but its fields, each of a type that is a [`field::Field`], and is one itself.
///
/// `kind` is a class attribute that tells the records of a union apart, and so is `phase`, which is a word; `by keyword`
/// makes a record of options, and `shown by` says what its `str()` is. A field may have a default; `signature` shows it. A field under `beside` is given by keyword only and not compared.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $class:ident in $module:literal as $name:literal, by keyword $(, shown by $shown:path)? $(, signature $text:literal)? {
            $($(#[$doc:meta])* $field:ident: $type:ty $(= $default:expr)?,)*
        }
    ) => {
        $crate::record::record! { @declare
            [*, $($field $(= $crate::record::absent!($default))?),*] true [$($text)?]
            $(#[$meta])* $class $module $name [] [] [$($shown)?]
            { $($(#[$doc])* $field: $type [$($default)?],)* } {} }
    };
    (
        $(#[$meta:meta])*
        pub struct $class:ident in $module:literal as $name:literal
        $(, kind $kind:literal)? $(, phase $phase:path)? $(, signature $text:literal)? {
            $($(#[$doc:meta])* $field:ident: $type:ty $(= $default:expr)?,)*
        }
        $(beside {
            $($(#[$beside_doc:meta])* $beside:ident: $beside_type:ty = $beside_default:expr,)*
        })?
    ) => {
        $crate::record::record! { @declare
            [
                $($field $(= $crate::record::absent!($default))?),*
                $(, *, $($beside = $crate::record::absent!($beside_default)),*)?
            ] false [$($text)?]
            $(#[$meta])* $class $module $name [$($kind)?] [$($phase)?] []
            { $($(#[$doc])* $field: $type [$($default)?],)* }
            { $($($(#[$beside_doc])* $beside: $beside_type [$beside_default],)*)? } }
    };
    (@declare [$($signature:tt)*] $by_keyword:literal [$($text:literal)?]
        $(#[$meta:meta])* $class:ident $module:literal $name:literal
        [$($kind:literal)?] [$($phase:path)?] [$($shown:path)?]
        { $($(#[$doc:meta])* $field:ident: $type:ty [$($default:expr)?],)* }
        { $($(#[$beside_doc:meta])* $beside:ident: $beside_type:ty [$beside_default:expr],)* }
    ) => {
        $(#[$meta])*
        #[pyo3::pyclass(frozen, eq, name = $name, module = $module)]
        #[derive(Debug, Clone, PartialEq)]
        pub struct $class {
            $($(#[$doc])* pub $field: $type,)*
            $($(#[$beside_doc])* pub $beside: $crate::record::Beside<$beside_type>,)*
        }

        impl $crate::record::Record for $class {
            const FIELDS: &'static [&'static str] = &[$($crate::record::plain(stringify!($field))),*];
            const BY_KEYWORD: bool = $by_keyword;
            const BESIDE: &'static [&'static str] = &[$(stringify!($beside)),*];
        }

        impl $crate::record::field::Field for $class {
            fn from_python(value: &pyo3::Bound<'_, pyo3::PyAny>, name: &'static str) -> pyo3::PyResult<Self> {
                $crate::record::copied(value, name)
            }

            fn to_python<'py>(&self, py: pyo3::Python<'py>) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                Ok(pyo3::Bound::new(py, self.clone())?.into_any())
            }
        }

        #[pyo3::pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = ($($signature)*) $(, text_signature = $text)?)]
            #[allow(clippy::too_many_arguments, reason = "one for each field")]
            fn py_new(
                $($field: $crate::record::field::Given<'_>,)*
                $($beside: $crate::record::field::Given<'_>,)*
            ) -> pyo3::PyResult<Self> {
                $crate::guard::entry($name, || {
                    Ok(Self {
                        $($field: $crate::record::given!($field [$($default)?]),)*
                        $($beside: $crate::record::given!($beside [$crate::record::Beside($beside_default)]),)*
                    })
                })
            }

            $($(#[$doc])*
            #[getter]
            fn $field<'py>(&self, py: pyo3::Python<'py>) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                $crate::record::field::Field::to_python(&self.$field, py)
            })*

            $($(#[$beside_doc])*
            #[getter]
            fn $beside<'py>(&self, py: pyo3::Python<'py>) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                $crate::record::field::Field::to_python(&self.$beside, py)
            })*

            $(#[classattr]
            fn kind() -> &'static str {
                $kind
            })?

            $(#[classattr]
            fn phase() -> $crate::record::word::LazyWord {
                $crate::record::word::LazyWord(|py| $crate::record::field::Field::to_python(&$phase, py))
            })?

            $(fn __str__(&self, py: pyo3::Python<'_>) -> pyo3::PyResult<String> {
                $shown(self, py)
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

/// Stands for an argument that was not given, whose default is found where it is read.
macro_rules! absent {
    ($default:expr) => {
        $crate::record::field::Given::Not
    };
}
pub(crate) use absent;

/// Reads an argument as the field of its name, or takes the default.
macro_rules! given {
    ($field:ident []) => {
        $field.read($crate::record::plain(stringify!($field)))?
    };
    ($field:ident [$default:expr]) => {
        $field.read_or_else($crate::record::plain(stringify!($field)), || $default)?
    };
}
pub(crate) use given;
