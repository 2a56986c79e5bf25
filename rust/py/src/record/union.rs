//! Unions: one of several records, told apart by their classes.

/// Declares an enum with a record in each variant, and how Python sees it: as that record.
macro_rules! union {
    (
        $(#[$meta:meta])*
        pub enum $name:ident, $wanted:literal { $($variant:ident($class:ty),)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $(#[allow(missing_docs, reason = "named by its record")] $variant($class),)*
        }

        impl $crate::record::field::Field for $name {
            fn from_python(value: &pyo3::Bound<'_, pyo3::PyAny>, name: &'static str) -> pyo3::PyResult<Self> {
                $(if let Ok(record) = value.cast_exact::<$class>() {
                    return Ok(Self::$variant(record.get().clone()));
                })*
                Err($crate::args::wrong_type(name, $wanted, value))
            }

            fn to_python<'py>(&self, py: pyo3::Python<'py>) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                match self {
                    $(Self::$variant(record) => $crate::record::field::Field::to_python(record, py),)*
                }
            }
        }

        $(impl From<$class> for $name {
            fn from(record: $class) -> Self {
                Self::$variant(record)
            }
        })*
    };
}
pub(crate) use union;
