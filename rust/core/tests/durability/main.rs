//! What a node keeps: files of commits, journals of daemons, what may go, how to come back, and a store on a bad disk.

mod check;
mod daemon;
mod journal;
mod resumption;
mod retention;
mod segment;
mod store;
