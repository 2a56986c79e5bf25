//! What operators order, sign and are: the native half of `meshos.operator`.
//!
//! No private key gets here. Who signs does so in Python, over the bytes that an envelope gives.

pub mod action;
pub mod blast;
pub mod envelope;
pub mod registry;
pub mod verifier;

use pyo3::prelude::*;

/// Adds classes and functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    action::register(module)?;
    blast::register(module)?;
    envelope::register(module)?;
    registry::register(module)?;
    verifier::register(module)
}
