//! Records: every one survives its wire form, and no wrong byte of it is accepted.

#[path = "../support/mod.rs"]
mod support;

mod bindings;
mod capability;
mod cursors;
mod fork;
mod horizon;
mod revocation;
mod sealed_channel;
mod signed;
mod snapshot;
mod token;
