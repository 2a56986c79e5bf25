//! Nodes in one process: their engine, and what each sees of the others.

mod engine;
mod nodes;
mod publish;
mod remote;
