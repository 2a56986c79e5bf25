//! What is published to a behaviour loop.
//!
//! A published object is read in two steps: its class is looked up in a table, once, and the entry there reads it.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::command::{AdminEvent, ChainId};
use meshos_core::envelope::{AdminEnvelope, IceEnvelope};
use meshos_core::id::{NodeId, Origin};
use meshos_core::peer::NodeHealth;
use meshos_core::signal::{DaemonIntent, DaemonRef, LocalReplicaIntent, LogLevel, MeshOsEvent, ReplicaChange};
use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::sync::PyOnceLock;

use crate::args;
use crate::command::PyAdminEvent;
use crate::maintenance_state::PyMaintenanceState;
use crate::operator::envelope::{PyAdminEnvelope, PyIceEnvelope};
use crate::record::record;
use crate::record::word::word;
use crate::signal::DaemonSignal;

word! {
    DaemonIntent as "DaemonIntent" in "meshos.events" { Run = "run", Stop = "stop", }
}
word! {
    LocalReplicaIntent as "LocalReplicaIntent" in "meshos.events" { Hold = "hold", Drop = "drop", }
}
word! {
    ReplicaChange as "ReplicaChange" in "meshos.events" {
        Added = "added",
        Repaired = "repaired",
        Removed = "removed",
        Lost = "lost",
    }
}
word! {
    LogLevel as "LogLevel" in "meshos.events" {
        Trace = "trace",
        Debug = "debug",
        Info = "info",
        Warn = "warn",
        Error = "error",
    }
}

record! {
    /// A signal about a daemon; those of a `DaemonRegistry` are published by the runtime itself.
    pub struct PyDaemonLifecycle in "meshos.events" as "DaemonLifecycle", kind "daemon_lifecycle" {
        /// Which daemon.
        daemon: DaemonRef,
        /// What happened.
        signal: DaemonSignal,
    }
}

record! {
    /// What is wanted of a daemon from now on; `node` pins it there, `None` unpins it.
    pub struct PyDaemonIntentUpdate in "meshos.events" as "DaemonIntentUpdate", kind "daemon_intent_update",
    signature "(daemon, intent, node=None)" {
        /// Which daemon.
        daemon: DaemonRef,
        /// What is wanted.
        intent: DaemonIntent,
        /// Where it shall run; `None`: no matter where.
        node: Option<NodeId> = None,
    }
}

record! {
    /// Nothing is wanted of the daemon any more, and what was known of it is dropped.
    pub struct PyForgetDaemon in "meshos.events" as "ForgetDaemon", kind "forget_daemon" {
        /// Which daemon.
        daemon: Origin,
    }
}

record! {
    /// Nothing is wanted of the chain any more, and what was known of it is dropped.
    pub struct PyForgetChain in "meshos.events" as "ForgetChain", kind "forget_chain" {
        /// Which chain.
        chain: ChainId,
    }
}

record! {
    /// A copy of a chain came or went.
    pub struct PyReplicaUpdate in "meshos.events" as "ReplicaUpdate", kind "replica_update" {
        /// Which chain.
        chain: ChainId,
        /// Where the copy is.
        holder: NodeId,
        /// What happened to it.
        change: ReplicaChange,
    }
}

record! {
    /// A chain has another leader, or none; a lower `term` than the known one is ignored.
    pub struct PyReplicaLeaderUpdate in "meshos.events" as "ReplicaLeaderUpdate", kind "replica_leader_update",
    signature "(chain, leader, term=0)" {
        /// Which chain.
        chain: ChainId,
        /// Who leads.
        leader: Option<NodeId>,
        /// Term of the election.
        term: u64 = 0,
    }
}

record! {
    /// A node holds a chain and leads it, at once.
    pub struct PyReplicaBecameHolderAndLeader in "meshos.events" as "ReplicaBecameHolderAndLeader",
    kind "replica_became_holder_and_leader", signature "(chain, holder, term=0)" {
        /// Which chain.
        chain: ChainId,
        /// Which node.
        holder: NodeId,
        /// Term of the election.
        term: u64 = 0,
    }
}

record! {
    /// A node neither leads nor holds a chain any more, at once.
    pub struct PyReplicaLeaderLostAndRemoved in "meshos.events" as "ReplicaLeaderLostAndRemoved",
    kind "replica_leader_lost_and_removed" {
        /// Which chain.
        chain: ChainId,
        /// Which node.
        holder: NodeId,
    }
}

record! {
    /// How many copies of a chain are wanted in the cluster.
    pub struct PyPlacementIntent in "meshos.events" as "PlacementIntent", kind "placement_intent" {
        /// Which chain.
        chain: ChainId,
        /// How many copies.
        desired_replicas: u32,
    }
}

record! {
    /// Whether this node is to hold a copy of a chain.
    pub struct PyLocalReplicaIntentUpdate in "meshos.events" as "LocalReplicaIntentUpdate",
    kind "local_replica_intent_update" {
        /// Which chain.
        chain: ChainId,
        /// What is wanted.
        intent: LocalReplicaIntent,
    }
}

record! {
    /// A measured round trip.
    pub struct PyRttSample in "meshos.events" as "RttSample", kind "rtt_sample" {
        /// To which node.
        peer: NodeId,
        /// How long it took.
        rtt: Duration,
    }
}

record! {
    /// Another node's health.
    pub struct PyNodeHealthUpdate in "meshos.events" as "NodeHealthUpdate", kind "node_health_update" {
        /// Which node.
        peer: NodeId,
        /// How it looks.
        health: NodeHealth,
    }
}

record! {
    /// A committed maintenance transition, as the dispatcher saw it.
    pub struct PyMaintenanceTransitionObserved in "meshos.events" as "MaintenanceTransitionObserved",
    kind "maintenance_transition_observed" {
        /// Which node.
        node: NodeId,
        /// The state that it is in now.
        state: PyMaintenanceState,
    }
}

record! {
    /// One line for the log ring; never folded.
    pub struct PyLogLine in "meshos.events" as "LogLine", kind "log_line", signature "(level, message, daemon=None)" {
        /// How severe.
        level: LogLevel,
        /// The line.
        message: Arc<str>,
        /// Which daemon says so; `None`: the node.
        daemon: Option<Origin> = None,
    }
}

record! {
    /// An ordinary command without signature; refused unless `authority="open"`.
    pub struct PyUnsignedAdminEvent in "meshos.events" as "UnsignedAdminEvent", kind "unsigned_admin_event" {
        /// What is ordered.
        event: PyAdminEvent,
    }
}

record! {
    /// An ordinary command with its operator's signature.
    pub struct PySignedAdminCommit in "meshos.events" as "SignedAdminCommit", kind "signed_admin_commit" {
        /// The command.
        envelope: PyAdminEnvelope,
    }
}

record! {
    /// A break-glass action with its operators' signatures.
    pub struct PySignedIceCommit in "meshos.events" as "SignedIceCommit", kind "signed_ice_commit" {
        /// The action.
        envelope: PyIceEnvelope,
    }
}

/// What was published.
#[derive(Debug, Clone)]
pub enum Published {
    /// An event to fold.
    Event(MeshOsEvent),
    /// A line of the log.
    Log {
        /// How severe.
        level: LogLevel,
        /// The line.
        message: Arc<str>,
        /// Which daemon says so.
        daemon: Option<Origin>,
    },
    /// A command without a signature.
    Admin(AdminEvent),
    /// A command in its envelope.
    SignedAdmin(Arc<AdminEnvelope>),
    /// A break-glass action in its envelope.
    SignedIce(Arc<IceEnvelope>),
}

impl From<MeshOsEvent> for Published {
    fn from(event: MeshOsEvent) -> Self {
        Self::Event(event)
    }
}

/// A record that may be published.
trait Publish: PyClass<Frozen = True> + Sync {
    fn published(&self) -> Published;
}

/// Says how each record is read.
macro_rules! publish {
    ($($class:ty: |$record:ident| $published:expr,)*) => {
        $(impl Publish for $class {
            fn published(&self) -> Published {
                let $record = self;
                $published.into()
            }
        })*

        fn table(py: Python<'_>) -> &'static [Entry] {
            static TABLE: PyOnceLock<Vec<Entry>> = PyOnceLock::new();
            TABLE.get_or_init(py, || {
                let mut entries = vec![$(entry::<$class>(py)),*];
                entries.sort_unstable_by_key(|(class, _)| *class);
                entries
            })
        }

        /// Adds the classes to the module.
        pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
            $(module.add_class::<$class>()?;)*
            Ok(())
        }
    };
}

publish! {
    PyDaemonLifecycle: |event| {
        let (signal, at) = event.signal.core();
        MeshOsEvent::DaemonLifecycle { daemon: event.daemon.clone(), signal, at }
    },
    PyDaemonIntentUpdate: |event| MeshOsEvent::DaemonIntentUpdate {
        daemon: event.daemon.clone(),
        intent: event.intent,
        node: event.node,
    },
    PyForgetDaemon: |event| MeshOsEvent::ForgetDaemon { daemon: event.daemon },
    PyForgetChain: |event| MeshOsEvent::ForgetChain { chain: event.chain },
    PyReplicaUpdate: |event| MeshOsEvent::ReplicaUpdate {
        chain: event.chain,
        holder: event.holder,
        change: event.change,
    },
    PyReplicaLeaderUpdate: |event| MeshOsEvent::ReplicaLeaderUpdate {
        chain: event.chain,
        leader: event.leader,
        term: event.term,
    },
    PyReplicaBecameHolderAndLeader: |event| MeshOsEvent::ReplicaBecameHolderAndLeader {
        chain: event.chain,
        holder: event.holder,
        term: event.term,
    },
    PyReplicaLeaderLostAndRemoved: |event| MeshOsEvent::ReplicaLeaderLostAndRemoved {
        chain: event.chain,
        holder: event.holder,
    },
    PyPlacementIntent: |event| MeshOsEvent::PlacementIntent {
        chain: event.chain,
        desired_replicas: event.desired_replicas,
    },
    PyLocalReplicaIntentUpdate: |event| MeshOsEvent::LocalReplicaIntentUpdate {
        chain: event.chain,
        intent: event.intent,
    },
    PyRttSample: |event| MeshOsEvent::RttSample { peer: event.peer, rtt: event.rtt },
    PyNodeHealthUpdate: |event| MeshOsEvent::NodeHealthUpdate { peer: event.peer, health: event.health },
    PyMaintenanceTransitionObserved: |event| MeshOsEvent::MaintenanceTransitionObserved {
        node: event.node,
        state: event.state.core(),
    },
    PyLogLine: |line| Published::Log {
        level: line.level,
        message: Arc::clone(&line.message),
        daemon: line.daemon,
    },
    PyUnsignedAdminEvent: |unsigned| Published::Admin(unsigned.event.core()),
    PySignedAdminCommit: |commit| Published::SignedAdmin(Arc::clone(&commit.envelope.0)),
    PySignedIceCommit: |commit| Published::SignedIce(Arc::clone(&commit.envelope.0)),
}

/// The address of a class, and how its instances are read.
type Entry = (usize, fn(&Bound<'_, PyAny>) -> PyResult<Published>);

fn entry<R: Publish>(py: Python<'_>) -> Entry {
    let read = |object: &Bound<'_, PyAny>| Ok(object.cast_exact::<R>()?.get().published());
    (R::type_object_raw(py) as usize, read)
}

/// Reads what is published.
pub fn extract_event(object: &Bound<'_, PyAny>) -> PyResult<Published> {
    let table = table(object.py());
    let class = object.get_type_ptr() as usize;
    match table.binary_search_by_key(&class, |(class, _)| *class) {
        Ok(found) => (table[found].1)(object),
        Err(_) => Err(args::wrong_type("event", "a MeshOsEvent", object)),
    }
}
