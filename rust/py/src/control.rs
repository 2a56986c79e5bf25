//! What a node tells its daemons: shut down, drain, slow down, resume.

use std::time::Duration;

use meshos_core::control::{DaemonControl, grace_ms};
use meshos_core::time::UnixMs;
use pyo3::prelude::*;

use crate::args;
use crate::record::field::Share;
use crate::record::moment::Moment;
use crate::record::record;

record! {
    /// Finish in-flight work and leave within `grace`; after `deadline` the daemon is stopped.
    pub struct PyShutdown in "meshos.control" as "Shutdown", kind "shutdown" {
        /// Time left when the call was made.
        grace: Duration,
        /// By the node's wall clock.
        deadline: Moment,
    }
}

record! {
    /// Take no new work on; what is in flight may go on for `grace`.
    pub struct PyDrainStart in "meshos.control" as "DrainStart", kind "drain_start" {
        /// Time left when the call was made.
        grace: Duration,
        /// By the node's wall clock.
        deadline: Moment,
    }
}

record! {
    /// Leave now; abandoning work is allowed.
    pub struct PyDrainFinish in "meshos.control" as "DrainFinish", kind "drain_finish" {}
}

record! {
    /// The drain was called off, or the node is back in service.
    pub struct PyResume in "meshos.control" as "Resume", kind "resume" {}
}

record! {
    /// Shrink optional work in proportion to `level`, 0 to 1.
    pub struct PyBackpressureOn in "meshos.control" as "BackpressureOn", kind "backpressure_on" {
        /// 0 (none) to 1 (stop all optional work).
        level: Share,
    }
}

record! {
    /// Go on as usual.
    pub struct PyBackpressureOff in "meshos.control" as "BackpressureOff", kind "backpressure_off" {}
}

/// Makes the Python object of a control, for a call that is made `now`.
pub fn control<'py>(py: Python<'py>, control: DaemonControl, now: UnixMs) -> PyResult<Bound<'py, PyAny>> {
    let grace = |deadline| Duration::from_millis(grace_ms(deadline, now));
    Ok(match control {
        DaemonControl::Shutdown { deadline } => Bound::new(
            py,
            PyShutdown {
                grace: grace(deadline),
                deadline: Moment::of(deadline),
            },
        )?
        .into_any(),
        DaemonControl::DrainStart { deadline } => Bound::new(
            py,
            PyDrainStart {
                grace: grace(deadline),
                deadline: Moment::of(deadline),
            },
        )?
        .into_any(),
        DaemonControl::DrainFinish => Bound::new(py, PyDrainFinish {})?.into_any(),
        DaemonControl::Resume => Bound::new(py, PyResume {})?.into_any(),
        DaemonControl::BackpressureOn { level } => Bound::new(py, PyBackpressureOn { level: Share(level) })?.into_any(),
        DaemonControl::BackpressureOff => Bound::new(py, PyBackpressureOff {})?.into_any(),
    })
}

/// Reads a control. Its deadline counts, not its grace, which was the time left at some moment.
pub fn extract_control(object: &Bound<'_, PyAny>) -> PyResult<DaemonControl> {
    if let Ok(shutdown) = object.cast::<PyShutdown>() {
        Ok(DaemonControl::Shutdown {
            deadline: shutdown.get().deadline.unix_ms(),
        })
    } else if let Ok(drain) = object.cast::<PyDrainStart>() {
        Ok(DaemonControl::DrainStart {
            deadline: drain.get().deadline.unix_ms(),
        })
    } else if object.is_instance_of::<PyDrainFinish>() {
        Ok(DaemonControl::DrainFinish)
    } else if object.is_instance_of::<PyResume>() {
        Ok(DaemonControl::Resume)
    } else if let Ok(on) = object.cast::<PyBackpressureOn>() {
        Ok(DaemonControl::BackpressureOn {
            level: on.get().level.0,
        })
    } else if object.is_instance_of::<PyBackpressureOff>() {
        Ok(DaemonControl::BackpressureOff)
    } else {
        Err(args::wrong_type("control", "a DaemonControl", object))
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyShutdown>()?;
    module.add_class::<PyDrainStart>()?;
    module.add_class::<PyDrainFinish>()?;
    module.add_class::<PyResume>()?;
    module.add_class::<PyBackpressureOn>()?;
    module.add_class::<PyBackpressureOff>()
}
