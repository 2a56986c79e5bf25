//! `meshos._core`: converts, calls, converts back. No decision lives here.

#![deny(unsafe_code)]

use pyo3::prelude::*;

mod action;
mod aio;
mod appender;
mod args;
mod away;
mod bindings;
mod call;
mod callback;
mod capability;
mod causal;
mod certificate;
mod chain;
mod channels;
mod checkpoint;
mod command;
mod config;
mod continuity;
mod contract;
mod control;
mod daemon;
mod dead_letter;
mod deck;
mod dispatch;
mod enter;
mod entity_log;
mod errors;
mod event;
mod factory;
mod fork;
mod guard;
mod handle;
mod horizon;
mod host;
mod identity;
mod identity_envelope;
mod link;
mod loop_config;
mod loop_core;
mod maintenance_state;
mod mesh;
mod mesh_event;
mod migration;
mod move_chunks;
mod move_frame;
mod move_handlers;
mod moves;
mod name;
mod operator;
mod output;
mod ownership;
mod peer;
mod probes;
mod receipt;
mod record;
mod recover;
mod recovery;
mod remote;
mod registry;
mod replay;
mod reply;
mod runtime;
mod scorer;
mod send;
mod signal;
mod simulation;
mod snapshot;
mod spawn;
mod stats;
mod status;
mod store;
mod stream;
mod subscribe;
mod threads;
mod token;
mod trail;
mod user;
mod verify;

/// The compiled module. Not tried without the interpreter lock yet, so a free-threaded interpreter turns the lock on.
#[pymodule(gil_used = true)]
mod _core {
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        for register in [
            identity::register,
            name::register,
            capability::register,
            link::register,
            causal::register,
            certificate::register,
            checkpoint::register,
            chain::register,
            fork::register,
            horizon::register,
            receipt::register,
            bindings::register,
            stats::register,
            snapshot::register,
            verify::register,
            event::register,
            signal::register,
            simulation::register,
            command::register,
            operator::register,
            maintenance_state::register,
            peer::register,
            mesh_event::register,
            action::register,
            migration::register,
            status::register,
            control::register,
            config::register,
            loop_config::register,
            probes::register,
            recovery::register,
            scorer::register,
            output::register,
            threads::register,
            token::register,
            store::register,
            continuity::register,
            entity_log::register,
            dead_letter::register,
            channels::register,
            mesh::register,
            ownership::register,
            move_chunks::register,
            move_frame::register,
            move_handlers::register,
            identity_envelope::register,
            moves::register,
            factory::register,
            host::register,
            registry::register,
            handle::register,
            runtime::register,
            remote::register,
            stream::register,
            deck::register,
            trail::register,
            replay::register,
            loop_core::register,
        ] {
            register(module)?;
        }
        // What is public is said by the modules that re-export it.
        module.delattr("__all__")?;
        forget_in_children(module)
    }

    /// Tells the guard of every fork, so that objects of the parent refuse to work in the child.
    fn forget_in_children(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let os = module.py().import("os")?;
        let Ok(register) = os.getattr("register_at_fork") else {
            return Ok(());
        };
        let options = pyo3::types::PyDict::new(module.py());
        options.set_item("after_in_child", module.getattr("_forked")?)?;
        register.call((), Some(&options)).map(|_| ())
    }
}
