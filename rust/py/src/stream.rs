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

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyGap>()
}
