//! What a node keeps: files of commits, journals of daemons, what may go, how to come back, and a store on a bad disk.

mod check;
mod continuity;
mod daemon;
mod entity_log;
mod journal;
mod resumption;
mod retention;
mod segment;
mod shelf;
mod store;
