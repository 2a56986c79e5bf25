"""Operators: their keys, what they may do, what they sign, and what a node makes of it."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol, Self, TypeAlias, final, runtime_checkable

from meshos._core import AdminEnvelope as AdminEnvelope
from meshos._core import AdminVerifier as AdminVerifier
from meshos._core import AuditQuery as AuditQuery
from meshos._core import BlastRadius as BlastRadius
from meshos._core import BlastWarning as BlastWarning
from meshos._core import CommitReceipt as CommitReceipt
from meshos._core import Cooldown as Cooldown
from meshos._core import FlushAvoidLists as FlushAvoidLists
from meshos._core import ForceCutover as ForceCutover
from meshos._core import ForceEvictReplica as ForceEvictReplica
from meshos._core import ForceRestartDaemon as ForceRestartDaemon
from meshos._core import FreezeCluster as FreezeCluster
from meshos._core import Global as Global
from meshos._core import IceEnvelope as IceEnvelope
from meshos._core import KillMigration as KillMigration
from meshos._core import Local as Local
from meshos._core import LogFilter as LogFilter
from meshos._core import OnPeer as OnPeer
from meshos._core import Operator as Operator
from meshos._core import OperatorRegistry as OperatorRegistry
from meshos._core import OperatorSignature as OperatorSignature
from meshos._core import ThawCluster as ThawCluster
from meshos._core import operator_id as _operator_id
from meshos._core import simulate as simulate

if TYPE_CHECKING:
    from nacl.signing import SigningKey, VerifyKey

__all__ = [
    "AdminCommands",
    "AdminEnvelope",
    "AdminVerifier",
    "AuditQuery",
    "AvoidScope",
    "BlastRadius",
    "BlastWarning",
    "BlastWarningKind",
    "CommitReceipt",
    "Cooldown",
    "DeckClient",
    "FlushAvoidLists",
    "ForceCutover",
    "ForceEvictReplica",
    "ForceRestartDaemon",
    "FreezeCluster",
    "Global",
    "HardwareKey",
    "IceAction",
    "IceCommands",
    "IceEnvelope",
    "KillMigration",
    "Local",
    "LogFilter",
    "OnPeer",
    "Operator",
    "OperatorId",
    "OperatorKey",
    "OperatorRegistry",
    "OperatorSignature",
    "OperatorSocket",
    "Role",
    "ThawCluster",
    "Verdict",
    "simulate",
]

OperatorId: TypeAlias = int
"""First 8 bytes, little endian, of SHA-256 over a domain and the operator's public key."""


@final
class Role(StrEnum):
    """What an operator may do."""

    VIEWER = "viewer"
    ADMIN = "admin"
    ICE = "ice"


@final
class Verdict(StrEnum):
    """What a node made of a command."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNVERIFIED = "unverified"


AvoidScope: TypeAlias = Local | OnPeer | Global
"""Which avoid lists are flushed."""
IceAction: TypeAlias = (
    FreezeCluster
    | ThawCluster
    | FlushAvoidLists
    | ForceEvictReplica
    | ForceRestartDaemon
    | ForceCutover
    | KillMigration
)
"""A break-glass action; it needs the signatures of several operators."""
# A union of one `Literal` each: of a `Literal` with several values `stubtest` says it is no union.
BlastWarningKind: TypeAlias = (
    Literal["cluster_freeze_blocks_operator_actions"]
    | Literal["thaw_resumes_pending_reconciles"]
    | Literal["thaw_has_no_freeze_to_cancel"]
    | Literal["global_avoid_flush_may_re_emit"]
    | Literal["avoid_flush_local_to_target_node_only"]
    | Literal["avoid_flush_recovers_peer"]
    | Literal["forced_eviction_bypasses_cooldown"]
    | Literal["forced_eviction_targets_unknown_chain"]
    | Literal["forced_eviction_targets_non_holder"]
    | Literal["forced_restart_bypasses_backoff"]
    | Literal["forced_restart_targets_unknown_daemon"]
    | Literal["forced_restart_daemon_not_in_backoff"]
    | Literal["forced_cutover_bypasses_placement_scorer"]
    | Literal["forced_cutover_targets_unknown_chain"]
    | Literal["forced_cutover_target_already_holder"]
    | Literal["kill_migration_only_local_visible"]
)
"""What a warning says."""


@runtime_checkable
class HardwareKey(Protocol):
    """A key that never leaves its device."""

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        ...

    def sign(self, message: bytes, /) -> bytes:
        """Return a 64-byte Ed25519 signature."""
        ...


@final
class OperatorKey:
    """An operator's key, held by PyNaCl or by a device; it never enters the extension.

    Two are equal when their public keys are. It is neither pickled nor copied.
    """

    __slots__ = ("_key", "_public_key")

    def __init__(self, key: SigningKey | HardwareKey) -> None:
        """Take over a key; raises `InvalidArgument` for a device without a usable public key."""
        self._public_key = _public_key_of(key)
        self._key: SigningKey | HardwareKey = key

    @classmethod
    def generate(cls) -> Self:
        """Make a key from the operating system's randomness."""
        from nacl.signing import SigningKey

        return cls(SigningKey.generate())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, passphrase: str | None = None) -> Self:
        """Read a key file that only its owner can read.

        Args:
            path: A file that `save` wrote.
            passphrase: What it was sealed with; `None` for a file that was not.

        Raises:
            KeyFileError: The file is missing, readable for others, no key file, or does not open so.
        """
        from nacl.signing import SigningKey

        from meshos import _keyfile

        return cls(SigningKey(_keyfile.read(_path(path), _text(passphrase))))

    def save(self, path: str | os.PathLike[str], *, passphrase: str | None = None) -> None:
        """Write a new private file, sealed when there is a passphrase.

        Args:
            path: A name that nothing has.
            passphrase: What the key is sealed with, by Argon2id (256 MiB) and secretbox; `None` leaves it open.

        Raises:
            KeyFileError: There is a file already, or the system refused.
            IdentityError: The key is held by a device.
        """
        from nacl.signing import SigningKey

        from meshos import _keyfile

        file, secret = _path(path), _text(passphrase)
        if not isinstance(self._key, SigningKey):
            from meshos.errors import IdentityError

            raise IdentityError("read_only", "the key is held by a device and cannot be saved")
        _keyfile.write(file, bytes(self._key), self._public_key, secret)

    @property
    def verify_key(self) -> VerifyKey:
        """The public key."""
        from nacl.signing import VerifyKey

        return VerifyKey(self._public_key)

    @property
    def operator_id(self) -> OperatorId:
        """The operator's handle."""
        return _operator_id(self._public_key)

    def sign(self, envelope: IceEnvelope | AdminEnvelope) -> OperatorSignature:
        """Sign what an envelope says. Look at it first: a signature is consent.

        Raises:
            SignatureInvalid: The device gave something else than a signature of its key.
        """
        from nacl.exceptions import CryptoError
        from nacl.signing import SigningKey

        message = _signing_bytes(envelope)
        if isinstance(self._key, SigningKey):
            signature = self._key.sign(message).signature
        else:
            signature = _signed(self._key.sign(message))
            try:
                self.verify_key.verify(message, signature)
            except (CryptoError, ValueError):
                from meshos.errors import SignatureInvalid

                raise SignatureInvalid(self.operator_id) from None
        return OperatorSignature(self._public_key, signature)

    def __eq__(self, other: object, /) -> bool:
        return self._public_key == other._public_key if isinstance(other, OperatorKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._public_key)

    def __repr__(self) -> str:
        return f"<OperatorKey {self.operator_id:016x}>"

    def __reduce__(self) -> NoReturn:
        message = "an OperatorKey is neither pickled nor copied, since that would spread its secret key: use save()"
        raise TypeError(message)


def _public_key_of(key: object) -> bytes:
    from nacl.signing import SigningKey

    if isinstance(key, SigningKey):
        return bytes(key.verify_key)
    if isinstance(key, HardwareKey):
        return _usable(key.public_key)
    message = f"key must be a nacl.signing.SigningKey or a HardwareKey, not {type(key).__name__}"
    raise TypeError(message)


def _usable(raw: object) -> bytes:
    from meshos._core import entity_id_bytes
    from meshos.errors import IdentityError, InvalidArgument

    if not isinstance(raw, bytes):
        message = f"public_key of the key must be bytes, not {type(raw).__name__}"
        raise TypeError(message)
    try:
        return entity_id_bytes(raw)
    except (IdentityError, InvalidArgument):
        raise InvalidArgument("key", "must have a usable Ed25519 public_key of 32 bytes") from None


def _signing_bytes(envelope: object) -> bytes:
    if isinstance(envelope, IceEnvelope | AdminEnvelope):
        return envelope.signing_bytes()
    message = f"envelope must be an IceEnvelope or an AdminEnvelope, not {type(envelope).__name__}"
    raise TypeError(message)


def _signed(signature: object) -> bytes:
    if isinstance(signature, bytes):
        return signature
    message = f"sign of the key must return bytes, not {type(signature).__name__}"
    raise TypeError(message)


def _path(path: str | os.PathLike[str]) -> str:
    found: object = os.fspath(path)
    if isinstance(found, str):
        return found
    message = f"path must be a str or an os.PathLike of str, not {type(path).__name__}"
    raise TypeError(message)


def _text(passphrase: object) -> str | None:
    if passphrase is None or isinstance(passphrase, str):
        return passphrase
    message = f"passphrase must be a str or None, not {type(passphrase).__name__}"
    raise TypeError(message)


# The client uses what stands above.
from meshos._deck import AdminCommands as AdminCommands  # noqa: E402
from meshos._deck import DeckClient as DeckClient  # noqa: E402
from meshos._deck import IceCommands as IceCommands  # noqa: E402
from meshos._socket import OperatorSocket as OperatorSocket  # noqa: E402
