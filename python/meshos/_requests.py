"""What a running node answers to a request of its operator socket.

A request grants nothing: a command is obeyed for the signatures in it, by the node's verifier, as any other is.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

from meshos import _plain
from meshos._deck import VALID_FOR, IceCommands
from meshos.daemon import DaemonRef
from meshos.errors import InvalidArgument, MeshOsError
from meshos.operator import AdminEnvelope, ForceRestartDaemon, IceEnvelope

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshos._core import LoopCore
    from meshos._frames import Message
    from meshos.operator import IceAction

VERSION = 1
"""Of the messages; a request says it as `meshos`."""
TIMEOUT_MAX = timedelta(minutes=1)
"""How long a request may wait for a verdict."""
_RECORDS = 256
_RECORDS_BYTES = 4 << 20
"""Where the records of one answer end, so that it fits into a message."""


def answer(core: LoopCore, request: Message) -> Message:
    """Answer a request: `ok` with what was asked for, or the error."""
    try:
        fields = dict(request)
        if fields.pop("meshos", None) != VERSION:
            raise InvalidArgument("meshos", f"must be {VERSION}, the version of the messages")
        ask = fields.pop("ask", None)
        asked = _ASK.get(ask) if isinstance(ask, str) else None
        if asked is None:
            raise InvalidArgument("ask", f"must be one of {', '.join(_ASK)}")
        names, serve = asked
        if unknown := fields.keys() - names:
            raise InvalidArgument("ask", f"has no {min(unknown)[:32]!r}")
        return {"ok": serve(core, fields)}
    except MeshOsError as error:
        return _plain.error(error)
    except Exception as error:  # a bug of ours ends no node
        from meshos._log import callback_failed

        callback_failed("a request of the operator socket failed", error)
        return _plain.error(error)


# ---------------------------------------------------------------- what is read


def _status(core: LoopCore, _: Message) -> object:
    return _plain.status(core.snapshot())


def _policy(core: LoopCore, _: Message) -> object:
    cluster_id, threshold = core.ice_policy()
    return {"cluster_id": cluster_id.hex(), "ice_threshold": threshold}


def _cooldowns(core: LoopCore, _: Message) -> object:
    return {"cooldowns": [_plain.cooldown(each) for each in core.cooldowns()]}


def _audit(core: LoopCore, fields: Message) -> object:
    since = fields.get("since", 0)
    if isinstance(since, bool) or not isinstance(since, int) or not 0 <= since < 1 << 63:
        raise InvalidArgument("since", "must be the number of a record, or 0")
    records: list[object] = []
    size = 0
    for record in core.audits(since, _RECORDS):
        written = _plain.audit(record)
        size += len(json.dumps(written))
        if size > _RECORDS_BYTES:
            break
        records.append(written)
    return {"records": records}


# ---------------------------------------------------------------- what is ordered


def _propose(core: LoopCore, fields: Message) -> object:
    action = _named(core, _plain.action(fields.get("action")))
    valid_for = _plain.span(fields["valid_for_ms"], "valid_for") if "valid_for_ms" in fields else VALID_FOR
    envelope = IceCommands(core).propose(
        action, reason=_plain.text(fields.get("reason"), "reason"), valid_for=valid_for
    )
    return {"envelope": envelope.to_text()}


def _named(core: LoopCore, action: IceAction) -> IceAction:
    """Name the daemon that an action is about, where only its id was given."""
    if isinstance(action, ForceRestartDaemon) and not action.daemon.name:
        known = core.snapshot().daemons.get(action.daemon.id)
        return ForceRestartDaemon(DaemonRef(action.daemon.id, "" if known is None else known.ref.name))
    return action


def _submit(core: LoopCore, fields: Message) -> object:
    timeout = _plain.span(fields.get("timeout_ms"), "timeout")
    if timeout > TIMEOUT_MAX:
        raise InvalidArgument("timeout_ms", f"must be at most {_plain.milliseconds(TIMEOUT_MAX)}")
    text = _plain.text(fields.get("envelope"), "envelope")
    reader = AdminEnvelope if text.lstrip().startswith("-----BEGIN MESHOS ADMIN") else IceEnvelope
    return _plain.receipt(core.commit(reader.from_text(text), timeout))


_ASK: dict[str, tuple[frozenset[str], Callable[[LoopCore, Message], object]]] = {
    "status": (frozenset(), _status),
    "policy": (frozenset(), _policy),
    "cooldowns": (frozenset(), _cooldowns),
    "audit": (frozenset(("since",)), _audit),
    "propose": (frozenset(("action", "reason", "valid_for_ms")), _propose),
    "submit": (frozenset(("envelope", "timeout_ms")), _submit),
}
