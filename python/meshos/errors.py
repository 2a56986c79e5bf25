"""Every error meshos raises: one tree under `MeshOsError`.

A class that groups others, or that names a mistake in the calling code, ends in `Error`; a condition that a program
handles is named for what happened. `kind` is stable, snake_case, and never parsed out of text: the text of an error is
for people. A wrong argument is an `InvalidArgument`, which is a `ValueError`; an argument of the wrong type is a plain
`TypeError`. Values are attributes, `args` are the constructor's arguments, an exception of user code is `__cause__`.
"""

# ruff: noqa: D102  `kind` and `retryable` say the same of every class, and say it at the root.

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from meshos.chain import CausalEvent
    from meshos.channel import ChannelName
    from meshos.identity import EntityId, NodeId, OriginHash
    from meshos.migration import MigrationFailureReason, MigrationPhase
    from meshos.operator import OperatorId, Role

__all__ = [
    "AlreadyRegistered",
    "AlreadyStored",
    "AppendFailed",
    "AuditRequired",
    "Backpressure",
    "BadSignature",
    "BrokenLink",
    "BrokenLinkKind",
    "BundleTooLarge",
    "CallbackFailed",
    "CallbackFailedKind",
    "ChainContradiction",
    "ChainContradictionKind",
    "ChainError",
    "ChannelNameError",
    "ChannelNameErrorKind",
    "ConfigError",
    "CooldownActive",
    "DaemonCallback",
    "DaemonError",
    "DaemonNotFound",
    "DeliveryUnknown",
    "DivergenceError",
    "EnvelopeDecodeError",
    "EnvelopeExpired",
    "EnvelopeFromFuture",
    "FactoryAlreadyRegistered",
    "FactoryNotFound",
    "FileDecodeError",
    "ForkedProcessError",
    "FreezeInEffect",
    "IceRequiresBundle",
    "IdentityError",
    "IdentityErrorKind",
    "InsufficientSignatures",
    "InvalidArgument",
    "InvalidDaemon",
    "InvalidDaemonKind",
    "InvalidSpan",
    "InvariantViolation",
    "KeyFileError",
    "KeyFileErrorKind",
    "LoopClosed",
    "MeshOsError",
    "Migrating",
    "MigrationError",
    "MigrationErrorKind",
    "NoVerifier",
    "NotAuthorized",
    "NotOwner",
    "NotReady",
    "OperatorSocketError",
    "OperatorSocketErrorKind",
    "Overloaded",
    "PoisonedError",
    "PreviewStale",
    "ProcessFailed",
    "ProcessFailedKind",
    "PruneRefused",
    "PruneRefusedKind",
    "PublishRejected",
    "PublishRejectedKind",
    "QueueFull",
    "ReentrantCallError",
    "RemoteRefused",
    "RemoteRefusedKind",
    "Replayed",
    "RestoreFailed",
    "RestoreFailedKind",
    "RoleDenied",
    "RuntimeShutdownError",
    "RuntimeShutdownErrorKind",
    "SendTimeout",
    "ShuttingDown",
    "SignatureInvalid",
    "SimulationRequired",
    "SnapshotDecodeError",
    "SnapshotDecodeKind",
    "SnapshotFailed",
    "SnapshotFailedKind",
    "SnapshotIdentityMismatch",
    "StaleDaemon",
    "StaleSnapshot",
    "StoreError",
    "StoreErrorKind",
    "SubscribeRejected",
    "SubscribeRejectedKind",
    "TokenError",
    "TokenErrorKind",
    "Unavailable",
    "UnsignedRejected",
    "VerifyError",
    "WaitTimeout",
    "WrongCluster",
]


class MeshOsError(Exception):
    """Root of every error meshos raises, for `except` clauses; never raised itself."""

    def __init__(self, *args: object, text: str | None = None) -> None:
        # Past the rest of the line on purpose: where `OSError` is in it (`TimeoutError`), its constructor would take
        # the arguments for an errno and a message.
        Exception.__init__(self, *args)
        self._text: str | None = text

    @property
    def kind(self) -> str:
        """Stable name of what went wrong."""
        return "other"

    @property
    def retryable(self) -> bool:
        """Whether the very same call may succeed later."""
        return False

    def __str__(self) -> str:
        return Exception.__str__(self) if self._text is None else self._text

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind!r}: {self}>"


# ---------------------------------------------------------------- use of the library


class ConfigError(MeshOsError, ValueError):
    """An option is out of range, or contradicts another; give another value.

    Attributes:
        field: Name of the option.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message, text=f"{field}: {message}")
        self.field: str = field

    @property
    def kind(self) -> Literal["invalid_config"]:
        return "invalid_config"


class InvalidArgument(MeshOsError, ValueError):
    """An argument is out of range; nothing was done.

    Attributes:
        argument: Name of the argument.
    """

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(argument, message, text=f"{argument}: {message}")
        self.argument: str = argument

    @property
    def kind(self) -> Literal["invalid_argument"]:
        return "invalid_argument"


class ReentrantCallError(MeshOsError, RuntimeError):
    """The call would wait for the callback or the event loop it is made from; nothing was done.

    On an event loop await the `_async` twin. From inside a callback return, and call from outside.

    Attributes:
        call: Name of the call.
    """

    def __init__(self, call: str) -> None:
        super().__init__(call, text=f"{call} would wait for the callback or the event loop that it is called from")
        self.call: str = call

    @property
    def kind(self) -> Literal["reentrant_call"]:
        return "reentrant_call"


class ForkedProcessError(MeshOsError, RuntimeError):
    """The object was made before `fork()` and is used in the child; make a new one there.

    Attributes:
        what: The object.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what, text=f"{what} was made before fork() and does not work in the child")
        self.what: str = what

    @property
    def kind(self) -> Literal["forked_process"]:
        return "forked_process"


class PoisonedError(MeshOsError, RuntimeError):
    """A bug in meshos was caught at its border, or stopped a thread; please report it.

    What the call was about may be half done: make the object anew.

    Attributes:
        where: Where it was caught.
    """

    def __init__(self, where: str, message: str) -> None:
        super().__init__(where, message, text=f"bug in meshos, caught in {where}: {message}")
        self.where: str = where

    @property
    def kind(self) -> Literal["poisoned"]:
        return "poisoned"


# ---------------------------------------------------------------- waiting and load


class LoopClosed(MeshOsError):
    """What the object belongs to was closed or shut down, before or during the call; make a new one.

    Attributes:
        what: What is closed.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what, text=f"{what} is closed")
        self.what: str = what

    @property
    def kind(self) -> Literal["closed"]:
        return "closed"


class WaitTimeout(MeshOsError, TimeoutError):
    """What was waited for did not happen in time. It may still happen: wait again. Retryable.

    Attributes:
        waited_for: What was waited for, as a noun.
        timeout: How long.
    """

    def __init__(self, waited_for: str, timeout: timedelta) -> None:
        super().__init__(waited_for, timeout, text=f"waited {_seconds(timeout)} for {waited_for}")
        self.waited_for: str = waited_for
        self.timeout: timedelta = timeout

    @property
    def kind(self) -> Literal["timeout"]:
        return "timeout"

    @property
    def retryable(self) -> Literal[True]:
        return True


class QueueFull(MeshOsError):
    """A bounded queue of this process refused the item, and nothing was queued: offer it again later. Retryable.

    Attributes:
        queue: Which queue, as a noun.
        capacity: How much it holds.
    """

    def __init__(self, queue: str, capacity: int) -> None:
        super().__init__(queue, capacity, text=f"{queue} is full: it holds {capacity}")
        self.queue: str = queue
        self.capacity: int = capacity

    @property
    def kind(self) -> Literal["queue_full"]:
        return "queue_full"

    @property
    def retryable(self) -> Literal[True]:
        return True


class Backpressure(MeshOsError):
    """The receiver asks for a pause, and nothing was accepted: call again after `retry_after`. Retryable.

    Attributes:
        retry_after: How long to wait first.
    """

    def __init__(self, retry_after: timedelta) -> None:
        super().__init__(retry_after, text=f"too much is waiting, nothing was taken; retry in {_seconds(retry_after)}")
        self.retry_after: timedelta = retry_after

    @property
    def kind(self) -> Literal["backpressure"]:
        return "backpressure"

    @property
    def retryable(self) -> Literal[True]:
        return True


# An alias of kinds is a union of one `Literal` each: of a `Literal` with several values `stubtest` says it is no union.
RuntimeShutdownErrorKind: TypeAlias = (
    Literal["loop_timeout"] | Literal["loop_failed"] | Literal["executor_timeout"] | Literal["appender_timeout"]
)


class Unavailable(MeshOsError):
    """A node, or the owner of an identity, could not be reached in time. Retryable.

    Attributes:
        target: The node, or the daemon whose owner is not known.
    """

    def __init__(self, target: int, message: str) -> None:
        super().__init__(target, message, text=message)
        self.target: int = target

    @property
    def kind(self) -> Literal["unavailable"]:
        return "unavailable"

    @property
    def retryable(self) -> Literal[True]:
        return True


class RuntimeShutdownError(MeshOsError):
    """The loop, a dispatch or an appender did not end within the deadline, or the loop failed; nothing goes on."""

    def __init__(self, kind: RuntimeShutdownErrorKind, message: str) -> None:
        super().__init__(kind, message, text=message)
        self._kind: RuntimeShutdownErrorKind = kind

    @property
    def kind(self) -> RuntimeShutdownErrorKind:
        return self._kind


# ---------------------------------------------------------------- daemons


class DaemonError(MeshOsError):
    """Something about one daemon, or about the runtime that keeps it; groups what follows."""


InvalidDaemonKind: TypeAlias = (
    Literal["not_a_mesh_daemon"]
    | Literal["snapshot_without_restore"]
    | Literal["restore_without_snapshot"]
    | Literal["bad_signature"]
    | Literal["bad_name"]
    | Literal["factory_failed"]
)


class InvalidDaemon(DaemonError, TypeError):
    """A daemon class or its factory does not keep its contract; nothing was registered or started. Mend the class.

    Attributes:
        daemon_class: Name of the class or factory.
    """

    def __init__(self, kind: InvalidDaemonKind, daemon_class: str, message: str) -> None:
        super().__init__(kind, daemon_class, message, text=f"daemon class {daemon_class}: {message}")
        self._kind: InvalidDaemonKind = kind
        self.daemon_class: str = daemon_class

    @property
    def kind(self) -> InvalidDaemonKind:
        return self._kind


class DaemonNotFound(DaemonError, LookupError):
    """No daemon of that origin is known here: it was never spawned, or was stopped.

    Attributes:
        origin_hash: The origin asked for.
    """

    def __init__(self, origin_hash: OriginHash) -> None:
        super().__init__(origin_hash, text=f"no daemon {origin_hash:016x} is known here")
        self.origin_hash: OriginHash = origin_hash

    @property
    def kind(self) -> Literal["not_found"]:
        return "not_found"


class NotOwner(DaemonError):
    """Another node owns the identity, or owns it again in a later epoch than is known here; this one refuses.

    Attributes:
        origin_hash: The daemon.
        owner: The node that owns it.
        epoch: Its term of ownership.
    """

    def __init__(self, origin_hash: OriginHash, owner: NodeId, epoch: int) -> None:
        text = f"daemon {origin_hash:016x} is owned by node {owner:016x}, in epoch {epoch}"
        super().__init__(origin_hash, owner, epoch, text=text)
        self.origin_hash: OriginHash = origin_hash
        self.owner: NodeId = owner
        self.epoch: int = epoch

    @property
    def kind(self) -> Literal["not_owner"]:
        return "not_owner"


RemoteRefusedKind: TypeAlias = Literal["not_permitted"] | Literal["failed"]


class RemoteRefused(DaemonError):
    """Another node does not do what it was asked, since it does not let this one, or since it failed there.

    Attributes:
        node_id: The node that was asked.
        reason: What it says.
    """

    def __init__(self, kind: RemoteRefusedKind, node_id: NodeId, reason: str) -> None:
        super().__init__(kind, node_id, reason, text=f"node {node_id:016x} refuses: {reason}")
        self._kind: RemoteRefusedKind = kind
        self.node_id: NodeId = node_id
        self.reason: str = reason

    @property
    def kind(self) -> RemoteRefusedKind:
        return self._kind


class Migrating(DaemonError):
    """The daemon stands still since it is being moved; nothing was changed. `send` waits for it by itself. Retryable.

    Attributes:
        origin_hash: The daemon.
        retry_after: When to call again.
    """

    def __init__(self, origin_hash: OriginHash, retry_after: timedelta) -> None:
        text = f"daemon {origin_hash:016x} is being moved; call again in {_seconds(retry_after)}"
        super().__init__(origin_hash, retry_after, text=text)
        self.origin_hash: OriginHash = origin_hash
        self.retry_after: timedelta = retry_after

    @property
    def kind(self) -> Literal["migrating"]:
        return "migrating"

    @property
    def retryable(self) -> Literal[True]:
        return True


MigrationErrorKind: TypeAlias = (
    Literal["rejected"]
    | Literal["aborted"]
    | Literal["no_target"]
    | Literal["already_migrating"]
    | Literal["source_lost"]
)


class MigrationError(DaemonError):
    """A move ended, and the target does not own the daemon. After "source_lost" nobody can tell yet who owns it.

    After any other kind it is where it was, and goes on.

    Attributes:
        origin_hash: The daemon.
        phase: Phase in which the move ended; `None`: it never began.
        reason: What the node that ended it gave as its reason.
    """

    def __init__(
        self,
        kind: MigrationErrorKind,
        origin_hash: OriginHash,
        phase: MigrationPhase | None,
        reason: MigrationFailureReason | None,
        message: str,
    ) -> None:
        said = f"the move of daemon {origin_hash:016x} {_MIGRATION[kind]}"
        where = "" if phase is None else f" in phase {phase.value}"
        why = "" if reason is None else f": {reason.value}"
        more = f": {message}" if message else ""
        super().__init__(kind, origin_hash, phase, reason, message, text=f"{said}{where}{why}{more}")
        self._kind: MigrationErrorKind = kind
        self.origin_hash: OriginHash = origin_hash
        self.phase: MigrationPhase | None = phase
        self.reason: MigrationFailureReason | None = reason

    @property
    def kind(self) -> MigrationErrorKind:
        return self._kind


_MIGRATION = {
    "rejected": "was refused",
    "aborted": "was aborted",
    "no_target": "found no target",
    "already_migrating": "was refused, since another one is under way",
    "source_lost": "lost its source, and nobody can tell yet what became of it",
}


class StaleDaemon(DaemonError):
    """The daemon was replaced while the call waited for it; nothing was changed. Call again. Retryable.

    Attributes:
        origin_hash: The daemon.
    """

    def __init__(self, origin_hash: OriginHash) -> None:
        super().__init__(origin_hash, text=f"daemon {origin_hash:016x} was replaced while the call waited for it")
        self.origin_hash: OriginHash = origin_hash

    @property
    def kind(self) -> Literal["stale"]:
        return "stale"

    @property
    def retryable(self) -> Literal[True]:
        return True


SubscribeRejectedKind: TypeAlias = Literal["unauthorized"] | Literal["rate_limited"] | Literal["too_many_channels"]


PublishRejectedKind: TypeAlias = (
    Literal["unauthorized"] | Literal["too_many_channels"] | Literal["closed"] | Literal["too_large"]
)


class PublishRejected(MeshOsError):
    """Another node does not publish on its channel what it was asked to; nothing was published.

    Attributes:
        publisher: The node that was asked.
        channel: Where it was to be published.
    """

    def __init__(self, kind: PublishRejectedKind, publisher: NodeId, channel: ChannelName) -> None:
        text = f"node {publisher:016x} does not publish on {channel}: {_PUBLISH_REJECTED.get(kind, kind)}"
        super().__init__(kind, publisher, channel, text=text)
        self._kind: PublishRejectedKind = kind
        self.publisher: NodeId = publisher
        self.channel: ChannelName = channel

    @property
    def kind(self) -> PublishRejectedKind:
        return self._kind


_PUBLISH_REJECTED = {
    "unauthorized": "it needs a token that permits it",
    "too_many_channels": "it has as many channels, or publishers, as it may have",
    "closed": "the channel or the node is closed",
    "too_large": "the payload has more bytes than the channel allows",
}


class SubscribeRejected(DaemonError):
    """The publisher said no to a subscription; the ledger of the daemon was not changed.

    Attributes:
        publisher: The node that was asked.
        channel: What was to be read.
    """

    def __init__(self, kind: SubscribeRejectedKind, publisher: NodeId, channel: ChannelName) -> None:
        text = f"node {publisher:016x} refuses a subscription to {channel}: {_SUBSCRIBE_REJECTED.get(kind, kind)}"
        super().__init__(kind, publisher, channel, text=text)
        self._kind: SubscribeRejectedKind = kind
        self.publisher: NodeId = publisher
        self.channel: ChannelName = channel

    @property
    def kind(self) -> SubscribeRejectedKind:
        return self._kind


_SUBSCRIBE_REJECTED = {
    "unauthorized": "it needs a token that permits it",
    "rate_limited": "too many were refused; ask again later",
    "too_many_channels": "it keeps no more",
}


class AlreadyRegistered(DaemonError):
    """A daemon of that identity is live here, or the node has a runtime; it was left alone. Use it, or stop it first.

    Attributes:
        what: Origin hash of the daemon, or id of the node.
    """

    def __init__(self, what: int) -> None:
        super().__init__(what, text=f"daemon or node {what:016x} is registered here already")
        self.what: int = what

    @property
    def kind(self) -> Literal["already_registered"]:
        return "already_registered"


class AlreadyStored(DaemonError):
    """This node knows the identity's chain, and starting over would fork it.

    If its store has it, `recover` or `resume=True` continues it; otherwise spawn it from its newest snapshot.

    Attributes:
        origin_hash: The daemon.
    """

    def __init__(self, origin_hash: OriginHash) -> None:
        super().__init__(
            origin_hash,
            text=f"daemon {origin_hash:016x} has a chain here: recover it, or spawn it from its newest snapshot",
        )
        self.origin_hash: OriginHash = origin_hash

    @property
    def kind(self) -> Literal["already_stored"]:
        return "already_stored"


class DivergenceError(DaemonError):
    """A replay gave other outputs than the journal holds: the daemon is not deterministic, and was not started.

    Attributes:
        origin_hash: The daemon.
        sequence: First chain position of the step that differs.
    """

    def __init__(self, origin_hash: OriginHash, sequence: int) -> None:
        super().__init__(
            origin_hash,
            sequence,
            text=f"daemon {origin_hash:016x} emitted something else than the first time, from {sequence} on",
        )
        self.origin_hash: OriginHash = origin_hash
        self.sequence: int = sequence

    @property
    def kind(self) -> Literal["diverged"]:
        return "diverged"


class NotReady(DaemonError):
    """The runtime was not started yet: call `start()` first."""

    def __init__(self) -> None:
        super().__init__(text="the runtime was not started yet")

    @property
    def kind(self) -> Literal["not_ready"]:
        return "not_ready"


class ShuttingDown(DaemonError):
    """The runtime is shutting down or was shut down, and takes nothing new; make another one."""

    def __init__(self) -> None:
        super().__init__(text="the runtime is shutting down, or was shut down")

    @property
    def kind(self) -> Literal["shutting_down"]:
        return "shutting_down"


class FactoryNotFound(DaemonError, LookupError):
    """No factory is registered for the kind: call `register_factory` first.

    Attributes:
        daemon_kind: The kind asked for.
    """

    def __init__(self, daemon_kind: str) -> None:
        super().__init__(daemon_kind, text=f"no factory is registered for kind {daemon_kind!r}")
        self.daemon_kind: str = daemon_kind

    @property
    def kind(self) -> Literal["factory_not_found"]:
        return "factory_not_found"


class FactoryAlreadyRegistered(DaemonError):
    """The kind has a factory, which was left alone; take another name.

    Attributes:
        daemon_kind: The kind.
    """

    def __init__(self, daemon_kind: str) -> None:
        super().__init__(daemon_kind, text=f"kind {daemon_kind!r} has a factory already")
        self.daemon_kind: str = daemon_kind

    @property
    def kind(self) -> Literal["factory_already_registered"]:
        return "factory_already_registered"


ProcessFailedKind: TypeAlias = (
    Literal["raised"] | Literal["wrong_type"] | Literal["sequence_exhausted"] | Literal["passed_over"]
)


class ProcessFailed(DaemonError):
    """`process` raised (its exception is `__cause__`), returned something else than outputs, or the chain is full.

    The event did not take effect: no output of it exists, and the same event may be delivered again. One that was
    "passed_over" failed too often on another node: it is a dead letter there, and sending it again tries nothing.

    Attributes:
        origin_hash: The daemon.
        event_origin: Origin of the event that failed.
        event_sequence: Number of that event at its origin.
        outputs: Outputs of the events before it in the same batch, which did take effect: one tuple an event.
    """

    def __init__(
        self,
        kind: ProcessFailedKind,
        origin_hash: OriginHash,
        event_origin: OriginHash,
        event_sequence: int,
        message: str,
        outputs: tuple[tuple[CausalEvent, ...], ...] = (),
    ) -> None:
        super().__init__(
            kind,
            origin_hash,
            event_origin,
            event_sequence,
            message,
            outputs,
            text=f"daemon {origin_hash:016x}, event {event_sequence} of {event_origin:016x}: {message}",
        )
        self._kind: ProcessFailedKind = kind
        self.origin_hash: OriginHash = origin_hash
        self.event_origin: OriginHash = event_origin
        self.event_sequence: int = event_sequence
        self.outputs: tuple[tuple[CausalEvent, ...], ...] = outputs

    @property
    def kind(self) -> ProcessFailedKind:
        return self._kind


CallbackFailedKind: TypeAlias = Literal["raised"] | Literal["wrong_type"]
DaemonCallback: TypeAlias = Literal["health"] | Literal["saturation"] | Literal["on_control"]


class CallbackFailed(DaemonError):
    """A callback of a daemon raised (its exception is `__cause__`), or returned the wrong thing; the daemon goes on.

    Attributes:
        origin_hash: The daemon.
        callback: The method.
    """

    def __init__(
        self, kind: CallbackFailedKind, origin_hash: OriginHash, callback: DaemonCallback, message: str
    ) -> None:
        super().__init__(kind, origin_hash, callback, message, text=f"daemon {origin_hash:016x}, {callback}: {message}")
        self._kind: CallbackFailedKind = kind
        self.origin_hash: OriginHash = origin_hash
        self.callback: DaemonCallback = callback

    @property
    def kind(self) -> CallbackFailedKind:
        return self._kind


class SendTimeout(DaemonError, TimeoutError):
    """No receipt came in time, and the event may have taken effect.

    `send(error.origin_hash, error.event)` continues the same event. Sending the payload again would be another event,
    which is why this is not retryable.

    Attributes:
        origin_hash: The daemon.
        event: The event, with its number.
    """

    def __init__(self, origin_hash: OriginHash, event: CausalEvent) -> None:
        super().__init__(
            origin_hash,
            event,
            text=f"daemon {origin_hash:016x}: no receipt in time for {_event(event)}; it may have taken effect",
        )
        self.origin_hash: OriginHash = origin_hash
        self.event: CausalEvent = event

    @property
    def kind(self) -> Literal["send_timeout"]:
        return "send_timeout"


class DeliveryUnknown(DaemonError):
    """The event is older than the receipts the owner keeps: whether it took effect cannot be told any more.

    It did not take effect now. Look at the daemon's state or chain.

    Attributes:
        origin_hash: The daemon.
        event: The event.
        cursor: Number of the newest event of its origin that took effect.
    """

    def __init__(self, origin_hash: OriginHash, event: CausalEvent, cursor: int) -> None:
        super().__init__(
            origin_hash,
            event,
            cursor,
            text=f"daemon {origin_hash:016x}: no receipt is left of {_event(event)}; its cursor is at {cursor}",
        )
        self.origin_hash: OriginHash = origin_hash
        self.event: CausalEvent = event
        self.cursor: int = cursor

    @property
    def kind(self) -> Literal["delivery_unknown"]:
        return "delivery_unknown"


SnapshotFailedKind: TypeAlias = Literal["raised"] | Literal["wrong_type"]


class SnapshotFailed(DaemonError):
    """`snapshot` raised (its exception is `__cause__`) or did not return bytes; nothing was kept, the daemon goes on.

    Attributes:
        origin_hash: The daemon.
    """

    def __init__(self, kind: SnapshotFailedKind, origin_hash: OriginHash, message: str) -> None:
        super().__init__(kind, origin_hash, message, text=f"daemon {origin_hash:016x}: {message}")
        self._kind: SnapshotFailedKind = kind
        self.origin_hash: OriginHash = origin_hash

    @property
    def kind(self) -> SnapshotFailedKind:
        return self._kind


RestoreFailedKind: TypeAlias = (
    Literal["raised"]
    | Literal["stateless"]
    | Literal["wrong_kind"]
    | Literal["newer_schema"]
    | Literal["bad_bindings"]
    | Literal["wrong_chain"]
    | Literal["failed"]
)


class RestoreFailed(DaemonError):
    """`restore` or `upgrade` raised (its exception is `__cause__`), or the state does not belong here.

    The daemon was not started. "failed" is of a daemon that could not be restored after an error, and takes no events
    any more: stop it, and spawn it from a snapshot.

    Attributes:
        origin_hash: The daemon.
    """

    def __init__(self, kind: RestoreFailedKind, origin_hash: OriginHash, message: str) -> None:
        super().__init__(kind, origin_hash, message, text=f"daemon {origin_hash:016x}: {message}")
        self._kind: RestoreFailedKind = kind
        self.origin_hash: OriginHash = origin_hash

    @property
    def kind(self) -> RestoreFailedKind:
        return self._kind


class StaleSnapshot(DaemonError):
    """More is known of the identity than the snapshot holds; the daemon was not started.

    Take its newest snapshot, or declare the rest rolled back with `rewind=True`.

    Attributes:
        origin_hash: The daemon.
        snapshot: How many of them the snapshot holds.
        known: How many of them are known here.
        counted: What was counted: outputs on the chain, or inputs processed.
    """

    def __init__(
        self, origin_hash: OriginHash, snapshot: int, known: int, counted: Literal["outputs", "inputs"]
    ) -> None:
        super().__init__(
            origin_hash,
            snapshot,
            known,
            counted,
            text=f"daemon {origin_hash:016x}: the snapshot holds {snapshot} {counted}, {known} are known here",
        )
        self.origin_hash: OriginHash = origin_hash
        self.snapshot: int = snapshot
        self.known: int = known
        self.counted: Literal["outputs", "inputs"] = counted

    @property
    def kind(self) -> Literal["stale_snapshot"]:
        return "stale_snapshot"


class SnapshotIdentityMismatch(DaemonError):
    """A snapshot was offered under another identity than its own; the daemon was not started.

    Attributes:
        snapshot: Whose snapshot it is.
        identity: Under whose name it was offered.
    """

    def __init__(self, snapshot: EntityId, identity: EntityId) -> None:
        super().__init__(
            snapshot, identity, text=f"the snapshot is of entity {snapshot.hex()}, the identity is {identity.hex()}"
        )
        self.snapshot: EntityId = snapshot
        self.identity: EntityId = identity

    @property
    def kind(self) -> Literal["identity_mismatch"]:
        return "identity_mismatch"


# ---------------------------------------------------------------- records


class ChainError(MeshOsError):
    """A chain, a snapshot or a file of records does not prove what it claims; groups what follows."""


BrokenLinkKind: TypeAlias = (
    Literal["gap"] | Literal["altered"] | Literal["forked"] | Literal["wrong_origin"] | Literal["receipt"]
)


ChainContradictionKind: TypeAlias = (
    Literal["lineage"] | Literal["parent"] | Literal["altered"] | Literal["overrun"] | Literal["short"]
)


class ChainContradiction(ChainError):
    """A node contradicts, about a daemon's chain, what was signed or what it showed before: trust nothing of it.

    Attributes:
        origin: Owner of the chain.
        node_id: The node that said so.
        number: The sequence that it is about; of a "lineage", the epoch.
    """

    def __init__(self, kind: ChainContradictionKind, origin: OriginHash, node_id: NodeId, number: int) -> None:
        text = (
            f"chain {origin:016x}, {number}: node {node_id:016x} contradicts itself: {_CONTRADICTION.get(kind, kind)}"
        )
        super().__init__(kind, origin, node_id, number, text=text)
        self._kind: ChainContradictionKind = kind
        self.origin: OriginHash = origin
        self.node_id: NodeId = node_id
        self.number: int = number

    @property
    def kind(self) -> ChainContradictionKind:
        return self._kind


_CONTRADICTION = {
    "lineage": "its records of who may speak do not go on from those that are known",
    "parent": "the output does not follow on the one before it",
    "altered": "the output is another one than before",
    "overrun": "a record that rolls nothing back begins before what was read",
    "short": "the chain ends before what was read, and no record says why",
}


class BrokenLink(ChainError):
    """The first event or record that does not fit its chain: trust nothing from there on.

    Attributes:
        origin: Owner of the chain; of a file of records, the first 8 bytes of its id.
        sequence: Position of what does not fit; in a file of records, which of them, from 1.
        expected: What should stand there: a sequence ("gap"), an origin ("wrong_origin"), else the first 8 bytes of a
            digest.
        found: What stands there instead.
    """

    def __init__(self, kind: BrokenLinkKind, origin: OriginHash, sequence: int, expected: int, found: int) -> None:
        values = f"expected {expected}, found {found}"
        if kind != "gap":
            values = f"expected {expected:016x}, found {found:016x}"
        super().__init__(
            kind,
            origin,
            sequence,
            expected,
            found,
            text=f"chain {origin:016x}, event {sequence}: {_BROKEN.get(kind, kind)}: {values}",
        )
        self._kind: BrokenLinkKind = kind
        self.origin: OriginHash = origin
        self.sequence: int = sequence
        self.expected: int = expected
        self.found: int = found

    @property
    def kind(self) -> BrokenLinkKind:
        return self._kind


_BROKEN = {
    "gap": "a sequence is missing",
    "altered": "it is not the event that was emitted",
    "forked": "it follows another event than the one before it",
    "wrong_origin": "it is of another chain",
    "receipt": "it is not the position that the receipt names",
}


class BadSignature(ChainError):
    """A certificate, checkpoint, fork record or head is not signed by who it names, or does not fit the chain.

    Attributes:
        origin: Owner of the chain; of a file of records, the first 8 bytes of its id.
        sequence: Position that the record speaks of; in a file of records, the one that comes next.
    """

    def __init__(self, origin: OriginHash, sequence: int, message: str) -> None:
        super().__init__(origin, sequence, message, text=f"chain {origin:016x}, event {sequence}: {message}")
        self.origin: OriginHash = origin
        self.sequence: int = sequence

    @property
    def kind(self) -> Literal["bad_signature"]:
        return "bad_signature"


class FileDecodeError(ChainError):
    """An exported chain, or a record, cannot be read: it was cut off, changed, or is something else.

    Attributes:
        offset: Byte from which on it cannot be read.
    """

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(offset, message, text=f"byte {offset}: {message}")
        self.offset: int = offset

    @property
    def kind(self) -> Literal["bad_file"]:
        return "bad_file"


class AppendFailed(ChainError):
    """An appender did not keep a record: its file is closed, or the system refused; raise it from your own appenders.

    Attributes:
        reason: Why, for people.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, text=reason)
        self.reason: str = reason

    @property
    def kind(self) -> Literal["append_failed"]:
        return "append_failed"


PruneRefusedKind: TypeAlias = Literal["unprovable"] | Literal["needed"]


class PruneRefused(ChainError):
    """A log was not pruned there, and nothing went; prune it to `nearest`.

    "unprovable": no certificate and no checkpoint names the digest there, so what stayed could not be proven; an export
    signs one. "needed": events after the newest snapshot stay.

    Attributes:
        origin: Owner of the log.
        through: What was asked for.
        nearest: Highest sequence up to which it may be pruned instead; where it begins already, if there is none.
    """

    def __init__(self, kind: PruneRefusedKind, origin: OriginHash, through: int, nearest: int) -> None:
        why = "nothing signed vouches for it" if kind == "unprovable" else "events after the newest snapshot stay"
        text = f"log {origin:016x} is not pruned through event {through}: {why}; the nearest is {nearest}"
        super().__init__(kind, origin, through, nearest, text=text)
        self._kind: PruneRefusedKind = kind
        self.origin: OriginHash = origin
        self.through: int = through
        self.nearest: int = nearest

    @property
    def kind(self) -> PruneRefusedKind:
        return self._kind


SnapshotDecodeKind: TypeAlias = (
    Literal["corrupt"]
    | Literal["truncated"]
    | Literal["too_large"]
    | Literal["newer_version"]
    | Literal["unknown_section"]
)


class SnapshotDecodeError(ChainError):
    """Bytes are not a usable `StateSnapshot`; fetch them again, or take an older one.

    Attributes:
        offset: Byte at which reading ended.
    """

    def __init__(self, kind: SnapshotDecodeKind, offset: int, message: str) -> None:
        super().__init__(kind, offset, message, text=f"snapshot, byte {offset}: {message}")
        self._kind: SnapshotDecodeKind = kind
        self.offset: int = offset

    @property
    def kind(self) -> SnapshotDecodeKind:
        return self._kind


# ---------------------------------------------------------------- identity and names

IdentityErrorKind: TypeAlias = (
    Literal["invalid_public_key"] | Literal["invalid_signature"] | Literal["read_only"] | Literal["sealed_for_another"]
)


class IdentityError(MeshOsError):
    """A key is not usable for what was asked: no key at all, not the signer, or without its secret half."""

    def __init__(self, kind: IdentityErrorKind, message: str) -> None:
        super().__init__(kind, message, text=message)
        self._kind: IdentityErrorKind = kind

    @property
    def kind(self) -> IdentityErrorKind:
        return self._kind


TokenErrorKind: TypeAlias = (
    Literal["invalid_signature"]
    | Literal["not_yet_valid"]
    | Literal["expired"]
    | Literal["delegation_exhausted"]
    | Literal["delegation_not_allowed"]
    | Literal["not_authorized"]
    | Literal["revoked"]
    | Literal["invalid_format"]
    | Literal["read_only"]
    | Literal["zero_ttl"]
    | Literal["ttl_too_long"]
)


class TokenError(MeshOsError):
    """A permission token does not permit what is asked, or cannot be issued or passed on.

    Attributes:
        grant: Which step of the token is to blame, from 0, the root; `None` when its bytes cannot be read.
    """

    def __init__(self, kind: TokenErrorKind, message: str, grant: int | None = None) -> None:
        super().__init__(kind, message, grant, text=f"permission token, {message}")
        self._kind: TokenErrorKind = kind
        self.grant: int | None = grant

    @property
    def kind(self) -> TokenErrorKind:
        return self._kind


ChannelNameErrorKind: TypeAlias = (
    Literal["empty"] | Literal["too_long"] | Literal["invalid_char"] | Literal["invalid_segment"]
)


class ChannelNameError(MeshOsError, ValueError):
    """A channel name is out of grammar: 1 to 255 bytes of `a-z 0-9 - _ . /`, no empty, `.` or `..` segment.

    Attributes:
        name: The name as given.
    """

    def __init__(self, kind: ChannelNameErrorKind, name: str) -> None:
        shown = repr(name) if len(name) <= 64 else f"{name[:64]!r} and {len(name) - 64} more"
        super().__init__(kind, name, text=f"channel name {shown}: {_CHANNEL_NAME.get(kind, kind)}")
        self._kind: ChannelNameErrorKind = kind
        self.name: str = name

    @property
    def kind(self) -> ChannelNameErrorKind:
        return self._kind


_CHANNEL_NAME = {
    "empty": "it is empty",
    "too_long": "it is longer than 255 bytes",
    "invalid_char": "it has a character other than a-z 0-9 - _ . /",
    "invalid_segment": "a segment between its slashes is empty, a dot or two dots",
}


# ---------------------------------------------------------------- operators


class EnvelopeDecodeError(MeshOsError):
    """Bytes or text are not one canonical envelope; ask for it again.

    Attributes:
        offset: Byte of the input, or of what an armoured text stands for, at which reading ended.
    """

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(offset, message, text=f"envelope, byte {offset}: {message}")
        self.offset: int = offset

    @property
    def kind(self) -> Literal["bad_envelope"]:
        return "bad_envelope"


StoreErrorKind: TypeAlias = (
    Literal["missing"]
    | Literal["not_a_store"]
    | Literal["newer_version"]
    | Literal["other_node"]
    | Literal["locked"]
    | Literal["read_only"]
    | Literal["full"]
    | Literal["sync_failed"]
    | Literal["io"]
    | Literal["corrupt"]
    | Literal["too_large"]
    | Literal["superseded"]
    | Literal["closed"]
)


class StoreError(MeshOsError):
    """A store cannot be opened, read or written; what was to be acknowledged was not. Try again when it has space.

    Attributes:
        path: The folder; empty where the call does not know it.
    """

    def __init__(self, kind: StoreErrorKind, path: str, message: str) -> None:
        super().__init__(kind, path, message, text=f"store {path!r}: {message}" if path else f"the store: {message}")
        self._kind: StoreErrorKind = kind
        self.path: str = path

    @property
    def kind(self) -> StoreErrorKind:
        return self._kind


KeyFileErrorKind: TypeAlias = Literal["unreadable"] | Literal["not_private"] | Literal["passphrase"] | Literal["exists"]


class KeyFileError(MeshOsError):
    """A key file of an operator was not read or written; nothing of what is in it is shown.

    "unreadable": the system refused, which is `__cause__`, or it is no key file. "not_private": others than its owner
    may read it. "passphrase": it is wrong or missing, or the file needs none. "exists": there is a file already.

    Attributes:
        path: The file.
    """

    def __init__(self, kind: KeyFileErrorKind, path: str) -> None:
        super().__init__(kind, path, text=f"key file {path!r} {_KEY_FILE.get(kind, kind)}")
        self._kind: KeyFileErrorKind = kind
        self.path: str = path

    @property
    def kind(self) -> KeyFileErrorKind:
        return self._kind


_KEY_FILE = {
    "unreadable": "cannot be read or written as one",
    "not_private": "may be read by others than its owner",
    "passphrase": "does not open with this passphrase, or not without one",
    "exists": "is there already",
}


OperatorSocketErrorKind: TypeAlias = (
    Literal["unsupported"]
    | Literal["path_too_long"]
    | Literal["occupied"]
    | Literal["failed"]
    | Literal["busy"]
    | Literal["bad_frame"]
)


class OperatorSocketError(MeshOsError):
    """An operator socket was not opened or reached, or its other side does not keep to the form of messages.

    "unsupported": the system has no Unix-domain sockets. "path_too_long": the system takes no path of that length.
    "occupied": something has the name that is not a socket which nobody serves any more. "failed": the system refused,
    which is `__cause__`. "busy": the node has as many connections as it takes. "bad_frame": a message is cut off, too
    long, or not of the form.

    Attributes:
        path: The socket.
    """

    def __init__(self, kind: OperatorSocketErrorKind, path: str) -> None:
        super().__init__(kind, path, text=f"operator socket {path!r} {_OPERATOR_SOCKET.get(kind, kind)}")
        self._kind: OperatorSocketErrorKind = kind
        self.path: str = path

    @property
    def kind(self) -> OperatorSocketErrorKind:
        return self._kind


_OPERATOR_SOCKET = {
    "unsupported": "cannot be: this system has no Unix-domain sockets",
    "path_too_long": "has a path that is too long for this system: take one of at most 100 bytes",
    "occupied": "has a name that something else has",
    "failed": "cannot be opened or reached",
    "busy": "has as many connections as it takes",
    "bad_frame": "got a message that is cut off, too long, or not of the form",
}


class VerifyError(MeshOsError):
    """A command was refused and had no effect; groups what follows.

    Attributes:
        audit_seq: Number of its audit record; `None` when the command reached no node.
    """

    def __init__(self, *args: object, text: str | None = None, audit_seq: int | None = None) -> None:
        super().__init__(*args, text=text)
        self.audit_seq: int | None = audit_seq


class NoVerifier(VerifyError):
    """The runtime has no verifier, and its configuration does not say `authority="open"`."""

    def __init__(self, audit_seq: int | None = None) -> None:
        text = 'there is no verifier, and the configuration does not say authority="open"'
        super().__init__(audit_seq, text=text, audit_seq=audit_seq)

    @property
    def kind(self) -> Literal["no_verifier"]:
        return "no_verifier"


class UnsignedRejected(VerifyError):
    """The command has no signature; have an operator sign it."""

    def __init__(self, audit_seq: int | None = None) -> None:
        super().__init__(audit_seq, text="the command has no signature", audit_seq=audit_seq)

    @property
    def kind(self) -> Literal["unsigned_rejected"]:
        return "unsigned_rejected"


class NotAuthorized(VerifyError):
    """The operator is not in the registry, was revoked, or is not to act at this time.

    Attributes:
        operator_id: Who signed.
    """

    def __init__(self, operator_id: OperatorId, audit_seq: int | None = None) -> None:
        text = f"operator {operator_id:016x} is not in the registry, or not at this time"
        super().__init__(operator_id, audit_seq, text=text, audit_seq=audit_seq)
        self.operator_id: OperatorId = operator_id

    @property
    def kind(self) -> Literal["not_authorized"]:
        return "not_authorized"


class RoleDenied(VerifyError):
    """The operator lacks the role that the command needs.

    Attributes:
        operator_id: Who signed.
        role: What they would need.
    """

    def __init__(self, operator_id: OperatorId, role: Role, audit_seq: int | None = None) -> None:
        text = f"operator {operator_id:016x} lacks the role {role}"
        super().__init__(operator_id, role, audit_seq, text=text, audit_seq=audit_seq)
        self.operator_id: OperatorId = operator_id
        self.role: Role = role

    @property
    def kind(self) -> Literal["role_denied"]:
        return "role_denied"


class SignatureInvalid(VerifyError):
    """A signature does not verify over these bytes: it is forged, of another envelope, or of another key.

    Attributes:
        operator_id: Whose it claims to be.
    """

    def __init__(self, operator_id: OperatorId, audit_seq: int | None = None) -> None:
        text = f"the signature of operator {operator_id:016x} does not fit what it is under"
        super().__init__(operator_id, audit_seq, text=text, audit_seq=audit_seq)
        self.operator_id: OperatorId = operator_id

    @property
    def kind(self) -> Literal["signature_invalid"]:
        return "signature_invalid"


class InsufficientSignatures(VerifyError):
    """Fewer distinct operators than required have signed; collect more signatures.

    Attributes:
        got, required: Operators with a good signature, and how many are needed.
    """

    def __init__(self, got: int, required: int, audit_seq: int | None = None) -> None:
        text = f"signed by {got} of {required} operators"
        super().__init__(got, required, audit_seq, text=text, audit_seq=audit_seq)
        self.got: int = got
        self.required: int = required

    @property
    def kind(self) -> Literal["insufficient_signatures"]:
        return "insufficient_signatures"


class BundleTooLarge(VerifyError):
    """The envelope has more signatures than a verifier looks at.

    Attributes:
        size, size_max: Signatures in it, and how many are looked at.
    """

    def __init__(self, size: int, size_max: int, audit_seq: int | None = None) -> None:
        text = f"it has {size} signatures, at most {size_max} are looked at"
        super().__init__(size, size_max, audit_seq, text=text, audit_seq=audit_seq)
        self.size: int = size
        self.size_max: int = size_max

    @property
    def kind(self) -> Literal["bundle_too_large"]:
        return "bundle_too_large"


class EnvelopeExpired(VerifyError):
    """The envelope is older than the freshness window, or past its `not_after`; make and sign another.

    Attributes:
        issued_at: When it was made.
        not_after: When it was void by its own word.
    """

    def __init__(self, issued_at: datetime, not_after: datetime, audit_seq: int | None = None) -> None:
        text = f"the envelope of {issued_at.isoformat()}, good until {not_after.isoformat()}, is too old"
        super().__init__(issued_at, not_after, audit_seq, text=text, audit_seq=audit_seq)
        self.issued_at: datetime = issued_at
        self.not_after: datetime = not_after

    @property
    def kind(self) -> Literal["envelope_expired"]:
        return "envelope_expired"


class EnvelopeFromFuture(VerifyError):
    """The envelope was issued further ahead of the node's clock than allowed; compare the clocks.

    Attributes:
        issued_at: When it claims to be made.
    """

    def __init__(self, issued_at: datetime, audit_seq: int | None = None) -> None:
        text = f"the envelope of {issued_at.isoformat()} is of the future"
        super().__init__(issued_at, audit_seq, text=text, audit_seq=audit_seq)
        self.issued_at: datetime = issued_at

    @property
    def kind(self) -> Literal["envelope_from_future"]:
        return "envelope_from_future"


class Replayed(VerifyError):
    """The envelope was accepted before: it took effect then, and not again.

    Attributes:
        envelope_id: Its 16 bytes.
        accepted_as: Audit record under which it was accepted; `None` when that is not known any more.
    """

    def __init__(self, envelope_id: bytes, accepted_as: int | None, audit_seq: int | None = None) -> None:
        then = "" if accepted_as is None else f" as audit record {accepted_as}"
        text = f"envelope {envelope_id.hex()} was accepted before{then}"
        super().__init__(envelope_id, accepted_as, audit_seq, text=text, audit_seq=audit_seq)
        self.envelope_id: bytes = envelope_id
        self.accepted_as: int | None = accepted_as

    @property
    def kind(self) -> Literal["replayed"]:
        return "replayed"


class Overloaded(VerifyError):
    """So many commands came lately that this one was not looked at, or its id could not be kept. Retryable."""

    def __init__(self, audit_seq: int | None = None) -> None:
        super().__init__(audit_seq, text="too many commands came lately", audit_seq=audit_seq)

    @property
    def kind(self) -> Literal["overloaded"]:
        return "overloaded"

    @property
    def retryable(self) -> bool:
        return True


class WrongCluster(VerifyError):
    """The envelope is for another cluster."""

    def __init__(self, audit_seq: int | None = None) -> None:
        super().__init__(audit_seq, text="the envelope is for another cluster", audit_seq=audit_seq)

    @property
    def kind(self) -> Literal["wrong_cluster"]:
        return "wrong_cluster"


class SimulationRequired(VerifyError):
    """The envelope has an empty blast radius: nobody looked at what its action would touch."""

    def __init__(self, audit_seq: int | None = None) -> None:
        super().__init__(audit_seq, text="the envelope has an empty blast radius", audit_seq=audit_seq)

    @property
    def kind(self) -> Literal["simulation_required"]:
        return "simulation_required"


class InvalidSpan(VerifyError):
    """A span in the command is out of range: a freeze lasts from 1 s to 24 h."""

    def __init__(self, audit_seq: int | None = None) -> None:
        super().__init__(audit_seq, text="a span in the command is out of range", audit_seq=audit_seq)

    @property
    def kind(self) -> Literal["invalid_span"]:
        return "invalid_span"


class PreviewStale(VerifyError):
    """The action would now hit targets that the operators did not see; simulate, sign and send it again.

    Attributes:
        drift: Those targets, such as "node:7".
    """

    def __init__(self, drift: tuple[str, ...], audit_seq: int | None = None) -> None:
        shown = ", ".join(drift[:8]) + (f" and {len(drift) - 8} more" if len(drift) > 8 else "")
        text = f"the action would now hit what the operators did not see: {shown}"
        super().__init__(drift, audit_seq, text=text, audit_seq=audit_seq)
        self.drift: tuple[str, ...] = drift

    @property
    def kind(self) -> Literal["preview_stale"]:
        return "preview_stale"


class CooldownActive(VerifyError):
    """The target of a break-glass action is left alone for a while; after that, make another envelope.

    Attributes:
        bucket: What is left alone, such as "node:7" or "cluster:freeze".
        retry_at: Until when.
    """

    def __init__(self, bucket: str, retry_at: datetime, audit_seq: int | None = None) -> None:
        text = f"{bucket} is left alone until {retry_at.isoformat()}"
        super().__init__(bucket, retry_at, audit_seq, text=text, audit_seq=audit_seq)
        self.bucket: str = bucket
        self.retry_at: datetime = retry_at

    @property
    def kind(self) -> Literal["ice_cooldown_active"]:
        return "ice_cooldown_active"


class FreezeInEffect(VerifyError):
    """The cluster is frozen and the command is an ordinary one; thaw it first, or wait.

    Attributes:
        until: When the freeze ends by itself.
    """

    def __init__(self, until: datetime, audit_seq: int | None = None) -> None:
        text = f"the cluster is frozen until {until.isoformat()}"
        super().__init__(until, audit_seq, text=text, audit_seq=audit_seq)
        self.until: datetime = until

    @property
    def kind(self) -> Literal["freeze_in_effect"]:
        return "freeze_in_effect"


class IceRequiresBundle(VerifyError):
    """A break-glass action came as an ordinary command; it needs an `IceEnvelope`, and several operators."""

    def __init__(self, audit_seq: int | None = None) -> None:
        text = "a break-glass action needs a break-glass envelope"
        super().__init__(audit_seq, text=text, audit_seq=audit_seq)

    @property
    def kind(self) -> Literal["ice_requires_bundle"]:
        return "ice_requires_bundle"


class AuditRequired(VerifyError):
    """The audit appender could not keep the record, and the configuration says `audit="required"`."""

    def __init__(self, audit_seq: int | None = None) -> None:
        text = "the audit appender could not keep the record of the command"
        super().__init__(audit_seq, text=text, audit_seq=audit_seq)

    @property
    def kind(self) -> Literal["audit_required"]:
        return "audit_required"


# ---------------------------------------------------------------- simulation


class InvariantViolation(MeshOsError, AssertionError):
    """A promise was broken in a simulated run: run it again, and mend the daemon.

    Attributes:
        invariant: Its name, such as "SameState", "SameOutputs" or "NotLost".
        seed: Of the run.
        step: Step at which it was seen.
        reproduce: The call that repeats the run.
        timeline: What led to it, shortened; the last line is what was broken.
    """

    def __init__(self, invariant: str, seed: int, step: int, reproduce: str, timeline: tuple[str, ...]) -> None:
        what = timeline[-1] if timeline else "it does not hold"
        super().__init__(
            invariant,
            seed,
            step,
            reproduce,
            timeline,
            text=f"step {step} of seed {seed} broke {invariant}: {what}",
        )
        self.invariant: str = invariant
        self.seed: int = seed
        self.step: int = step
        self.reproduce: str = reproduce
        self.timeline: tuple[str, ...] = timeline

    @property
    def kind(self) -> Literal["invariant_violated"]:
        return "invariant_violated"


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():g} s"


def _event(event: CausalEvent) -> str:
    return f"event {event.sequence} of {event.origin_hash:016x}"
