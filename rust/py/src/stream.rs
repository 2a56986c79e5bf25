//! What streams give besides their items.

use pyo3::prelude::*;

use crate::record::record;

record! {
    /// Items `first` to `last` were gone before the reader came to them.
    pub struct PyGap in "meshos.stream" as "Gap" {
        /// The first that is gone.
        first: u64,
        /// The last that is gone.
        last: u64,
    }
}

record! {
    /// Outputs of a daemon after `after`, up to `through`, do not stand any more.
    pub struct PyRolledBack in "meshos.stream" as "RolledBack" {
        /// The last that stands.
        after: u64,
        /// The last that was handed out.
        through: u64,
        /// The term of ownership that began with that.
        epoch: u64,
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyRolledBack>()?;
    module.add_class::<PyGap>()
}
