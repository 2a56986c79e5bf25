//! Linked streams: frames, the machines on both ends, and all of it together on a network that goes wrong.

#[path = "../support/mod.rs"]
mod support;

mod consumer;
mod feed;
mod frames;
mod network;
mod outbox;
mod simulation;
