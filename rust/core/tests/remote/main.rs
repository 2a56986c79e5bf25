//! Calls to other nodes: messages, both machines, and the two of them on a network that goes wrong.

#[path = "../support/mod.rs"]
mod support;

mod call;
mod desk;
mod frames;
mod simulation;
