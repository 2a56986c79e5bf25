//! Restoring a daemon in standby from its image, and having it take again what came since a copy.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshos_core::checkpoint::Checkpoint;
use meshos_core::codec::DecodeError;
use meshos_core::dead_letter::DeadLetter;
use meshos_core::digest::{self, Digest};
use meshos_core::due::Due;
use meshos_core::host::Host;
use meshos_core::identity::Keypair;
use meshos_core::image::seal::{Agreement, SealedIdentity};
use meshos_core::image::{self, Baggage, Unpacked};
use meshos_core::journal::{Emitted, Mark, SnapshotRow};
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::{Frozen, MoveOrder};
use meshos_core::resumption::{Place, Replay};
use meshos_core::rows::{Table, Write};
use meshos_core::snapshot::SnapshotMeta;
use meshos_core::source::Source;

use super::{Standby, failed, last_number, raised, refused};
use crate::daemon::Daemon;
use crate::inside::{Inside, Outputs, Snapshot};
use crate::letters::Letter;
use crate::outgoing::Sending;
use crate::resumption;
use crate::sync::Mutex;

/// Restores a daemon from the bytes of an image, of this digest, as a store computed it that keeps them. `make` is given its
/// kind and gives an instance without state; user code runs on this thread. Who sent the image is not checked: where it stands is compared with what the source said.
///
/// # Errors
/// [`Reject`]: nothing happened, except that user code may have seen the state.
pub fn restore<D: Daemon>(
    bytes: Arc<Vec<u8>>,
    digest: Digest,
    order: &MoveOrder,
    (node, known): (&Keypair, Option<&Agreement>),
    make: impl FnOnce(&str) -> Result<D, Reject>,
) -> Result<Standby<D>, Reject> {
    let unpacked = D::apart(|| image::decode(&bytes));
    let Unpacked { baggage, meta, state } = unpacked.map_err(failed)?;
    is_of(order, &meta)?;
    let Baggage {
        copy,
        stored,
        identity,
        rows,
    } = baggage;
    if copy.is_some() {
        return Err(failed("it is not whole"));
    }
    let key = opened(identity, order, node, known)?;
    let host = Host::resumed(meta.entity, meta.clone(), stored.config).map_err(failed)?;
    let daemon = make(&meta.kind)?;
    if **daemon.kind() != *meta.kind {
        return Err(refused(
            Reason::NoFactory,
            format_args!("the kind is {}", daemon.kind()),
        ));
    }
    if !daemon.is_stateful() && !state.is_empty() {
        return Err(failed("the class has no state here"));
    }
    let state = D::state_in(&bytes[state]);
    if daemon.is_stateful() {
        daemon
            .restore(&state, meta.schema)
            .map_err(|error| raised::<D>(&error))?;
    }
    let position = host.position();
    let base = SnapshotRow {
        name: digest,
        size: bytes.len() as u64,
        mark: Mark::start(&meta.entity, position.sequence, position.digest),
        processed: position.processed,
        epoch: meta.epoch,
        taken_at: meta.taken_at,
    };
    let frozen = Frozen {
        sequence: position.sequence,
        head: position.digest,
        image: digest,
    };
    let snapshot = Arc::new(Snapshot { meta, state });
    let mut standby = Standby {
        inside: Inside::new(host, Arc::new(daemon), Some(snapshot)),
        key: Arc::new(Mutex::new(key)),
        frozen,
        due: Vec::new(),
        stored,
        rows,
        base,
        mark: base.mark,
    };
    standby.unpack()?;
    let rows = std::mem::take(&mut standby.rows);
    standby.unpack_outputs(&rows, true)?;
    standby.rows = rows;
    Ok(standby)
}

/// Has a daemon that was restored from a copy take again what came since, from the bytes of that image. What it emits is held
/// back, and compared; user code runs on this thread. It then stands where it was frozen.
///
/// # Errors
/// [`Reject`]: user code did something else than the first time, or the image is not one that fits.
pub fn catch_up<D: Daemon>(
    mut standby: Standby<D>,
    bytes: &[u8],
    order: &MoveOrder,
    (node, known): (&Keypair, Option<&Agreement>),
) -> Result<Standby<D>, Reject> {
    let (digest, unpacked) = D::apart(|| (digest::plain(bytes), image::decode(bytes)));
    let Unpacked { baggage, meta, .. } = unpacked.map_err(failed)?;
    is_of(order, &meta)?;
    let Baggage {
        copy,
        stored,
        identity,
        rows,
    } = baggage;
    if copy != Some(standby.base.name) {
        return Err(differs("the copy is another one"));
    }
    let key = opened(identity, order, node, known)?;
    standby.key = Arc::new(Mutex::new(key));
    let (mut since, mut rows): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row| matches!(row.table, Table::Journal | Table::Outputs));
    standby.stored = stored;
    std::mem::swap(&mut standby.rows, &mut rows);
    standby.unpack()?;
    standby.take_again(&since)?;
    let inside = &mut standby.inside;
    let host = inside.host.clone().caught_up(meta).map_err(differs)?;
    inside.host = host.with_config(standby.stored.config);
    let position = inside.host.position();
    standby.frozen = Frozen {
        sequence: position.sequence,
        head: position.digest,
        image: digest,
    };
    standby.unpack_outputs(&since, false)?;
    // Of the copy the outputs count, of what came since everything.
    rows.retain(|row| row.table == Table::Outputs);
    standby.rows.append(&mut rows);
    standby.rows.append(&mut since);
    Ok(standby)
}

fn is_of(order: &MoveOrder, meta: &SnapshotMeta) -> Result<(), Reject> {
    if meta.entity != order.entity || meta.kind != order.kind || meta.epoch > order.epoch {
        return Err(failed("it is not the daemon of the order"));
    }
    Ok(())
}

/// The key that came with a daemon; public only if none did.
fn opened(
    identity: Option<SealedIdentity>,
    order: &MoveOrder,
    node: &Keypair,
    known: Option<&Agreement>,
) -> Result<Keypair, Reject> {
    let Some(sealed) = identity else {
        return Ok(Keypair::public_only(order.entity));
    };
    let opened = sealed.open(order, node, known);
    opened.map_err(|error| refused(Reason::IdentityTransportFailed, error))
}

fn differs(why: impl std::fmt::Display) -> Reject {
    failed(format_args!("the replay differs: {why}"))
}

fn bad(table: Table) -> impl Fn(DecodeError) -> Reject {
    move |error| failed(format_args!("{table:?}: {error}"))
}

impl<D: Daemon> Standby<D> {
    /// Has user code take steps again.
    fn take_again(&mut self, rows: &[Write]) -> Result<(), Reject> {
        let inside = &mut self.inside;
        let mut replay = Replay::after(inside.host.entity(), self.mark, inside.host.epoch());
        for row in rows.iter().filter(|row| row.table == Table::Journal) {
            let value = row.value.as_deref().unwrap_or_default();
            let steps = replay.row(last_number(&row.key), value).map_err(differs)?;
            for (place, step) in Place::all(&steps).zip(&steps.steps) {
                let taken = resumption::take_again(inside, &mut replay, place, step, None, &mut None);
                taken.map_err(|why| differs(why.reason()))?;
            }
        }
        self.mark = *replay.mark();
        Ok(())
    }

    /// Puts into memory what the rows say, except outputs.
    fn unpack(&mut self) -> Result<(), Reject> {
        let rows = std::mem::take(&mut self.rows);
        let (mut sources, mut checkpoints) = (BTreeMap::new(), Vec::new());
        let of = |table: Table| {
            let of_it = rows.iter().filter(move |row| row.table == table);
            of_it.filter_map(|row| Some((last_number(&row.key), row.value.as_deref()?)))
        };
        for (stream, value) in of(Table::Streams) {
            let source = Source::decode(value).map_err(bad(Table::Streams))?;
            if source.stream() != stream {
                return Err(failed("a source is another one"));
            }
            sources.insert(stream, Arc::new(source));
        }
        self.inside.sources = Some(sources).filter(|sources| !sources.is_empty());
        for (sequence, value) in of(Table::Checkpoints) {
            let made = Checkpoint::decode(value).map_err(bad(Table::Checkpoints))?;
            if (made.entity, made.sequence) != (self.inside.host.entity(), sequence) {
                return Err(failed("a checkpoint is another one"));
            }
            checkpoints.push(made);
        }
        self.inside.checkpoints = Checkpoint::in_order(checkpoints);
        self.inside.letters = None;
        self.due.clear();
        for (number, value) in of(Table::DeadLetters) {
            let row = DeadLetter::decode(value).map_err(bad(Table::DeadLetters))?;
            let letter = Letter::read(&row, self.inside.source(row.stream));
            self.inside.letters.get_or_insert_default().put(number, letter);
        }
        let has_row = self.keeps_steps();
        for (sequence, value) in of(Table::Outbox) {
            let Due { to, stream, payload } = Due::decode(value).map_err(bad(Table::Outbox))?;
            self.due.push(Sending {
                sequence,
                to,
                stream,
                payload,
                has_row,
            });
        }
        self.rows = rows;
        Ok(())
    }

    /// Reads outputs, which have to be the end of the chain, and has them ready for export if that is wanted.
    fn unpack_outputs(&mut self, rows: &[Write], is_kept: bool) -> Result<(), Reject> {
        let (origin, config) = (self.inside.host.origin(), self.stored.config);
        let received_ns = self.base.taken_at.get().saturating_mul(1_000_000);
        let mut end = None;
        for row in rows.iter().filter(|row| row.table == Table::Outputs) {
            let (first, value) = (last_number(&row.key), row.value.as_deref().unwrap_or_default());
            let row = Emitted::decode(origin, value).map_err(bad(Table::Outputs))?;
            let starts = row.outputs.first().map(|(link, _)| link.sequence) == Some(first);
            if !starts || end.is_some_and(|end| end != (first - 1, row.before)) {
                return Err(failed("the outputs are not one chain"));
            }
            if is_kept && end.is_none() {
                self.inside.outputs = Outputs::after(first - 1, row.before);
            }
            let mut digest = row.before;
            for (link, payload) in &row.outputs {
                digest = digest::event(&digest, &link.to_bytes(), payload);
                if is_kept {
                    let event = D::received(*link, payload, received_ns);
                    self.inside.outputs.push(event, digest, &config);
                }
                end = Some((link.sequence, digest));
            }
        }
        if end.is_some_and(|end| end != (self.frozen.sequence, self.frozen.head)) {
            return Err(failed("the outputs do not end where the chain ends"));
        }
        Ok(())
    }
}
