"""A break-glass envelope, whole, for who is to sign it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from meshos import _plain
from meshos._cli.output import plain
from meshos._plain import handle, moment
from meshos.operator import (
    FlushAvoidLists,
    ForceCutover,
    ForceEvictReplica,
    ForceRestartDaemon,
    FreezeCluster,
    Global,
    KillMigration,
    Local,
    OnPeer,
    ThawCluster,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import timedelta

    from meshos.operator import BlastRadius, IceAction, IceEnvelope, OperatorId


class Signer(NamedTuple):
    """Who signed, and whether the signature fits."""

    operator_id: OperatorId
    fits: bool


def signers(envelope: IceEnvelope) -> tuple[Signer, ...]:
    """Check every signature; who they are is for a node to say."""
    message = envelope.signing_bytes()
    found = []
    for each in envelope.signatures:
        try:
            VerifyKey(each.public_key).verify(message, each.signature)
            fits = True
        except (CryptoError, ValueError):
            fits = False
        found.append(Signer(each.operator_id, fits))
    return tuple(found)


def target(action: IceAction) -> tuple[str, ...]:
    """Return what has to be typed to sign an action: the name of its target, or one of the ways to write its id."""
    match action:
        case ForceRestartDaemon(daemon) if shown := plain(daemon.name).strip():
            return (shown,)
        case ForceRestartDaemon(daemon):
            number = daemon.id
        case ForceEvictReplica(_, node) | ForceCutover(_, node) | FlushAvoidLists(Local(node) | OnPeer(node)):
            number = node
        case KillMigration(daemon):
            number = daemon
        case _:
            return ("cluster",)
    return str(number), f"{number:#x}", handle(number)


def lines(envelope: IceEnvelope) -> Iterator[str]:
    """Write everything that is signed, and who signed it."""
    yield f"BREAK GLASS {_said(envelope.action)}"
    yield f"reason      {plain(envelope.reason)}"
    yield f"cluster     SHA-256 {envelope.cluster_hash.hex()}"
    yield f"envelope    {envelope.envelope_id.hex()}"
    yield f"issued      {moment(envelope.issued_at)}"
    expired = "  EXPIRED by the clock of this machine" if envelope.not_after < datetime.now(UTC) else ""
    yield f"good until  {moment(envelope.not_after)}{expired}"
    yield f"must sign   {envelope.threshold} or more operators"
    yield from _touched(envelope.blast_radius)
    for signer in signers(envelope):
        yield (
            f"signed by   {handle(signer.operator_id)}"
            if signer.fits
            else (f"NOT SIGNED  by {handle(signer.operator_id)}, whose signature does not fit")
        )


def _touched(blast: BlastRadius) -> Iterator[str]:
    yield f"nodes       {_ids(blast.affected_nodes)}"
    yield f"chains      {_ids(blast.affected_replicas)}"
    named = (f"{handle(daemon.id)} {plain(daemon.name)}".rstrip() for daemon in blast.affected_daemons)
    yield f"daemons     {', '.join(named) or 'none'}"
    if blast.estimated_drain_delay is not None:
        yield f"lasts       {_span(blast.estimated_drain_delay)}"
    yield f"churn       {blast.placement_churn_basis_points / 100:g} % of placements"
    for warning in blast.warnings:
        about = f": {_ids(warning.targets)}" if warning.targets else ""
        yield f"WARNING     {warning.kind.replace('_', ' ')}{about}"


def _said(action: IceAction) -> str:
    match action:
        case FreezeCluster(ttl):
            about = f" for {_span(ttl)}"
        case FlushAvoidLists(Local(node)):
            about = f" of node {handle(node)}"
        case FlushAvoidLists(OnPeer(peer)):
            about = f" of peer {handle(peer)} on every node"
        case FlushAvoidLists(Global()):
            about = ", all of them"
        case ForceEvictReplica(chain, victim):
            about = f" of chain {handle(chain)} from node {handle(victim)}"
        case ForceRestartDaemon(daemon):
            about = f" of daemon {handle(daemon.id)} {plain(daemon.name)}".rstrip()
        case ForceCutover(chain, node):
            about = f" of chain {handle(chain)} to node {handle(node)}"
        case KillMigration(daemon):
            about = f" of daemon {handle(daemon)}"
        case ThawCluster():
            about = ""
    return action.kind.replace("_", " ") + about


def _ids(numbers: Iterable[int]) -> str:
    return ", ".join(map(handle, numbers)) or "none"


def _span(found: timedelta) -> str:
    count = _plain.milliseconds(found) or 0
    return f"{count} ms" if count % 1000 else f"{count // 1000} s"
