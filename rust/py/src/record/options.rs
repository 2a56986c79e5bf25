//! Options: records of the loop's configuration, by keyword only, each field with a default.
//!
//! They are checked when they are made. A value out of range is a `ConfigError`, one of the wrong type a `TypeError`.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors::{ConfigError, InvalidArgument};
use crate::record::field::{Field, Given};

/// Reads an option into its place, if it was given.
pub fn set<T: Field, P: From<T>>(place: &mut P, given: &Given<'_>, name: &'static str) -> PyResult<()> {
    if let Given::This(value) = given {
        let option = T::from_python(value, name).map_err(|error| as_config_error(error, value.py()))?;
        *place = option.into();
    }
    Ok(())
}

/// A value out of range is one of the configuration here.
pub fn as_config_error(error: PyErr, py: Python<'_>) -> PyErr {
    if !error.is_instance_of::<InvalidArgument>(py) {
        return error;
    }
    let arguments = error
        .value(py)
        .getattr("args")
        .and_then(|args| Ok(args.cast_into::<PyTuple>()?.unbind()));
    arguments.map_or_else(|error| error, ConfigError::new_err)
}

/// Declares the Python class of a struct of options, which has a `Default` and a `validate`.
///
/// `field in place` is an option whose place in the struct has another name and type.
macro_rules! options {
    (
        $(#[$meta:meta])*
        pub struct $class:ident($core:ty) in $module:literal as $name:literal, signature $signature:literal {
            $($(#[$doc:meta])* $field:ident $(in $place:ident)?: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[pyo3::pyclass(frozen, eq, hash, name = $name, module = $module)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $class(pub $core);

        impl $crate::record::Record for $class {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];
            const BY_KEYWORD: bool = true;
        }

        impl $crate::record::field::Field for $core {
            fn from_python(value: &pyo3::Bound<'_, pyo3::PyAny>, name: &'static str) -> pyo3::PyResult<Self> {
                $crate::record::copied::<$class>(value, name).map(|options| options.0)
            }

            fn to_python<'py>(&self, py: pyo3::Python<'py>) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                Ok(pyo3::Bound::new(py, $class(*self))?.into_any())
            }
        }

        #[pyo3::pymethods]
        impl $class {
            #[new]
            #[pyo3(
                signature = (*, $($field = $crate::record::field::Given::Not),*),
                text_signature = $signature
            )]
            #[allow(clippy::too_many_arguments, reason = "one for each field")]
            fn py_new($($field: $crate::record::field::Given<'_>),*) -> pyo3::PyResult<Self> {
                $crate::guard::entry($name, || {
                    let mut options = <$core>::default();
                    $($crate::record::options::set::<$type, _>(
                        &mut $crate::record::options::place!(options, $field $($place)?),
                        &$field,
                        stringify!($field),
                    )?;)*
                    options.validate().map_err(|error| $crate::errors::config(&error))?;
                    Ok(Self(options))
                })
            }

            $($(#[$doc])*
            #[getter]
            fn $field<'py>(&self, py: pyo3::Python<'py>) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                let option = <$type>::from($crate::record::options::place!(self.0, $field $($place)?));
                $crate::record::field::Field::to_python(&option, py)
            })*

            #[classattr]
            fn __match_args__(py: pyo3::Python<'_>) -> pyo3::PyResult<pyo3::Bound<'_, pyo3::types::PyTuple>> {
                $crate::record::match_args::<Self>(py)
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
pub(crate) use options;

/// The place of an option in its struct.
macro_rules! place {
    ($options:expr, $field:ident) => {
        $options.$field
    };
    ($options:expr, $field:ident $place:ident) => {
        $options.$place
    };
}
pub(crate) use place;
