//! Ownership: records and messages, the machines of owners and of the directory, and all of it on a network that goes wrong.

#[path = "../support/mod.rs"]
mod support;

mod directory;
mod frames;
mod owner;
mod records;
mod simulation;
