//! What a stranger finds out: a good chain is accepted and described, a changed one refused by name.

#[path = "../support/mod.rs"]
mod support;

mod altered;
mod chain;
mod export;
mod lineage;
mod story;
