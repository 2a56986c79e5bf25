//! Whether a daemon may continue after a snapshot, and in which epoch.

use std::sync::Arc;

use meshos_core::config::DaemonHostConfig;
use meshos_core::host::{Host, Position, ResumeError};
use meshos_core::snapshot::SnapshotMeta;

use crate::daemon::Daemon;
use crate::inside::Snapshot;
use crate::runtime::SpawnError;

/// Checks that a daemon can take the state of a snapshot.
///
/// # Errors
/// [`SpawnError::WrongKind`] or [`SpawnError::Stateless`].
pub fn check_state<D: Daemon>(snapshot: &Snapshot<D>, daemon: &D) -> Result<(), SpawnError<D>> {
    let bytes = snapshot.state.as_ref().len();
    if snapshot.meta.kind != **daemon.kind() {
        return Err(SpawnError::WrongKind {
            snapshot: snapshot.meta.kind.clone(),
            daemon: Arc::clone(daemon.kind()),
        });
    }
    if !daemon.is_stateful() && bytes > 0 {
        return Err(SpawnError::Stateless { bytes });
    }
    Ok(())
}

/// Makes the host that continues after a snapshot, and says whether it continues the very span that is known.
pub(crate) fn after(
    meta: &SnapshotMeta,
    known: Option<(Position, u64)>,
    config: DaemonHostConfig,
    rewind: bool,
) -> Result<(Host, bool), ResumeError> {
    let offered = Position::of(meta);
    let host = Host::resumed(meta.entity, meta.clone(), config)?;
    let Some((known, epoch)) = known else {
        // Nobody here can tell whether more was emitted after the snapshot: what was, is declared rolled back.
        let next = host.epoch() + 1;
        return Ok((host.rewound(next), false));
    };
    match offered.reaches(&known) {
        Ok(()) if offered == known && epoch == meta.epoch => Ok((host, true)),
        Err(ResumeError::StaleOutputs { .. } | ResumeError::StaleInputs { .. }) if !rewind => {
            Err(offered.reaches(&known).expect_err("just compared"))
        }
        Err(error @ (ResumeError::Identity { .. } | ResumeError::WrongChain { .. })) => Err(error),
        Ok(()) | Err(ResumeError::StaleOutputs { .. } | ResumeError::StaleInputs { .. }) => {
            let next = epoch.max(host.epoch()) + 1;
            Ok((host.rewound(next), false))
        }
    }
}
