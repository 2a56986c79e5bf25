//! What nodes say to each other, and what they make of it.

mod engine;
mod frame;
mod presence;
