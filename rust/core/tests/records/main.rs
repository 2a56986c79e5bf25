//! Records: every one survives its wire form, and no wrong byte of it is accepted.

#[path = "../support/mod.rs"]
mod support;

mod bindings;
mod capability;
mod channel_frame;
mod cursors;
mod fork;
mod horizon;
mod revocation;
mod sealed_channel;
mod signed;
mod snapshot;
mod token;
