"""The compiled module. Its public names have a home module each; import them from there."""

from asyncio import AbstractEventLoop, Future
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import datetime, timedelta
from os import PathLike
from types import TracebackType
from typing import ClassVar, Final, Literal, Self, TypeAlias, TypeVar, final

from nacl.signing import SigningKey, VerifyKey
from typing_extensions import disjoint_base

from meshos._aio import Reply
from meshos.audit import (
    ActionChainAppender,
    AdminAuditChainAppender,
    FailureChainAppender,
    LogChainAppender,
    Record,
)
from meshos.chain import BytesLike
from meshos.channel import ChannelName, Right
from meshos.control import ControlSink, DaemonControl
from meshos.daemon import DaemonLifecycleObserver, MeshDaemon
from meshos.dispatch import ActionDispatcher, MeshOsAction
from meshos.events import (
    AdminEvent,
    DaemonIntent,
    DaemonLifecycleSignal,
    LocalReplicaIntent,
    LogLevel,
    MeshOsEvent,
    ReplicaChange,
)
from meshos.identity import EntityId, NodeId, OriginHash
from meshos.migration import MigrationAborter, MigrationMessageKind, MigrationPhase, MigrationSnapshotSource
from meshos.operator import AvoidScope, BlastWarningKind, IceAction, OperatorId, Role, Verdict
from meshos.probes import HealthProbe, InventoryProbe, LocalityProbe, NodeHealth
from meshos.recovery import RecoveryHandler
from meshos.scheduler import PlacementScorer
from meshos.status import Lifecycle, MaintenancePhase, MaintenanceState, RestartState
from meshos.store import Continuity
from meshos.stream import Stream

__version__: str

_D = TypeVar("_D", bound=MeshDaemon)
_R = TypeVar("_R")

_BytesLike: TypeAlias = bytes | bytearray | memoryview
_OriginHash: TypeAlias = int
_NodeId: TypeAlias = int

# ---------------------------------------------------------------- identity, name: what `EntityId` and `ChannelName` call

def entity_id_bytes(raw: _BytesLike) -> bytes: ...
def entity_id_origin_hash(entity_id: EntityId) -> _OriginHash: ...
def entity_id_node_id(entity_id: EntityId) -> _NodeId: ...
def channel_name_text(name: str) -> str: ...
def channel_name_is_prefix_of(name: str, other: str) -> bool: ...

@final
class Identity:
    """A key pair, or its public half alone. The secret is in no repr, pickle, log or error.

    Two are equal when their public keys are. It is shared with the daemons spawned under it: `erase` reaches theirs.
    """

    @classmethod
    def generate(cls) -> Self:
        """Make a key from the operating system's randomness."""
    @classmethod
    def from_seed(cls, seed: _BytesLike) -> Self:
        """Make the key of a 32-byte seed; raises `InvalidArgument`."""
    @classmethod
    def from_signing_key(cls, key: SigningKey) -> Self:
        """Take over a PyNaCl key."""
    @classmethod
    def public_only(cls, key: EntityId | VerifyKey) -> Self:
        """Make an identity that names and verifies, and cannot sign; raises `IdentityError` for an unusable key."""
    @property
    def entity_id(self) -> EntityId:
        """The public key."""
    @property
    def origin_hash(self) -> _OriginHash:
        """The handle of a daemon with this key."""
    @property
    def is_read_only(self) -> bool:
        """Whether there is no secret half, or no longer."""
    def sign(self, message: _BytesLike) -> bytes:
        """Return a 64-byte signature; raises `IdentityError` of kind "read_only"."""
    def verify(self, message: _BytesLike, signature: _BytesLike) -> None:
        """Check a signature strictly; raises `IdentityError` of kind "invalid_signature"."""
    def to_signing_key(self) -> SigningKey:
        """Hand the secret out as a PyNaCl key; raises `IdentityError` of kind "read_only"."""
    def erase(self) -> None:
        """Wipe the secret half; may be called twice."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- capability

@final
class CapabilitySet:
    """Tags such as `hardware.gpu` or `software.cuda=12`, and metadata. `a=b` and `a:b` are one tag."""

    __match_args__: Final = ("tags", "metadata")
    def __new__(cls, tags: Iterable[str] = (), metadata: Mapping[str, str] = ...) -> Self:
        """Raise `InvalidArgument` for a malformed tag or a reserved prefix."""
    @property
    def tags(self) -> frozenset[str]:
        """The tags, in the form with `=`."""
    @property
    def metadata(self) -> Mapping[str, str]:
        """What else is known of it; read only."""
    def has_tag(self, tag: str) -> bool:
        """Whether a tag is there, in either form."""
    def __or__(self, other: CapabilitySet, /) -> CapabilitySet: ...
    def __ror__(self, other: CapabilitySet, /) -> CapabilitySet: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class CapabilityFilter:
    """Hard requirements on a node; the empty filter fits everywhere. A requirement that cannot be judged fails."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        require_tags: Iterable[str] = ...,
        require_models: Iterable[str] = ...,
        require_tools: Iterable[str] = ...,
        require_modalities: Iterable[str] = ...,
        require_gpu: bool = False,
        gpu_vendor: _GpuVendor | None = None,
        min_memory_gb: float | None = None,
        min_vram_gb: float | None = None,
        min_context_length: int | None = None,
    ) -> Self:
        """Raise `InvalidArgument` for a malformed tag, or a minimum that is negative or no number."""
    @property
    def require_tags(self) -> frozenset[str]:
        """All of these tags."""
    @property
    def require_models(self) -> frozenset[str]:
        """One of these models."""
    @property
    def require_tools(self) -> frozenset[str]:
        """One of these tools."""
    @property
    def require_modalities(self) -> frozenset[str]:
        """Each of these, by some model."""
    @property
    def require_gpu(self) -> bool:
        """A GPU."""
    @property
    def gpu_vendor(self) -> _GpuVendor | None:
        """A GPU of this vendor."""
    @property
    def min_memory_gb(self) -> float | None:
        """So much memory."""
    @property
    def min_vram_gb(self) -> float | None:
        """So much memory of a GPU."""
    @property
    def min_context_length(self) -> int | None:
        """Some model with a context of so many tokens."""
    def matches(self, offered: CapabilitySet) -> bool:
        """Whether all that is required is offered."""
    def missing(self, offered: CapabilitySet) -> tuple[str, ...]:
        """Name what is missing, in words, for a person."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

_GpuVendor: TypeAlias = Literal["nvidia", "amd", "intel", "apple", "qualcomm"]

# ---------------------------------------------------------------- chain

@final
class CausalLink:
    """One link, 32 bytes on the wire: who, having seen what, as which event, after which event."""

    __match_args__: Final = ("origin_hash", "horizon_encoded", "sequence", "parent_hash")
    def __new__(cls, origin_hash: _OriginHash, horizon_encoded: int, sequence: int, parent_hash: int) -> Self: ...
    @property
    def origin_hash(self) -> _OriginHash:
        """Whose chain it is a link of."""
    @property
    def horizon_encoded(self) -> int:
        """64-bit sketch of the origins seen before; no false negatives."""
    @property
    def sequence(self) -> int:
        """Position in the chain, from 1."""
    @property
    def parent_hash(self) -> int:
        """First 8 bytes, little endian, of the digest of everything before."""
    def to_bytes(self) -> bytes:
        """Return the 32 bytes."""
    @classmethod
    def from_bytes(cls, data: _BytesLike) -> Self:
        """Read exactly 32 bytes; raises `InvalidArgument`."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ObservedHorizon:
    """The exact map of origin to highest sequence seen."""

    def __new__(cls, seen: Mapping[_OriginHash, int] = ...) -> Self: ...
    def observe(self, origin_hash: _OriginHash, sequence: int) -> None:
        """Take note of an event."""
    def has_observed(self, origin_hash: _OriginHash, sequence: int) -> bool:
        """Whether an event of this origin, or a later one, was seen."""
    def as_mapping(self) -> Mapping[_OriginHash, int]:
        """Return a copy: origin to highest sequence seen."""
    @property
    def encoded(self) -> int:
        """The 64-bit sketch that links carry."""

@final
class CausalChainBuilder:
    """Appends to one chain; its 32-byte head digest is all that a restored chain needs to continue."""

    def __new__(cls, entity_id: EntityId) -> Self:
        """Begin at the virtual genesis, sequence 0."""
    @classmethod
    def from_head(cls, entity_id: EntityId, head: CausalLink, head_digest: _BytesLike) -> Self:
        """Continue after `head`; raises `BrokenLink` when it is not of `entity_id`."""
    def append(self, payload: _BytesLike, horizon_encoded: int = 0) -> CausalEvent:
        """Append one event; raises `ChainError` after 2^64 - 1 of them."""
    @property
    def entity_id(self) -> EntityId:
        """Whose chain it is."""
    @property
    def origin_hash(self) -> _OriginHash:
        """The handle of the entity."""
    @property
    def sequence(self) -> int:
        """Events appended since genesis."""
    @property
    def head_link(self) -> CausalLink:
        """The last link."""
    @property
    def head_digest(self) -> bytes:
        """32 bytes that commit to the whole chain."""

_Reason: TypeAlias = Literal["spawn", "move", "restart", "takeover"]

@final
class Certificate:
    """Who may speak for an entity: this node, in this epoch, from this sequence on."""

    __match_args__: Final = (
        "entity_id",
        "epoch",
        "node",
        "from_sequence",
        "digest",
        "reason",
        "signer",
        "signature",
    )
    def __new__(
        cls,
        entity_id: EntityId,
        epoch: int,
        node: EntityId,
        from_sequence: int,
        digest: _BytesLike,
        reason: _Reason,
        signer: EntityId,
        signature: _BytesLike,
    ) -> Self: ...
    @property
    def entity_id(self) -> EntityId:
        """Whom it speaks for."""
    @property
    def epoch(self) -> int:
        """Term of ownership."""
    @property
    def node(self) -> EntityId:
        """The node that speaks."""
    @property
    def from_sequence(self) -> int:
        """Position after which the node speaks."""
    @property
    def digest(self) -> bytes:
        """Chain digest at `from_sequence`."""
    @property
    def reason(self) -> _Reason:
        """What began the epoch."""
    @property
    def signer(self) -> EntityId:
        """Who signed it."""
    @property
    def signature(self) -> bytes:
        """64 bytes."""
    def to_bytes(self) -> bytes:
        """Return its form on the wire."""
    @classmethod
    def from_bytes(cls, data: _BytesLike) -> Self:
        """Read exactly one; raises `FileDecodeError`."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Checkpoint:
    """What the node that speaks for an entity signed: up to `sequence` the chain has this digest."""

    __match_args__: Final = ("entity_id", "epoch", "sequence", "digest", "at", "previous", "signature")
    def __new__(
        cls,
        entity_id: EntityId,
        epoch: int,
        sequence: int,
        digest: _BytesLike,
        at: datetime,
        previous: _BytesLike,
        signature: _BytesLike,
    ) -> Self:
        """Raise `InvalidArgument` unless `at` is aware, and a whole number of milliseconds since 1970."""
    @property
    def entity_id(self) -> EntityId:
        """Whose chain it is about."""
    @property
    def epoch(self) -> int:
        """Term of ownership in which it was signed."""
    @property
    def sequence(self) -> int:
        """Position that it vouches for, and everything before."""
    @property
    def digest(self) -> bytes:
        """Chain digest at `sequence`."""
    @property
    def at(self) -> datetime:
        """When it was signed, by the node's wall clock, in UTC."""
    @property
    def previous(self) -> bytes:
        """Digest of the checkpoint before; 32 zero bytes for the first."""
    @property
    def signature(self) -> bytes:
        """64 bytes."""
    def to_bytes(self) -> bytes:
        """Return its form on the wire."""
    @classmethod
    def from_bytes(cls, data: _BytesLike) -> Self:
        """Read exactly one; raises `FileDecodeError`."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ForkRecord:
    """The signed descent of one entity from another."""

    __match_args__: Final = (
        "parent",
        "child",
        "fork_sequence",
        "parent_digest",
        "from_snapshot_sequence",
        "signer",
        "signatures",
    )
    def __new__(
        cls,
        parent: EntityId,
        child: EntityId,
        fork_sequence: int,
        parent_digest: _BytesLike,
        from_snapshot_sequence: int | None,
        signer: EntityId,
        signatures: tuple[_BytesLike, _BytesLike],
    ) -> Self: ...
    @property
    def parent(self) -> EntityId:
        """The entity that was forked."""
    @property
    def child(self) -> EntityId:
        """The entity that came of it."""
    @property
    def fork_sequence(self) -> int:
        """Position of the parent's chain after which it was forked."""
    @property
    def parent_digest(self) -> bytes:
        """Digest of the parent's chain there."""
    @property
    def from_snapshot_sequence(self) -> int | None:
        """Position of the snapshot that the child began with, if with one."""
    @property
    def signer(self) -> EntityId:
        """The parent, or an operator."""
    @property
    def signatures(self) -> tuple[bytes, bytes]:
        """Of the signer and of the child."""
    def verify(self) -> None:
        """Check both signatures and the genesis of the child; raises `BadSignature`."""
    def to_bytes(self) -> bytes:
        """Return its form on the wire."""
    @classmethod
    def from_bytes(cls, data: _BytesLike) -> Self:
        """Read and verify exactly one; raises `ChainError`."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def fork_entity(
    parent: Identity, fork_sequence: int, parent_digest: _BytesLike, *, from_snapshot_sequence: int | None = None
) -> tuple[Identity, ForkRecord, CausalChainBuilder]:
    """Make a fresh identity with signed descent, and the builder of its chain.

    Raises `IdentityError` of kind "read_only" for a public-only parent.
    """

@final
class OwnerSpan:
    """One node's time as the speaker of a chain."""

    __match_args__: Final = ()
    def __new__(
        cls, *, node: EntityId, epoch: int, first_sequence: int, last_sequence: int, rolled_back_from: int | None
    ) -> Self: ...
    @property
    def node(self) -> EntityId:
        """Who spoke."""
    @property
    def epoch(self) -> int:
        """In which term."""
    @property
    def first_sequence(self) -> int:
        """First event of the span."""
    @property
    def last_sequence(self) -> int:
        """Last event of the span."""
    @property
    def rolled_back_from(self) -> int | None:
        """Sequence from which the next record declared this span rolled back."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ChainReport:
    """What a chain proves."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        entity_id: EntityId,
        events: int,
        first_sequence: int,
        last_sequence: int,
        signed_through: int,
        digest: _BytesLike,
        owners: tuple[OwnerSpan, ...],
    ) -> Self: ...
    @property
    def entity_id(self) -> EntityId:
        """Whose chain it is."""
    @property
    def events(self) -> int:
        """How many events were checked."""
    @property
    def first_sequence(self) -> int:
        """Above 1 when older outputs were not retained; then the first checkpoint vouches for them."""
    @property
    def last_sequence(self) -> int:
        """The last event."""
    @property
    def signed_through(self) -> int:
        """Highest sequence that a signed checkpoint covers."""
    @property
    def digest(self) -> bytes:
        """Digest of the chain at its end."""
    @property
    def owners(self) -> tuple[OwnerSpan, ...]:
        """Who spoke for it, oldest first."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def verify(
    events: Iterable[CausalEvent],
    checkpoints: Iterable[Checkpoint],
    certificates: Iterable[Certificate],
    entity_id: EntityId,
) -> ChainReport:
    """Check a chain, oldest first, or a part of it that follows a checkpoint.

    Raises `ChainError` naming the first bad event.
    """

def verify_chain(file: str | PathLike[str], entity_id: EntityId, *, receipts: Iterable[Receipt] = ()) -> ChainReport:
    """Check a file of `export_chain` with the public key alone, and that the receipts fit.

    Raises `ChainError` naming the first bad event, and `OSError` when the file cannot be read.
    """

@final
class Receipt:
    """The acknowledgement of one event: it took effect, there, and left the chain like this."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        origin_hash: _OriginHash,
        epoch: int,
        processed: int,
        sequence: int,
        head: _BytesLike,
        event_origin: _OriginHash,
        event_sequence: int,
        duplicate: bool = False,
    ) -> Self: ...
    @property
    def origin_hash(self) -> _OriginHash:
        """The daemon that processed the event."""
    @property
    def epoch(self) -> int:
        """Term of ownership of the daemon."""
    @property
    def processed(self) -> int:
        """Events the daemon had processed since it began, this one included."""
    @property
    def sequence(self) -> int:
        """Position of its chain afterwards."""
    @property
    def head(self) -> bytes:
        """32-byte digest of its chain afterwards."""
    @property
    def event_origin(self) -> _OriginHash:
        """Who emitted the event."""
    @property
    def event_sequence(self) -> int:
        """Its number there."""
    @property
    def duplicate(self) -> bool:
        """Whether it took effect at an earlier try; the other values are those of that try. Not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- channels: who may use them

@final
class ChannelPolicy:
    """How a node keeps one of its channels. Raises `ConfigError`."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        requires_token: bool = False,
        roots: frozenset[EntityId] = ...,
        retain_bytes_max: int = 67_108_864,
        payload_bytes_max: int = 16_777_216,
    ) -> Self: ...
    @property
    def requires_token(self) -> bool:
        """Whether subscribers, and publishers on other nodes, need a token, and payloads are encrypted."""
    @property
    def roots(self) -> frozenset[EntityId]:
        """Issuers of tokens trusted besides the node's own key."""
    @property
    def retain_bytes_max(self) -> int:
        """Bytes kept for subscribers that fell behind; what is older is a counted gap to them."""
    @property
    def payload_bytes_max(self) -> int:
        """Bytes of the largest payload."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class PermissionToken:
    """A signed, scoped, expiring permission of one subject, with the delegations it stands on."""

    @classmethod
    def issue(
        cls,
        issuer: Identity,
        *,
        subject: EntityId,
        channel: ChannelName | None,
        rights: Collection[Right],
        ttl: timedelta,
        delegations: int = 0,
    ) -> Self:
        """Sign a root token, 1 s to 365 days long; `channel=None`: every channel. Raises `TokenError`."""
    def delegate(
        self, holder: Identity, *, subject: EntityId, rights: Collection[Right] | None = None
    ) -> PermissionToken:
        """Pass on all or some rights, with the same expiry; `holder` is this token's subject. Raises `TokenError`."""
    def verify(
        self,
        *,
        roots: Iterable[EntityId],
        right: Right,
        channel: ChannelName,
        presenter: EntityId,
        now: datetime | None = None,
    ) -> None:
        """Check the whole chain as a publisher does; raises `TokenError`."""
    def to_bytes(self) -> bytes:
        """Return it and what it stands on as bytes."""
    @classmethod
    def from_bytes(cls, data: _BytesLike) -> Self:
        """Read a token and what it stands on; raises `TokenError` of kind "invalid_format"."""
    @property
    def issuer(self) -> EntityId:
        """Who signed it."""
    @property
    def subject(self) -> EntityId:
        """Who may."""
    @property
    def channel(self) -> ChannelName | None:
        """The one channel it is for, not those below it; `None`: every channel."""
    @property
    def rights(self) -> frozenset[Right]:
        """What it permits."""
    @property
    def not_before(self) -> datetime:
        """The first instant at which it is valid."""
    @property
    def not_after(self) -> datetime:
        """The first instant at which it is expired."""
    @property
    def delegations(self) -> int:
        """How many times it may still be passed on."""
    @property
    def parents(self) -> tuple[PermissionToken, ...]:
        """The tokens it stands on, root first."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- snapshot

@final
class StateSnapshot:
    """One daemon at one position: state, chain head, cursors, receipts and subscriptions, closed by a digest."""

    @classmethod
    def from_bytes(cls, data: _BytesLike, *, bytes_max: int = 17179869184) -> Self:
        """Read one back, strictly, of at most `bytes_max` bytes; raises `SnapshotDecodeError`."""
    def to_bytes(self) -> bytes:
        """Return its form on the wire."""
    @property
    def kind(self) -> str:
        """Name under which the daemon's class is registered."""
    @property
    def schema(self) -> int:
        """Version of the state's format."""
    @property
    def entity_id(self) -> EntityId:
        """The daemon's key."""
    @property
    def origin_hash(self) -> _OriginHash:
        """The daemon's handle."""
    @property
    def epoch(self) -> int:
        """Term of ownership in which it was taken."""
    @property
    def sequence(self) -> int:
        """Position of the daemon's own chain."""
    @property
    def processed(self) -> int:
        """Events processed since the daemon began."""
    @property
    def head_link(self) -> CausalLink:
        """The last link of the daemon's chain."""
    @property
    def head_digest(self) -> bytes:
        """32 bytes that commit to the daemon's whole chain."""
    @property
    def cursors(self) -> Mapping[_OriginHash, int]:
        """Highest sequence processed of direct sends and deliveries, by origin; read only."""
    @property
    def state(self) -> bytes:
        """What the daemon's `snapshot` returned."""
    @property
    def taken_at(self) -> datetime:
        """When it was taken, by the node's wall clock, in UTC."""
    def __len__(self) -> int:
        """Return the encoded size in bytes."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- daemon

@final
class DaemonRef:
    """Names a daemon: `id` decides; `name` is for people and is not compared."""

    __match_args__: Final = ("id", "name")
    def __new__(cls, id: _OriginHash, name: str = "") -> Self: ...
    @property
    def id(self) -> _OriginHash:
        """The daemon's handle."""
    @property
    def name(self) -> str:
        """Its label."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Healthy:
    """Working."""

    __match_args__: Final = ()
    def __new__(cls) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Degraded:
    """Working, but not well."""

    __match_args__: Final = ("reason",)
    def __new__(cls, reason: str) -> Self: ...
    @property
    def reason(self) -> str:
        """What is wrong."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Unhealthy:
    """Alive, but not working; that is not a crash."""

    __match_args__: Final = ("reason",)
    def __new__(cls, reason: str = "") -> Self: ...
    @property
    def reason(self) -> str:
        """What is wrong; may be empty."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

_Health: TypeAlias = Healthy | Degraded | Unhealthy

@final
class DaemonHostConfig:
    """How one daemon is kept."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        auto_snapshot_interval: int = 0,
        max_log_entries: int = 10000,
        delivery: Literal["once", "at_least_once"] = "once",
        on_error: Literal["raise", "restore"] = "raise",
        durability: Literal["none", "snapshot", "journal"] = "none",
        on_divergence: Literal["stop", "continue", "snapshot_every_event"] = "stop",
        attempts_max: int = 5,
        snapshots_max: int = 2,
        outputs_max: int = 10000,
        outputs_bytes_max: int = 67108864,
        outputs_age_max: timedelta | None = None,
    ) -> Self:
        """Raise `ConfigError` for an option out of range."""
    @property
    def auto_snapshot_interval(self) -> int:
        """Events between snapshots that are taken on their own; 0: none."""
    @property
    def max_log_entries(self) -> int:
        """Inputs kept since the newest snapshot when `on_error` is "restore"; one more forces a snapshot first."""
    @property
    def delivery(self) -> Literal["once", "at_least_once"]:
        """What happens to a number seen before."""
    @property
    def on_error(self) -> Literal["raise", "restore"]:
        """State after a raise: as user code left it, or rebuilt from the newest snapshot and the inputs since."""
    @property
    def durability(self) -> Literal["none", "snapshot", "journal"]:
        """What of it outlives the process: nothing; the newest snapshot; or everything, kept before it is acknowledged."""
    @property
    def on_divergence(self) -> Literal["stop", "continue", "snapshot_every_event"]:
        """What becomes of it, under "journal", when it does not do again what it did: it does not start, goes on from
        what it emitted, or is never asked to, since a snapshot is kept with every event.
        """
    @property
    def attempts_max(self) -> int:
        """Tries at an event that nobody waits for, before it is passed over and becomes a dead letter. At least 1."""
    @property
    def snapshots_max(self) -> int:
        """Newest snapshots that a store keeps; all but the newest are there in case that it is damaged. At least 1."""
    @property
    def outputs_max(self) -> int:
        """Outputs kept for export; older ones are dropped, and the export begins after them."""
    @property
    def outputs_bytes_max(self) -> int:
        """Payload bytes of the outputs kept for export."""
    @property
    def outputs_age_max(self) -> timedelta | None:
        """Outputs older than this are not kept for export; `None`: age does not matter."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DaemonStats:
    """Counters of one daemon since it began; they move with it."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        events_processed: int,
        events_emitted: int,
        duplicates: int,
        errors: int,
        snapshots_taken: int,
        restarts: int,
        dead_letters: int = 0,
    ) -> Self: ...
    @property
    def events_processed(self) -> int:
        """Events that took effect."""
    @property
    def events_emitted(self) -> int:
        """Events appended to its chain."""
    @property
    def duplicates(self) -> int:
        """Events that had taken effect before, and changed nothing."""
    @property
    def errors(self) -> int:
        """Failures of user code: in `process`, `snapshot`, `health`, `saturation` or `on_control`."""
    @property
    def snapshots_taken(self) -> int:
        """Snapshots taken."""
    @property
    def restarts(self) -> int:
        """Times that it was rebuilt, or continued from an older snapshot."""
    @property
    def dead_letters(self) -> int:
        """Events that failed too often and were passed over."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class SubscriptionBinding:
    """One entry of a daemon's ledger of subscriptions; it moves with the daemon."""

    __match_args__: Final = ("publisher", "channel", "token", "queue_group")
    def __new__(
        cls, publisher: _NodeId, channel: str, token: _BytesLike | None = None, queue_group: str | None = None
    ) -> Self:
        """Raise `ChannelNameError`, or `InvalidArgument` for a token above 65535 bytes."""
    @property
    def publisher(self) -> _NodeId:
        """The node that publishes."""
    @property
    def channel(self) -> ChannelName:
        """What it publishes there."""
    @property
    def token(self) -> bytes | None:
        """What permits to subscribe."""
    @property
    def queue_group(self) -> ChannelName | None:
        """The queue group whose member the daemon is."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DaemonBindings:
    """A frozen view of a ledger."""

    __match_args__: Final = ("subscriptions",)
    def __new__(cls, subscriptions: Iterable[SubscriptionBinding] = ()) -> Self:
        """Raise `InvalidArgument` when a channel of a node is there twice."""
    @property
    def subscriptions(self) -> tuple[SubscriptionBinding, ...]:
        """The entries, ordered by publisher and channel."""
    def to_bytes(self) -> bytes:
        """Return its form on the wire; an empty ledger is no bytes."""
    @classmethod
    def from_bytes(cls, data: _BytesLike) -> Self:
        """Read strictly; raises `FileDecodeError`."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- events

_Signal: TypeAlias = Registered | Unregistered | PassedOver | DaemonLifecycleSignal

@final
class DaemonLifecycleEvent:
    """Something happened to a daemon; `number` rises by one with each event of a registry."""

    __match_args__: Final = ("daemon", "signal", "at", "number")
    def __new__(cls, daemon: DaemonRef, signal: _Signal, at: datetime, number: int) -> Self:
        """Raise `InvalidArgument` unless `at` is aware, and not before 1970."""
    @property
    def daemon(self) -> DaemonRef:
        """Whom it happened to."""
    @property
    def signal(self) -> _Signal:
        """What happened."""
    @property
    def at(self) -> datetime:
        """When, by the node's wall clock, in UTC."""
    @property
    def number(self) -> int:
        """Position in the registry's sequence of events, from 1."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- control

@final
class Shutdown:
    """Finish in-flight work and leave within `grace`; after `deadline` the daemon is stopped."""

    __match_args__: Final = ("grace", "deadline")
    kind: ClassVar[Literal["shutdown"]]
    def __new__(cls, grace: timedelta, deadline: datetime) -> Self:
        """Raise `InvalidArgument` for a negative `grace`, and a `deadline` that is naive or before 1970."""
    @property
    def grace(self) -> timedelta:
        """Time left when the call was made."""
    @property
    def deadline(self) -> datetime:
        """By the node's wall clock, in UTC."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DrainStart:
    """Take no new work on; what is in flight may go on for `grace`."""

    __match_args__: Final = ("grace", "deadline")
    kind: ClassVar[Literal["drain_start"]]
    def __new__(cls, grace: timedelta, deadline: datetime) -> Self:
        """Raise `InvalidArgument` for a negative `grace`, and a `deadline` that is naive or before 1970."""
    @property
    def grace(self) -> timedelta:
        """Time left when the call was made."""
    @property
    def deadline(self) -> datetime:
        """By the node's wall clock, in UTC."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DrainFinish:
    """Leave now; abandoning work is allowed."""

    __match_args__: Final = ()
    kind: ClassVar[Literal["drain_finish"]]
    def __new__(cls) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Resume:
    """The drain was called off, or the node is back in service."""

    __match_args__: Final = ()
    kind: ClassVar[Literal["resume"]]
    def __new__(cls) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class BackpressureOn:
    """Shrink optional work in proportion to `level`, 0 to 1."""

    __match_args__: Final = ("level",)
    kind: ClassVar[Literal["backpressure_on"]]
    def __new__(cls, level: float) -> Self:
        """Raise `InvalidArgument` unless `level` is from 0 to 1."""
    @property
    def level(self) -> float:
        """0 (none) to 1 (stop all optional work)."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class BackpressureOff:
    """Go on as usual."""

    __match_args__: Final = ()
    kind: ClassVar[Literal["backpressure_off"]]
    def __new__(cls) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- events and outputs

@final
class CausalEvent:
    """A payload with its link: what `process` is given, and what its outputs become."""

    __match_args__: Final = ("link", "payload")
    def __new__(cls, link: CausalLink, payload: _BytesLike) -> Self: ...
    @staticmethod
    def external(origin_hash: int, sequence: int, payload: _BytesLike) -> CausalEvent:
        """Make an event from outside the mesh: no parent, no horizon, `sequence` from 1; raises `InvalidArgument` for 0."""
    @property
    def link(self) -> CausalLink: ...
    @property
    def payload(self) -> bytes:
        """The very object it was made with, if that was `bytes`."""
    @property
    def origin_hash(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    @property
    def channel(self) -> ChannelName | None:
        """The channel that it came from; `None`: it was sent to the daemon."""
    @property
    def publisher(self) -> int | None:
        """The node that published it on that channel."""
    @property
    def received_at(self) -> datetime:
        """When this node took it in, in UTC; in no digest, and not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Output:
    """One emitted payload; it always goes to the daemon's chain. Give `channel` or `to`, not both."""

    __match_args__: Final = ("payload",)
    def __new__(
        cls, payload: _BytesLike, *, channel: ChannelName | None = None, to: OriginHash | None = None
    ) -> Self: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def channel(self) -> ChannelName | None:
        """Also publish it there."""
    @property
    def to(self) -> OriginHash | None:
        """Also send it to that daemon, exactly once, wherever it lives."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- the node and its runtime

@final
class StoreStats:
    """How much a store holds."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        daemons: int,
        journal_bytes: int,
        snapshot_bytes: int,
        file_bytes: int,
        commits: int,
        dead_letters: int,
    ) -> Self: ...
    @property
    def daemons(self) -> int:
        """Daemons that it has."""
    @property
    def journal_bytes(self) -> int:
        """Bytes of commits that are not in the tree yet."""
    @property
    def snapshot_bytes(self) -> int:
        """Bytes of its snapshots."""
    @property
    def file_bytes(self) -> int:
        """Bytes of all its files."""
    @property
    def commits(self) -> int:
        """Commits since it was made."""
    @property
    def dead_letters(self) -> int:
        """Events that its daemons passed over."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

_Letter: TypeAlias = tuple[int, CausalEvent, int, str, str, int, bool]

def _mesh_probes(mesh: Mesh) -> ProbeRegistry: ...
def _mesh_inject(mesh: Mesh, frame: BytesLike) -> None: ...
def _mesh_pause(mesh: Mesh, paused: bool) -> None: ...
def _ownership_post(mesh: Mesh, to: EntityId, body: BytesLike) -> bool: ...
def _verify_store(path: str | PathLike[str]) -> tuple[int, int, int, int, int, int]: ...
def _inspect_store(
    path: str | PathLike[str],
) -> tuple[
    EntityId,
    StoreStats,
    int,
    list[
        tuple[
            EntityId,
            tuple[str, str | None, bool],
            tuple[int, int, bytes],
            tuple[int, int],
            tuple[int, int, int, int],
            int,
        ]
    ],
]: ...
def _stored_letters(path: str | PathLike[str]) -> list[tuple[int, _Letter]]: ...
def _settle_stored_letter(path: str | PathLike[str], origin_hash: int, number: int, retry: bool) -> None: ...

_Anchor: TypeAlias = Literal["genesis", "fork", "certificate", "checkpoint"]

@final
class Span:
    """One node's time as the speaker of a chain, with the digests at both ends."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        epoch: int,
        node: EntityId,
        reason: _Reason,
        from_sequence: int,
        from_digest: _BytesLike,
        to_sequence: int,
        to_digest: _BytesLike,
        rolled_back_from: int | None,
    ) -> Self: ...
    @property
    def epoch(self) -> int:
        """Term of ownership."""
    @property
    def node(self) -> EntityId:
        """Who spoke."""
    @property
    def reason(self) -> _Reason:
        """Why it began."""
    @property
    def from_sequence(self) -> int:
        """Last event before it."""
    @property
    def from_digest(self) -> bytes:
        """Digest of the chain there."""
    @property
    def to_sequence(self) -> int:
        """Last of its events that stands; `from_sequence` if none does."""
    @property
    def to_digest(self) -> bytes:
        """Digest of the chain there."""
    @property
    def rolled_back_from(self) -> int | None:
        """Sequence from which the next record declared this span rolled back."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Continuous:
    """A chain is whole, and certain."""

    __match_args__: Final = ("genesis", "head_sequence", "head_digest", "anchor", "anchored_at", "signed_through")
    kind: ClassVar[Literal["continuous"]]
    def __new__(
        cls,
        genesis: _BytesLike,
        head_sequence: int,
        head_digest: _BytesLike,
        anchor: _Anchor,
        anchored_at: int,
        signed_through: int,
    ) -> Self: ...
    @property
    def genesis(self) -> bytes:
        """Digest before its first event."""
    @property
    def head_sequence(self) -> int:
        """Its last event."""
    @property
    def head_digest(self) -> bytes:
        """Digest there."""
    @property
    def anchor(self) -> _Anchor:
        """What makes it certain."""
    @property
    def anchored_at(self) -> int:
        """Where that is."""
    @property
    def signed_through(self) -> int:
        """Highest sequence that a checkpoint covers; 0 if none does."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Migrated:
    """A chain is whole and certain, and a node handed it on to another."""

    __match_args__: Final = (
        "genesis",
        "head_sequence",
        "head_digest",
        "anchor",
        "anchored_at",
        "signed_through",
        "epoch",
        "sequence",
        "source",
        "target",
    )
    kind: ClassVar[Literal["migrated"]]
    def __new__(
        cls,
        genesis: _BytesLike,
        head_sequence: int,
        head_digest: _BytesLike,
        anchor: _Anchor,
        anchored_at: int,
        signed_through: int,
        epoch: int,
        sequence: int,
        source: EntityId,
        target: EntityId,
    ) -> Self: ...
    @property
    def genesis(self) -> bytes:
        """Digest before its first event."""
    @property
    def head_sequence(self) -> int:
        """Its last event."""
    @property
    def head_digest(self) -> bytes:
        """Digest there."""
    @property
    def anchor(self) -> _Anchor:
        """What makes it certain."""
    @property
    def anchored_at(self) -> int:
        """Where that is."""
    @property
    def signed_through(self) -> int:
        """Highest sequence that a checkpoint covers; 0 if none does."""
    @property
    def epoch(self) -> int:
        """Term that began with the newest change of nodes."""
    @property
    def sequence(self) -> int:
        """Last event before that."""
    @property
    def source(self) -> EntityId:
        """Who spoke before."""
    @property
    def target(self) -> EntityId:
        """Who spoke after."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Forked:
    """A chain is another one from an event on."""

    __match_args__: Final = ("sequence", "expected", "found")
    kind: ClassVar[Literal["forked"]]
    def __new__(cls, sequence: int, expected: _BytesLike, found: _BytesLike) -> Self: ...
    @property
    def sequence(self) -> int:
        """First event of which two histories are told; 0: their beginnings differ."""
    @property
    def expected(self) -> bytes:
        """Digest that should be there: before the event, or after it where a signed record names it."""
    @property
    def found(self) -> bytes:
        """Digest that is there."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Unverifiable:
    """Events of a chain are missing, so it cannot be said."""

    __match_args__: Final = ("last_verified", "gap_start")
    kind: ClassVar[Literal["unverifiable"]]
    def __new__(cls, last_verified: int, gap_start: int) -> Self: ...
    @property
    def last_verified(self) -> int:
        """Everything up to it is certain; 0: nothing is."""
    @property
    def gap_start(self) -> int:
        """First event that is missing."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class LogEvents:
    """Events of a log, in order, read in pages as they are asked for. Their `received_at` is when they were read.

    Raises `StoreError` of kind "corrupt" with the place of what is damaged, `BrokenLink` of kind "gap" for an event that
    was let go meanwhile; then it ends.
    """

    def __iter__(self) -> Self: ...
    def __next__(self) -> CausalEvent: ...

@final
class EntityLog:
    """What one entity emitted, as a store has it at each call. Calls raise `StoreError`, with the place of damage."""

    @property
    def entity_id(self) -> EntityId:
        """Whose it is."""
    @property
    def origin_hash(self) -> int:
        """The handle of the entity."""
    @property
    def base_sequence(self) -> int:
        """Last event before the first that it has; 0 unless older ones were let go."""
    @property
    def base_digest(self) -> bytes:
        """Digest of the chain there."""
    @property
    def head_sequence(self) -> int:
        """Its last event; `base_sequence` if it has none."""
    @property
    def head_digest(self) -> bytes:
        """Digest of the chain there."""
    def event(self, sequence: int) -> CausalEvent | None:
        """Return the event of a sequence; `None`: it does not have it."""
    def digest_at(self, sequence: int) -> bytes | None:
        """Return the digest of the chain after an event, or at the base; `None`: it does not know it."""
    def range(self, first: int, last: int) -> LogEvents:
        """Return the events from `first` to `last`, both included, as far as it has them now."""
    def after(self, sequence: int) -> LogEvents:
        """Return the events behind `sequence` that it has now."""
    def assess(self) -> Continuity:
        """Hash every event, and say whether the chain is whole and what makes that certain.

        Raises `ChainError` for a certificate or a checkpoint that does not hold.
        """
    @property
    def spans(self) -> tuple[Span, ...]:
        """Who spoke for the entity, by ascending epoch; empty as long as nothing is signed. Raises as `assess`."""
    def prune(self, through: int) -> int:
        """Let every event up to `through` go, in one commit, and return how many went.

        Raises `PruneRefused` where nothing signed vouches for what stays or where it is needed, `StoreError` of kind
        "locked" while a runtime uses the store.
        """

@final
class LogIndex:
    """The logs of a store, by the public keys of their entities. Iterating gives those, ascending."""

    def get(self, entity_id: EntityId, *, fork: ForkRecord | None = None) -> EntityLog | None:
        """Return the log of an entity; `None`: the store does not know it. `fork` says where the chain of a fork begins.

        Raises `InvalidArgument` for the record of another fork, `BadSignature` for one that does not hold.
        """
    def find(self, origin_hash: int) -> tuple[EntityLog, ...]:
        """Return the logs of all entities with this handle; more than one only if two keys share it."""
    def __iter__(self) -> Iterator[EntityId]: ...
    def __len__(self) -> int: ...
    def __contains__(self, entity_id: EntityId, /) -> bool: ...
    def close(self) -> None:
        """Close the folder, if `open_logs` opened it; a `Store` stays open. Does nothing the second time."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

def open_logs(path: str | PathLike[str]) -> LogIndex:
    """Open the folder of a store for its logs; it needs no key, and calls no user code. Close it afterwards.

    Raises `StoreError`, of kind "locked" while a process has it open.
    """

@final
class Store:
    """One node's memory, durable before anything is acknowledged. One process at a time; close it after what uses it."""

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        create: bool = True,
        identity: Identity | None = None,
        sync: Literal["always", "never_for_tests"] = "always",
    ) -> Self:
        """Open or make a folder, private to its user; without `identity` it makes and keeps the node's key.

        Raises `StoreError`, `IdentityError` for a public-only identity.
        """
    @classmethod
    def memory(cls) -> Self:
        """Make a store that forgets at exit: what a mesh has by default."""
    @property
    def node_id(self) -> int:
        """Whose it is."""
    @property
    def is_durable(self) -> bool:
        """Whether what it keeps outlives the process."""
    @property
    def path(self) -> str | None:
        """Its folder; `None` in memory."""
    def stats(self) -> StoreStats:
        """Count what it holds; raises `StoreError`."""
    def logs(self) -> LogIndex:
        """Return the logs of its daemons; they work as long as it is open."""
    def verify(self) -> None:
        """Check every page, and every snapshot that is named; raises `StoreError` with the place."""
    def close(self) -> None:
        """Close it; raises `StoreError` of kind "locked" while a runtime uses it. Does nothing the second time."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class OwnershipRecord:
    """Who owns a daemon from an event on, bound to the record before: what nodes go by. `certificate` is for strangers."""

    @classmethod
    def from_bytes(cls, data: _BytesLike) -> Self:
        """Read exactly one; raises `FileDecodeError`. Signatures are not checked."""
    def to_bytes(self) -> bytes:
        """Return its form on the wire."""
    def verify(self, previous: OwnershipRecord | None = None, *, authorities: Sequence[EntityId] | None = None) -> None:
        """Check that it follows on `previous`, or on nothing, and that one who may signed it; raises `BadSignature`.

        Takeovers may also be signed by one of `authorities`: the key of the directory's node.
        """
    @property
    def certificate(self) -> Certificate:
        """Who speaks in the term, from which event on, and why."""
    @property
    def entity_id(self) -> EntityId:
        """The daemon."""
    @property
    def origin_hash(self) -> _OriginHash:
        """Its handle."""
    @property
    def epoch(self) -> int:
        """Term of ownership, from 1."""
    @property
    def node(self) -> EntityId:
        """Key of the owner."""
    @property
    def node_id(self) -> _NodeId:
        """The owner."""
    @property
    def reason(self) -> _Reason:
        """What began the term."""
    @property
    def from_sequence(self) -> int:
        """Position after which the owner emits."""
    @property
    def previous(self) -> bytes:
        """Digest of the record before; 32 zero bytes for a spawn."""
    @property
    def source(self) -> EntityId | None:
        """Key of the owner before; `None` for a spawn."""
    @property
    def migration_id(self) -> bytes | None:
        """The move that made it."""
    @property
    def digest(self) -> bytes:
        """Its own digest: the `previous` of the next."""
    @property
    def signature(self) -> bytes:
        """64 bytes."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class OwnershipDirectory:
    """Which node owns which daemon of a mesh, as the one node that has the directory knows it. Daemons that were stopped are in it."""

    @property
    def node_id(self) -> _NodeId:
        """The node that has it."""
    def owner(self, origin_hash: _OriginHash) -> OwnershipRecord | None:
        """Return the newest record of a daemon."""
    def lineage(self, origin_hash: _OriginHash) -> tuple[OwnershipRecord, ...]:
        """Return all records of a daemon, the oldest first; raises `StoreError`."""
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[int]: ...
    def __contains__(self, origin_hash: _OriginHash, /) -> bool: ...

@final
class OwnershipStats:
    """What became of requests between owners and the directory, at one node."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        held: int,
        lapses: int,
        fenced: int,
        late: int,
        refused_malformed: int,
        refused_stranger: int,
        refused_forged: int,
        granted: int,
        lower: int,
        withheld: int,
        foreign: int,
        full: int,
        failed: int,
    ) -> Self: ...
    @property
    def held(self) -> int:
        """Daemons here whose leases are renewed."""
    @property
    def lapses(self) -> int:
        """Leases that ran out here, and came back."""
    @property
    def fenced(self) -> int:
        """Daemons that were stopped here, since another node owns them."""
    @property
    def late(self) -> int:
        """Answers that came late or twice."""
    @property
    def refused_malformed(self) -> int:
        """Messages that cannot be read."""
    @property
    def refused_stranger(self) -> int:
        """Messages of nodes that have no say."""
    @property
    def refused_forged(self) -> int:
        """Messages with signatures that do not fit."""
    @property
    def granted(self) -> int:
        """Leases that the directory here granted."""
    @property
    def lower(self) -> int:
        """Requests to it under a record that is not the highest."""
    @property
    def withheld(self) -> int:
        """Requests to it that were not answered, since a write or a takeover was under way."""
    @property
    def foreign(self) -> int:
        """Requests to it of a node that the record does not name."""
    @property
    def full(self) -> int:
        """Requests to it that were refused, since there were too many daemons."""
    @property
    def failed(self) -> int:
        """Its writes that failed, and were tried again."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Peer:
    """Another node, as this one sees it."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        node_id: _NodeId,
        entity_id: EntityId,
        state: Literal["alive", "suspect", "dead"],
        last_heard_at: datetime,
        rtt: timedelta | None,
        capabilities: CapabilitySet,
    ) -> Self: ...
    @property
    def node_id(self) -> _NodeId:
        """Its handle."""
    @property
    def entity_id(self) -> EntityId:
        """Its key."""
    @property
    def state(self) -> Literal["alive", "suspect", "dead"]:
        """How it looks."""
    @property
    def last_heard_at(self) -> datetime:
        """When its last heartbeat was heard."""
    @property
    def rtt(self) -> timedelta | None:
        """The last round trip measured."""
    @property
    def capabilities(self) -> CapabilitySet:
        """What it offers."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MeshStats:
    """What happened at a node since it joined."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        beats_sent: int,
        beats_heard: int,
        stalls: int,
        peers_replaced: int,
        refused_full: int,
        refused_malformed: int,
        refused_other_mesh: int,
        refused_not_for_us: int,
        refused_ourselves: int,
        refused_unknown_sender: int,
        refused_other_run: int,
        refused_unknown_kind: int,
        refused_bad_seal: int,
        refused_replayed: int,
        refused_too_late: int,
        refused_crowded: int,
    ) -> Self: ...
    @property
    def beats_sent(self) -> int:
        """Heartbeats that it sent."""
    @property
    def beats_heard(self) -> int:
        """Heartbeats that it took."""
    @property
    def stalls(self) -> int:
        """Times that it was held up for so long that it could not judge others."""
    @property
    def peers_replaced(self) -> int:
        """Dead peers that gave way to new ones."""
    @property
    def refused_full(self) -> int:
        """Frames for which there was no place."""
    @property
    def refused_malformed(self) -> int:
        """Frames that could not be read."""
    @property
    def refused_other_mesh(self) -> int:
        """Frames of another mesh."""
    @property
    def refused_not_for_us(self) -> int:
        """Frames for another node."""
    @property
    def refused_ourselves(self) -> int:
        """Frames that named this node as their sender."""
    @property
    def refused_unknown_sender(self) -> int:
        """Frames of nobody in this mesh."""
    @property
    def refused_other_run(self) -> int:
        """Frames of an earlier start of their sender."""
    @property
    def refused_unknown_kind(self) -> int:
        """Frames that nobody takes."""
    @property
    def refused_bad_seal(self) -> int:
        """Frames that were altered, or that another node made."""
    @property
    def refused_replayed(self) -> int:
        """Frames that were taken before."""
    @property
    def refused_too_late(self) -> int:
        """Frames that were too late to know whether they were taken before."""
    @property
    def refused_crowded(self) -> int:
        """Heartbeats of more nodes than are looked after."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ChannelMessage:
    """One payload on a channel."""

    __match_args__: Final = ("channel", "publisher", "sequence", "payload", "origin_hash")
    def __new__(
        cls, channel: str, publisher: int, sequence: int, payload: BytesLike, origin_hash: int | None
    ) -> Self: ...
    @property
    def channel(self) -> ChannelName: ...
    @property
    def publisher(self) -> int: ...
    @property
    def sequence(self) -> int:
        """Number at this publisher on this channel."""
    @property
    def payload(self) -> bytes: ...
    @property
    def origin_hash(self) -> int | None:
        """The daemon that emitted it; `None`: the node itself."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ChannelReader:
    """Where the items of a stream of a channel come from."""

    def take_many(self, timeout: timedelta) -> list[ChannelMessage | Gap]: ...
    def when_there(self, wake: Callable[[], object]) -> bool: ...
    def close(self) -> None: ...

@final
class Mesh:
    """One node, alone or among others. Its key never leaves the extension; no method signs with it."""

    @staticmethod
    def local(*, store: Store | None = None, identity: Identity | None = None) -> Mesh:
        """Make a node of its own, with the key of its store, the given one, or a fresh one.

        Without a store it has one in memory. Raises `IdentityError` for a public-only identity, `InvalidArgument` for
        another one than the store's.
        """
    @staticmethod
    def local_cluster(nodes: int, *, stores: Sequence[Store] | None = None) -> tuple[Mesh, ...]:
        """Make nodes of this process that are connected, each with its store, or one in memory.

        Raises `ConfigError` for less than one or more than 4096 nodes, or another number of stores, `StoreError` for a
        store that is given twice.
        """
    @property
    def store(self) -> Store:
        """What it keeps."""
    @property
    def node_id(self) -> int: ...
    @property
    def entity_id(self) -> EntityId: ...
    def peers(self) -> Mapping[_NodeId, Peer]:
        """Return the other nodes that were heard, as they look now; read only."""
    def wait_for_peer(self, node_id: _NodeId, *, timeout: timedelta | None) -> Peer:
        """Return once the peer is alive; raises `WaitTimeout`, `LoopClosed`."""
    def wait_for_peer_async(self, node_id: _NodeId, *, timeout: timedelta | None) -> Coroutine[object, None, Peer]:
        """Twin of `wait_for_peer`."""
    def announce(self, capabilities: CapabilitySet) -> None:
        """Say what this node offers, in place of what it said before.

        Raises `InvalidArgument` for more than fits a heartbeat, `LoopClosed`.
        """
    def open_channel(self, channel: ChannelName, policy: ChannelPolicy = ...) -> None:
        """Set the policy of a channel of this node; one that nobody opened is made on first use, open to the cluster.

        Whom the policy does not permit any more is told so. Raises `QueueFull` for more than 65,536 channels,
        `LoopClosed`.
        """
    def close_channel(self, channel: ChannelName) -> None:
        """End all subscriptions of a channel of this node, and drop its log and its policy."""
    def issue_token(
        self,
        subject: EntityId,
        channel: ChannelName,
        *,
        rights: Collection[Right],
        ttl: timedelta,
        delegations: int = 0,
    ) -> PermissionToken:
        """Permit something on a channel of this node, signed with its key; raises `TokenError`."""
    def revoke_tokens(self, subject: EntityId) -> None:
        """Take back all tokens of a subject that this node issued, and change the keys of the channels it could read.

        It waits until the store has that: no restart undoes it. Raises `StoreError`.
        """
    def publish(self, channel: ChannelName, payload: BytesLike) -> int:
        """Publish as this node; returns the message's number once its log has it.

        Raises `Backpressure` while as much waits to be sent as may, `InvalidArgument` for more bytes than the channel
        allows, `LoopClosed`.
        """
    def publish_async(self, channel: ChannelName, payload: BytesLike) -> Coroutine[object, None, int]:
        """Twin of `publish`."""
    def publish_to(
        self,
        publisher: _NodeId,
        channel: ChannelName,
        payload: BytesLike,
        token: PermissionToken | None = None,
        *,
        timeout: timedelta | None = ...,
    ) -> int:
        """Publish on a channel of another node, once, within 30 s; returns the message's number there.

        Its readers see this node as who emitted it. The subject of the token is this node. A payload for a gated channel
        is sealed on its way to readers, not on its way to the publisher. At most five minutes are waited.

        Raises `PublishRejected`, and `Unavailable` when there was no answer: it says whether it may have been published.
        """
    def publish_to_async(
        self,
        publisher: _NodeId,
        channel: ChannelName,
        payload: BytesLike,
        token: PermissionToken | None = None,
        *,
        timeout: timedelta | None = ...,
    ) -> Coroutine[object, None, int]:
        """Twin of `publish_to`."""
    def subscribe(
        self, publisher: _NodeId, channel: ChannelName, token: PermissionToken | None = None, *, buffer_max: int = 1024
    ) -> Stream[ChannelMessage | Gap]:
        """Read a channel without a daemon, in order, from now on.

        The subject of the token is this node. Raises `SubscribeRejected`, and `Unavailable` when the publisher does not
        answer within 5 s.
        """
    def subscribe_async(
        self, publisher: _NodeId, channel: ChannelName, token: PermissionToken | None = None, *, buffer_max: int = 1024
    ) -> Coroutine[object, None, Stream[ChannelMessage | Gap]]:
        """Twin of `subscribe`."""
    def directory(self) -> OwnershipDirectory | None:
        """Return which node owns which daemon, at the node that has that: the first of a cluster."""
    def ownership_stats(self) -> OwnershipStats:
        """Count what became of requests about ownership; all zero at a node that is alone."""
    def stats(self) -> MeshStats:
        """Count what happened at this node."""
    def close(self) -> None:
        """Leave: shuts down the runtime of this node, within 5 s. Does nothing the second time."""
    def close_async(self) -> Coroutine[object, None, None]:
        """Twin of `close`."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def __aenter__(self) -> Coroutine[object, None, Self]: ...
    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> Coroutine[object, None, None]: ...

@final
class FactoryEntry:
    """How one daemon is rebuilt."""

    __match_args__: Final = ("kind", "config", "has_key", "expected_orchestrator")
    def __new__(
        cls, kind: str, config: DaemonHostConfig, has_key: bool, expected_orchestrator: int | None = None
    ) -> Self: ...
    @property
    def kind(self) -> str: ...
    @property
    def config(self) -> DaemonHostConfig: ...
    @property
    def has_key(self) -> bool:
        """Whether this node has the daemon's secret key."""
    @property
    def expected_orchestrator(self) -> int | None:
        """The only node that may order that it comes here; `None`: any that may order moves."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DaemonFactoryRegistry:
    """How to make daemons, by kind."""

    def register(self, kind: str, factory: Callable[[], MeshDaemon]) -> None:
        """Add a kind; raises `FactoryAlreadyRegistered`, `InvalidDaemon` for a class that does not keep the contract."""
    def construct(self, kind: str) -> MeshDaemon:
        """Call the factory of a kind; raises `FactoryNotFound`, or `InvalidDaemon` with its exception as `__cause__`."""
    def kinds(self) -> frozenset[str]: ...
    def entry(self, origin_hash: int) -> FactoryEntry | None:
        """Tell how a daemon that is live here, or expected, is rebuilt; the options of an expected one may be its own."""
    def bind_expected_orchestrator(self, origin_hash: int, node: int) -> bool:
        """Accept a move of this daemon only when that node orders it; `False` if none is expected, or another node is bound.

        Any other order is refused as `NotPermitted`. It stays bound until the daemon came, or is removed.
        """
    def remove(self, origin_hash: int) -> None:
        """Expect this daemon no longer; does nothing if it is not expected. A move that has begun goes on."""

@final
class DaemonHandle:
    """Names a daemon that was spawned; dropping it does not stop the daemon."""

    @property
    def origin_hash(self) -> int: ...
    @property
    def entity_id(self) -> EntityId: ...
    @property
    def kind(self) -> str: ...
    @property
    def ref(self) -> DaemonRef: ...
    @property
    def stats(self) -> DaemonStats:
        """The counters as last known on this node; never waits."""
    def snapshot(self) -> StateSnapshot | None:
        """Do as `DaemonRuntime.snapshot`."""
    def snapshot_async(self) -> Coroutine[object, None, StateSnapshot | None]:
        """Twin of `snapshot`."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DaemonHost:
    """One daemon with its key, chain, horizon and ledger, and without a runtime: for embedding and tests. Calls never overlap."""

    def __new__(cls, daemon: MeshDaemon, keypair: Identity, config: DaemonHostConfig | None = None) -> Self:
        """Begin at genesis; raises `InvalidDaemon`."""
    @staticmethod
    def from_fork(
        daemon: MeshDaemon, keypair: Identity, chain: CausalChainBuilder, config: DaemonHostConfig | None = None
    ) -> DaemonHost:
        """Begin fresh on the chain of `fork_entity`; raises `RestoreFailed` when chain and key disagree."""
    @staticmethod
    def from_snapshot(
        daemon: MeshDaemon, keypair: Identity, snapshot: StateSnapshot, config: DaemonHostConfig | None = None
    ) -> DaemonHost:
        """Continue after `snapshot`; raises `SnapshotIdentityMismatch` or `RestoreFailed`, where it can tell before `restore` is called."""
    def deliver(self, event: CausalEvent) -> list[CausalEvent]:
        """Process one event and return its outputs, linked; `[]` for a duplicate. Raises `ProcessFailed`."""
    def take_snapshot(self) -> StateSnapshot | None:
        """Return state and head, `None` when the daemon has no state; raises `SnapshotFailed`."""
    def restore_from_snapshot(self, snapshot: StateSnapshot) -> None:
        """Take over the state of another host, and its chain head if it is of the same entity; all or nothing.

        Raises `RestoreFailed`, or `StaleSnapshot` when it is of the same entity and older than what this host did.
        """
    def record_subscription(self, publisher: int, channel: str, token: _BytesLike | None = None) -> None:
        """Add a ledger entry, or replace its token."""
    def forget_subscription(self, publisher: int, channel: str) -> None:
        """Remove a ledger entry; does nothing if there is none."""
    def bindings_snapshot(self) -> DaemonBindings: ...
    def requirements(self) -> CapabilityFilter: ...
    @property
    def subscription_count(self) -> int: ...
    @property
    def entity_id(self) -> EntityId: ...
    @property
    def origin_hash(self) -> int: ...
    @property
    def keypair(self) -> Identity: ...
    @property
    def name(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def head_link(self) -> CausalLink: ...
    @property
    def head_digest(self) -> bytes: ...
    @property
    def stats(self) -> DaemonStats: ...
    @property
    def config(self) -> DaemonHostConfig: ...

@final
class DaemonRegistry:
    """The daemons of one node. A call waits for the daemon it names, never for another."""

    def __new__(cls) -> Self: ...
    def register(self, host: DaemonHost) -> None:
        """Add a host; raises `AlreadyRegistered`."""
    def replace(self, host: DaemonHost) -> None:
        """Put a host in the place of the one with its key, or add it."""
    def unregister(self, origin_hash: int) -> None:
        """Remove a host, and do not wait for who is inside; raises `DaemonNotFound`."""
    def deliver(self, origin_hash: int, event: CausalEvent) -> list[CausalEvent]:
        """Do as `DaemonHost.deliver`; raises also `DaemonNotFound`, `StaleDaemon`."""
    def snapshot(self, origin_hash: int) -> StateSnapshot | None:
        """Do as `DaemonHost.take_snapshot`; raises also `DaemonNotFound`, `StaleDaemon`."""
    def restore_from_snapshot(self, origin_hash: int, snapshot: StateSnapshot) -> None:
        """Do as `DaemonHost.restore_from_snapshot`; raises also `DaemonNotFound`, `StaleDaemon`."""
    def with_host(self, origin_hash: int, function: Callable[[DaemonHost], _R]) -> _R:
        """Run `function` on a host, between two events: it may read, not deliver. Raises `DaemonNotFound`, `StaleDaemon`."""
    def stats(self, origin_hash: int) -> DaemonStats:
        """Return the counters; raises `DaemonNotFound`."""
    def control(self, origin_hash: int, control: DaemonControl) -> None:
        """Give a daemon a control, between two events; raises `CallbackFailed`, `DaemonNotFound`."""
    def poll(self) -> None:
        """Ask the daemons for health and load, and tell the observers what changed; one that is busy is asked the next time."""
    def daemons(self) -> tuple[DaemonRef, ...]: ...
    def count(self) -> int: ...
    def contains(self, origin_hash: int) -> bool: ...
    def add_observer(self, observer: DaemonLifecycleObserver) -> None:
        """Add an observer; it sees `Registered` for each daemon that is there, then what happens, in order, on a lane."""
    def remove_observer(self, observer: DaemonLifecycleObserver) -> None:
        """Remove an observer; does nothing if it is not there."""
    @property
    def dropped_events(self) -> int:
        """Events that an observer more than 16,384 behind did not get; it sees the gap in their numbers."""
    @property
    def observer_errors(self) -> int:
        """Calls of observers that raised."""
    @property
    def lost_posts(self) -> int:
        """Posted events that came to nothing because their daemon was stopped or lost."""

@final
class Follower:
    """Where the outputs of a daemon of another node come from."""

    def take(self, timeout: timedelta) -> CausalEvent | RolledBack | None: ...
    def close(self) -> None: ...

@disjoint_base
class RemoteCore:
    """The part of `meshos.compute.RemoteRuntime` that is compiled; use that class."""

    def __new__(cls, runtime: RuntimeCore, node_id: _NodeId) -> Self: ...
    @property
    def node_id(self) -> _NodeId: ...
    def spawn(
        self, kind: str, identity: Identity, config: DaemonHostConfig | None = None, *, timeout: timedelta | None = ...
    ) -> DaemonRef:
        """Start a daemon there, within 30 s; its kind is registered there.

        The secret key does not travel: `identity` signs that the other node owns the daemon. Raises `RemoteRefused`,
        `NotOwner`, `FactoryNotFound`, `AlreadyRegistered`, `AlreadyStored`, `IdentityError` when the key is public only,
        `Unavailable`.
        """
    def stop(self, origin_hash: OriginHash, *, timeout: timedelta | None = ...) -> None:
        """Stop a daemon there, as `DaemonRuntime.stop` does, within 30 s; raises `DaemonNotFound`, `RemoteRefused`, `Unavailable`."""
    def snapshot(self, origin_hash: OriginHash, *, timeout: timedelta | None = ...) -> StateSnapshot | None:
        """Take a snapshot of a daemon there, and fetch it, within 30 s; `None` of a daemon without state.

        At most 1 GiB is fetched. Raises `DaemonNotFound`, `RemoteRefused`, `Unavailable`.
        """
    def _follow(self, entity_id: EntityId, after: tuple[int, bytes] | None = None) -> Follower: ...

@disjoint_base
class RuntimeCore:
    """The part of `meshos.compute.DaemonRuntime` that is compiled; use that class."""

    def __new__(
        cls,
        mesh: Mesh,
        *,
        accept_migrations: Literal["kinds", "expected"] = "kinds",
        loop: AbstractEventLoop | None = None,
        poll_interval: timedelta | None = None,
    ) -> Self:
        """Attach to a node. Raises `AlreadyRegistered` when it has a runtime, `LoopClosed` when it was closed.

        Args:
            mesh: The node; it has one runtime at a time.
            accept_migrations: Which daemons that are moved here are taken on: those whose kind is registered, or of these
                only the ones named with `expect_migration` or `register_migration_target_identity`.
            loop: Where `async` daemons run; by default the loop of `start_async`, else one of meshos on its own thread.
            poll_interval: How often daemons that report health or load are asked; 0.5 s by default.
        """
    def mesh(self) -> Mesh: ...
    def clone(self) -> Self:
        """Return the same runtime: references share it."""
    def register_factory(self, kind: str, factory: Callable[[], MeshDaemon]) -> None:
        """Name a class; raises `FactoryAlreadyRegistered`, `InvalidDaemon`, `ShuttingDown`.

        `factory` is called once for each instance: at `spawn`, after a crash, and for a daemon that is to move here, before it stands
        still at its source.
        """
    def start(self) -> None:
        """Become Ready; does nothing the second time. Raises `ShuttingDown`."""
    def shutdown(self, *, timeout: timedelta | None = None) -> None:
        """Tell every daemon, sign its checkpoint and stop it, within `timeout`, 5 s; does nothing the second time.

        Raises `WaitTimeout` naming the daemons whose user code did not return in time; they are closed to everybody else.
        """
    def permit_managers(self, nodes: Iterable[EntityId]) -> None:
        """Let these nodes spawn, stop and snapshot daemons here through `remote`, and no others; at first nobody may.

        They may also order moves of daemons that are here; besides them only this node may, and the one that spawned it.
        """
    def managers(self) -> frozenset[EntityId]:
        """Return the nodes that may."""
    def expect_migration(self, kind: str, origin_hash: _OriginHash, config: DaemonHostConfig | None = None) -> None:
        """Accept this daemon when it is moved here, with this configuration; by default it keeps its own.

        Raises `FactoryNotFound`, and `AlreadyRegistered` when it is here.
        """
    def register_migration_target_identity(
        self, kind: str, identity: Identity, config: DaemonHostConfig | None = None
    ) -> None:
        """Accept this daemon as `expect_migration` does, and have its key here already, where it does not come with it."""
    def simulate_not_ready(self, flag: bool) -> None:
        """Answer moves to this node with "not ready"; for tests."""
    def migration_orchestrator(self) -> MigrationOrchestrator:
        """Return what lists and aborts the moves that were ordered on this node."""
    def migration_phase(self, origin_hash: _OriginHash) -> MigrationPhase | None:
        """Return the phase of a move ordered here; `None` when there is none, or it has ended."""
    def _start_migration(
        self, origin_hash: _OriginHash, source_node: _NodeId, target_node: _NodeId, opts: MigrationOpts | None = None
    ) -> MoveCore: ...
    def is_ready(self) -> bool: ...
    def daemon_count(self) -> int: ...
    def daemon_registry(self) -> DaemonRegistry: ...
    def factory_registry(self) -> DaemonFactoryRegistry: ...
    def spawn(
        self, kind: str, identity: Identity, config: DaemonHostConfig | None = None, *, resume: bool = False
    ) -> DaemonHandle:
        """Start a daemon without a past, or one without state; with `resume` continue it, if it is stored.

        Raises `AlreadyRegistered`, `AlreadyStored`, `FactoryNotFound`, `StoreError`, `DivergenceError`; in a mesh `NotOwner`
        when another node owns the identity, and `Unavailable` when the directory does not answer within 5 s.
        """
    def _recover(
        self,
    ) -> tuple[
        list[
            tuple[
                int,
                str,
                tuple[
                    int,
                    int,
                    int,
                    int,
                    int,
                    list[tuple[int, int]],
                    int,
                    int | None,
                    tuple[int, int, int, int | None, str, int] | None,
                ]
                | None,
                Exception | None,
            ]
        ],
        list[str],
        int,
    ]: ...
    def spawn_with_daemon(
        self,
        identity: Identity,
        config: DaemonHostConfig,
        daemon: MeshDaemon,
        kind_factory: Callable[[], MeshDaemon],
        *,
        kind: str | None = None,
    ) -> DaemonHandle:
        """Start an instance made by the caller; `kind_factory` makes another one after a crash, `kind` names it."""
    def spawn_from_snapshot(
        self,
        kind: str,
        identity: Identity,
        snapshot: StateSnapshot,
        config: DaemonHostConfig | None = None,
        *,
        rewind: bool = False,
    ) -> DaemonHandle:
        """Start after `snapshot`; raises `SnapshotIdentityMismatch`, `RestoreFailed`, `StaleSnapshot` unless `rewind`.

        When this node cannot tell that nothing was emitted after the snapshot, the daemon begins a new epoch, whose
        certificate declares what came after rolled back.
        """
    def spawn_from_snapshot_with_daemon(
        self,
        identity: Identity,
        snapshot: StateSnapshot,
        config: DaemonHostConfig,
        daemon: MeshDaemon,
        kind_factory: Callable[[], MeshDaemon],
        *,
        kind: str | None = None,
        rewind: bool = False,
    ) -> DaemonHandle:
        """Restore into an instance made by the caller; raises as `spawn_from_snapshot`."""
    def find(self, origin_hash: OriginHash) -> DaemonHandle | None:
        """Return the handle of a daemon that is live here."""
    def owner(self, origin_hash: OriginHash) -> OwnershipRecord | None:
        """Return the newest record of who owns a daemon, as far as this node knows; `None` at a node that is alone."""
    def stop(self, origin_hash: OriginHash) -> None:
        """Let it finish its event, tell it, sign a checkpoint, and stop; raises `DaemonNotFound`."""
    def snapshot(self, origin_hash: OriginHash) -> StateSnapshot | None:
        """Take a snapshot between two events, `None` of a daemon without state; raises `SnapshotFailed`, `DaemonNotFound`."""
    def newest_snapshot(self, origin_hash: OriginHash) -> StateSnapshot | None:
        """Return the newest snapshot that was taken here, or that the daemon started from; calls no user code."""
    def export_chain(self, origin_hash: OriginHash, file: str | PathLike[str]) -> ChainReport:
        """Sign a checkpoint at the head, and write the kept outputs to a new file for `verify_chain`.

        Raises `FileExistsError`, and every other `OSError` of writing a file.
        """
    def with_daemon(self, origin_hash: OriginHash, daemon: type[_D], function: Callable[[_D], _R]) -> _R:
        """Look at the live object between two events; for tests. Raises `TypeError` for another class."""
    def wait_for(
        self,
        origin_hash: OriginHash,
        daemon: type[_D],
        predicate: Callable[[_D], object],
        *,
        timeout: timedelta | None,
    ) -> None:
        """Return once `predicate` holds, asked between two events, now and after each event; for tests.

        Raises `WaitTimeout`, `TypeError` for another class, and what `predicate` raises.
        """
    def subscriptions(self, origin_hash: OriginHash) -> tuple[SubscriptionBinding, ...]:
        """Return the ledger of a daemon, ordered by publisher and channel; raises `DaemonNotFound`."""
    def subscribe_channel(
        self,
        origin_hash: OriginHash,
        publisher: NodeId,
        channel: ChannelName,
        token: PermissionToken | None = None,
        *,
        queue_group: str | None = None,
    ) -> None:
        """Subscribe a daemon to a channel, from now on, and record that in its ledger.

        Of the daemons of one queue group each event goes to one. The subject of the token is the daemon. Raises
        `SubscribeRejected`, and `Unavailable` when the publisher does not answer within 5 s: then nothing was recorded.
        """
    def unsubscribe_channel(self, origin_hash: OriginHash, publisher: NodeId, channel: ChannelName) -> None:
        """End a subscription; does nothing if there is none. What waits in the mailbox is processed."""
    def control(self, origin_hash: OriginHash, control: DaemonControl) -> None:
        """Give a daemon a control, between two events; raises `CallbackFailed`, `DaemonNotFound`."""
    def deliver(self, origin_hash: OriginHash, event: CausalEvent) -> list[CausalEvent]:
        """Process one event on this thread; `[]` for a duplicate. Raises `ProcessFailed`, `DaemonNotFound`.

        In a mesh also `NotOwner` where another node is known to own the daemon, and `Unavailable` while its lease is out.
        Waits up to 30 s for a daemon that is busy with others, then raises `WaitTimeout`.
        """
    def deliver_async(self, origin_hash: OriginHash, event: CausalEvent) -> Coroutine[object, None, list[CausalEvent]]:
        """Twin of `deliver`, on a lane; cancelled before the daemon took the event it has no effect, later it has.

        The event is mailed by the call itself, when a loop runs on this thread; what is returned stands for its answer.
        """
    def deliver_many(self, origin_hash: OriginHash, events: Iterable[CausalEvent]) -> list[list[CausalEvent]]:
        """Process events in order, one list of outputs an event; `ProcessFailed` carries the outputs of those before it."""
    def send(
        self, origin_hash: OriginHash, event: BytesLike | CausalEvent, *, timeout: timedelta | None = ...
    ) -> Receipt:
        """Have it processed once, on a lane, within 30 s; a payload is numbered, an event keeps its number.

        Raises `ProcessFailed`, `SendTimeout`, `Backpressure`, `DeliveryUnknown`, `DaemonNotFound`.
        """
    def send_many(
        self, origin_hash: OriginHash, events: Iterable[BytesLike | CausalEvent], *, timeout: timedelta | None = ...
    ) -> list[Receipt]:
        """Send in order, up to 64 under way; raises as `send` for the first that failed, and none after it takes effect."""
    def post(self, origin_hash: OriginHash, event: BytesLike | CausalEvent) -> int:
        """Mail an event that nobody waits for; returns its number. It is in memory until it took effect.

        When `process` raises it is tried again, `attempts_max` times in all, 50 ms after the first try and twice as long
        after each; then it is passed over and becomes a dead letter. What this node sent after it waits meanwhile.
        Raises `Backpressure`, `DaemonNotFound`.
        """
    def _dead_letters(self, origin_hash: OriginHash) -> tuple[str, list[_Letter]]: ...
    def _retry_dead_letter(self, origin_hash: OriginHash, number: int, event: CausalEvent) -> Receipt: ...
    def _discard_dead_letter(self, origin_hash: OriginHash, number: int, event: CausalEvent) -> None: ...
    def _start_on(self, event_loop: AbstractEventLoop) -> None: ...
    def _send_soon(
        self, origin_hash: OriginHash, event: BytesLike | CausalEvent
    ) -> tuple[Reply[Receipt], int, int] | None: ...
    def _give_up(self, origin_hash: OriginHash, event_origin: int, sequence: int) -> bool: ...

# ---------------------------------------------------------------- the behaviour loop: options

@final
class BackpressureConfig:
    """How fast actions are admitted. Raises `ConfigError`."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        pull_cooldown: timedelta = ...,
        drain_rate_per_zone_per_sec: int = 10,
        replica_stabilization_window: timedelta = ...,
        cluster_backpressure_threshold: int = 1000,
        cluster_backpressure_release: int = 200,
        max_defer_count: int = 16,
    ) -> Self: ...
    @property
    def pull_cooldown(self) -> timedelta:
        """Time between two pulls of any chains; 250 ms."""
    @property
    def drain_rate_per_zone_per_sec(self) -> int:
        """Drains a second; at least 1."""
    @property
    def replica_stabilization_window(self) -> timedelta:
        """Time in which a chain that was pulled or dropped is left alone; 60 s."""
    @property
    def cluster_backpressure_threshold(self) -> int:
        """Waiting actions at which back-pressure is asserted."""
    @property
    def cluster_backpressure_release(self) -> int:
        """Waiting actions at which it is released; below the threshold."""
    @property
    def max_defer_count(self) -> int:
        """Retries of one action; at least 1."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class LocalityConfig:
    """When a slow peer is avoided, and for how long. Raises `ConfigError`."""

    __match_args__: Final = ()
    def __new__(cls, *, degraded_rtt_threshold: timedelta = ..., avoid_ttl: timedelta = ...) -> Self: ...
    @property
    def degraded_rtt_threshold(self) -> timedelta:
        """A smoothed round trip above it is slow; it is no longer slow below four fifths of it. 250 ms."""
    @property
    def avoid_ttl(self) -> timedelta:
        """How long a slow peer is avoided; 5 min."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MaintenanceConfig:
    """Deadlines of maintenance. Raises `ConfigError`."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        default_drain_deadline: timedelta = ...,
        exit_deadline: timedelta = ...,
        recovery_ramp_window: timedelta = ...,
        stop_grace: timedelta = ...,
    ) -> Self: ...
    @property
    def default_drain_deadline(self) -> timedelta:
        """How long draining may take when the command does not say; 10 min."""
    @property
    def exit_deadline(self) -> timedelta:
        """How long daemons may take to start again, 10 min; then the node goes on, and says which did not."""
    @property
    def recovery_ramp_window(self) -> timedelta:
        """Time in which a node that came back takes nothing new; 5 min."""
    @property
    def stop_grace(self) -> timedelta:
        """How long a daemon may take to stop, 30 s; after it, it is stopped by force."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class SchedulerConfig:
    """When replicas are moved to better nodes. Raises `ConfigError`."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        score_floor: float = 0.5,
        hysteresis_gap: float = 0.2,
        cooldown: timedelta = ...,
        decision_interval: timedelta = ...,
        cost_per_sec: float = 0.1,
        moves_in_flight_max: int = 4,
    ) -> Self: ...
    @property
    def score_floor(self) -> float:
        """A holder that scores so much is good enough; 0 to 1."""
    @property
    def hysteresis_gap(self) -> float:
        """A move must gain more than this."""
    @property
    def cooldown(self) -> timedelta:
        """Time between two moves of one chain; 5 min."""
    @property
    def decision_interval(self) -> timedelta:
        """Time after which scores are asked for anew though nothing seems to have changed; 30 s."""
    @property
    def cost_per_sec(self) -> float:
        """What a second of moving costs, as a score."""
    @property
    def moves_in_flight_max(self) -> int:
        """Moves that this node has under way at once; at least 1."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class BackoffConfig:
    """How long a crashed daemon waits. Raises `ConfigError`."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        initial: timedelta = ...,
        factor: float = 2.0,
        maximum: timedelta = ...,
        jitter: float = 0.2,
        crash_loop_threshold: int = 5,
        crash_loop_window: timedelta = ...,
        crash_loop_cooldown: timedelta = ...,
        stable_run_threshold: timedelta = ...,
    ) -> Self: ...
    @property
    def initial(self) -> timedelta:
        """After the first crash; 500 ms."""
    @property
    def factor(self) -> float:
        """Each crash waits so many times longer than the one before; at least 1."""
    @property
    def maximum(self) -> timedelta:
        """Longest wait; 60 s."""
    @property
    def jitter(self) -> float:
        """The wait is shortened by up to this share, so that restarts spread out; 0 to 1."""
    @property
    def crash_loop_threshold(self) -> int:
        """So many crashes within the window are a crash loop; 1 to 1000."""
    @property
    def crash_loop_window(self) -> timedelta:
        """Window of the crash loop; 60 s."""
    @property
    def crash_loop_cooldown(self) -> timedelta:
        """Wait after a crash loop; 5 min."""
    @property
    def stable_run_threshold(self) -> timedelta:
        """Who ran so long without a crash starts over with `initial`; 60 s."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MeshOsConfig:
    """Options of a behaviour loop. Raises `ConfigError` naming the field."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        this_node: _NodeId | None = None,
        tick_interval: timedelta = ...,
        event_queue_capacity: int = 1024,
        action_queue_capacity: int = 1024,
        callback_budget: float = 0.2,
        authority: Literal["verified", "open"] = "verified",
        audit: Literal["best_effort", "required"] = "best_effort",
        seed: int | None = None,
        backpressure: BackpressureConfig = ...,
        locality: LocalityConfig = ...,
        maintenance: MaintenanceConfig = ...,
        scheduler: SchedulerConfig = ...,
        backoff: BackoffConfig = ...,
    ) -> Self: ...
    @property
    def this_node(self) -> _NodeId | None:
        """The node it acts for; `None`: that of the dispatcher's mesh."""
    @property
    def tick_interval(self) -> timedelta:
        """How long nothing may happen before everything is looked at; a change is acted on at once. 500 ms."""
    @property
    def event_queue_capacity(self) -> int:
        """Events that may wait; 1 to 16,777,216."""
    @property
    def action_queue_capacity(self) -> int:
        """Actions that may wait; 1 to 16,777,216."""
    @property
    def callback_budget(self) -> float:
        """Share of a tick that user code may take before its answer counts as late; above 0, up to 1."""
    @property
    def authority(self) -> Literal["verified", "open"]:
        """Without a verifier: "verified" refuses every command, "open" obeys (development; every snapshot shows it)."""
    @property
    def audit(self) -> Literal["best_effort", "required"]:
        """ "required": a command that the audit appender could not keep is refused."""
    @property
    def seed(self) -> int | None:
        """Seed of jitter; `None`: from the operating system."""
    @property
    def backpressure(self) -> BackpressureConfig:
        """How fast actions are admitted."""
    @property
    def locality(self) -> LocalityConfig:
        """When a slow peer is avoided."""
    @property
    def maintenance(self) -> MaintenanceConfig:
        """Deadlines of maintenance."""
    @property
    def scheduler(self) -> SchedulerConfig:
        """When replicas are moved."""
    @property
    def backoff(self) -> BackoffConfig:
        """How long a crashed daemon waits."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- the behaviour loop: events

@final
class Registered:
    """The daemon is in the registry."""

    __match_args__: Final = ()
    kind: ClassVar[Literal["registered"]]
    def __new__(cls) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Unregistered:
    """The daemon left the registry."""

    __match_args__: Final = ()
    kind: ClassVar[Literal["unregistered"]]
    def __new__(cls) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Started:
    """The daemon runs."""

    __match_args__: Final = ("at",)
    kind: ClassVar[Literal["started"]]
    def __new__(cls, at: datetime | None = None) -> Self: ...
    @property
    def at(self) -> datetime | None:
        """When; `None`: when the loop takes it in."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ExitedCleanly:
    """The daemon was stopped as intended."""

    __match_args__: Final = ("at",)
    kind: ClassVar[Literal["exited_cleanly"]]
    def __new__(cls, at: datetime | None = None) -> Self: ...
    @property
    def at(self) -> datetime | None:
        """When; `None`: when the loop takes it in."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Crashed:
    """The daemon's code raised, or the daemon is gone."""

    __match_args__: Final = ("reason", "at")
    kind: ClassVar[Literal["crashed"]]
    def __new__(cls, reason: str, at: datetime | None = None) -> Self: ...
    @property
    def reason(self) -> str:
        """The error, in one line."""
    @property
    def at(self) -> datetime | None:
        """When; `None`: when the loop takes it in."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class PassedOver:
    """The daemon failed too often on an event, which is a dead letter now."""

    __match_args__: Final = ("origin_hash", "sequence", "letter", "attempts")
    kind: ClassVar[Literal["passed_over"]]
    def __new__(cls, origin_hash: int, sequence: int, letter: int, attempts: int) -> Self: ...
    @property
    def origin_hash(self) -> int:
        """Who sent the event."""
    @property
    def sequence(self) -> int:
        """Its number there."""
    @property
    def letter(self) -> int:
        """Number of the dead letter."""
    @property
    def attempts(self) -> int:
        """Tries at the event."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class HealthChanged:
    """The daemon reports another health."""

    __match_args__: Final = ("health", "at")
    kind: ClassVar[Literal["health_changed"]]
    def __new__(cls, health: _Health, at: datetime | None = None) -> Self: ...
    @property
    def health(self) -> _Health:
        """What it reports now."""
    @property
    def at(self) -> datetime | None:
        """When; `None`: when the loop takes it in."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class SaturationChanged:
    """The daemon reports another load, 0 to 1."""

    __match_args__: Final = ("saturation", "at")
    kind: ClassVar[Literal["saturation_changed"]]
    def __new__(cls, saturation: float, at: datetime | None = None) -> Self: ...
    @property
    def saturation(self) -> float:
        """0 (idle) to 1 (full)."""
    @property
    def at(self) -> datetime | None:
        """When; `None`: when the loop takes it in."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DaemonLifecycle:
    """A signal about a daemon; those of a `DaemonRegistry` are published by the runtime itself."""

    __match_args__: Final = ("daemon", "signal")
    kind: ClassVar[Literal["daemon_lifecycle"]]
    def __new__(cls, daemon: DaemonRef, signal: DaemonLifecycleSignal) -> Self: ...
    @property
    def daemon(self) -> DaemonRef:
        """Which daemon."""
    @property
    def signal(self) -> DaemonLifecycleSignal:
        """What happened."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DaemonIntentUpdate:
    """What is wanted of a daemon from now on; `node` pins it there, `None` unpins it."""

    __match_args__: Final = ("daemon", "intent", "node")
    kind: ClassVar[Literal["daemon_intent_update"]]
    def __new__(cls, daemon: DaemonRef, intent: DaemonIntent, node: _NodeId | None = None) -> Self: ...
    @property
    def daemon(self) -> DaemonRef:
        """Which daemon."""
    @property
    def intent(self) -> DaemonIntent:
        """What is wanted."""
    @property
    def node(self) -> _NodeId | None:
        """Where it shall run; `None`: no matter where."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ForgetDaemon:
    """Nothing is wanted of the daemon any more, and what was known of it is dropped."""

    __match_args__: Final = ("daemon",)
    kind: ClassVar[Literal["forget_daemon"]]
    def __new__(cls, daemon: _OriginHash) -> Self: ...
    @property
    def daemon(self) -> _OriginHash:
        """Which daemon."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ForgetChain:
    """Nothing is wanted of the chain any more, and what was known of it is dropped."""

    __match_args__: Final = ("chain",)
    kind: ClassVar[Literal["forget_chain"]]
    def __new__(cls, chain: _OriginHash) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ReplicaUpdate:
    """A copy of a chain came or went."""

    __match_args__: Final = ("chain", "holder", "change")
    kind: ClassVar[Literal["replica_update"]]
    def __new__(cls, chain: _OriginHash, holder: _NodeId, change: ReplicaChange) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def holder(self) -> _NodeId:
        """Where the copy is."""
    @property
    def change(self) -> ReplicaChange:
        """What happened to it."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ReplicaLeaderUpdate:
    """A chain has another leader, or none; a lower `term` than the known one is ignored."""

    __match_args__: Final = ("chain", "leader", "term")
    kind: ClassVar[Literal["replica_leader_update"]]
    def __new__(cls, chain: _OriginHash, leader: _NodeId | None, term: int = 0) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def leader(self) -> _NodeId | None:
        """Who leads."""
    @property
    def term(self) -> int:
        """Term of the election."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ReplicaBecameHolderAndLeader:
    """A node holds a chain and leads it, at once."""

    __match_args__: Final = ("chain", "holder", "term")
    kind: ClassVar[Literal["replica_became_holder_and_leader"]]
    def __new__(cls, chain: _OriginHash, holder: _NodeId, term: int = 0) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def holder(self) -> _NodeId:
        """Which node."""
    @property
    def term(self) -> int:
        """Term of the election."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ReplicaLeaderLostAndRemoved:
    """A node neither leads nor holds a chain any more, at once."""

    __match_args__: Final = ("chain", "holder")
    kind: ClassVar[Literal["replica_leader_lost_and_removed"]]
    def __new__(cls, chain: _OriginHash, holder: _NodeId) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def holder(self) -> _NodeId:
        """Which node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class PlacementIntent:
    """How many copies of a chain are wanted in the cluster."""

    __match_args__: Final = ("chain", "desired_replicas")
    kind: ClassVar[Literal["placement_intent"]]
    def __new__(cls, chain: _OriginHash, desired_replicas: int) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def desired_replicas(self) -> int:
        """How many copies."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class LocalReplicaIntentUpdate:
    """Whether this node is to hold a copy of a chain."""

    __match_args__: Final = ("chain", "intent")
    kind: ClassVar[Literal["local_replica_intent_update"]]
    def __new__(cls, chain: _OriginHash, intent: LocalReplicaIntent) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def intent(self) -> LocalReplicaIntent:
        """What is wanted."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class RttSample:
    """A measured round trip."""

    __match_args__: Final = ("peer", "rtt")
    kind: ClassVar[Literal["rtt_sample"]]
    def __new__(cls, peer: _NodeId, rtt: timedelta) -> Self: ...
    @property
    def peer(self) -> _NodeId:
        """To which node."""
    @property
    def rtt(self) -> timedelta:
        """How long it took."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class NodeHealthUpdate:
    """Another node's health."""

    __match_args__: Final = ("peer", "health")
    kind: ClassVar[Literal["node_health_update"]]
    def __new__(cls, peer: _NodeId, health: NodeHealth) -> Self: ...
    @property
    def peer(self) -> _NodeId:
        """Which node."""
    @property
    def health(self) -> NodeHealth:
        """How it looks."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MaintenanceTransitionObserved:
    """A committed maintenance transition, as the dispatcher saw it."""

    __match_args__: Final = ("node", "state")
    kind: ClassVar[Literal["maintenance_transition_observed"]]
    def __new__(cls, node: _NodeId, state: MaintenanceState) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    @property
    def state(self) -> MaintenanceState:
        """The state that it is in now."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class LogLine:
    """One line for the log ring; never folded."""

    __match_args__: Final = ("level", "message", "daemon")
    kind: ClassVar[Literal["log_line"]]
    def __new__(cls, level: LogLevel, message: str, daemon: _OriginHash | None = None) -> Self: ...
    @property
    def level(self) -> LogLevel:
        """How severe."""
    @property
    def message(self) -> str:
        """The line."""
    @property
    def daemon(self) -> _OriginHash | None:
        """Which daemon says so; `None`: the node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class UnsignedAdminEvent:
    """An ordinary command without signature; refused unless `authority="open"`."""

    __match_args__: Final = ("event",)
    kind: ClassVar[Literal["unsigned_admin_event"]]
    def __new__(cls, event: AdminEvent) -> Self: ...
    @property
    def event(self) -> AdminEvent:
        """What is ordered."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class SignedAdminCommit:
    """An ordinary command with its operator's signature."""

    __match_args__: Final = ("envelope",)
    kind: ClassVar[Literal["signed_admin_commit"]]
    def __new__(cls, envelope: AdminEnvelope) -> Self: ...
    @property
    def envelope(self) -> AdminEnvelope:
        """The command."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class SignedIceCommit:
    """A break-glass action with its operators' signatures."""

    __match_args__: Final = ("envelope",)
    kind: ClassVar[Literal["signed_ice_commit"]]
    def __new__(cls, envelope: IceEnvelope) -> Self: ...
    @property
    def envelope(self) -> IceEnvelope:
        """The action."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class EnterMaintenance:
    """Drain the node and keep it out of service; `drain_for` defaults to the configured deadline."""

    __match_args__: Final = ("node", "drain_for")
    kind: ClassVar[Literal["enter_maintenance"]]
    def __new__(cls, node: _NodeId, drain_for: timedelta | None = None) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    @property
    def drain_for(self) -> timedelta | None:
        """How long draining may take."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ExitMaintenance:
    """Bring the node back, also while it still drains."""

    __match_args__: Final = ("node",)
    kind: ClassVar[Literal["exit_maintenance"]]
    def __new__(cls, node: _NodeId) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Drain:
    """Move everything off the node within `drain_for`, then return it to service."""

    __match_args__: Final = ("node", "drain_for")
    kind: ClassVar[Literal["drain"]]
    def __new__(cls, node: _NodeId, drain_for: timedelta) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    @property
    def drain_for(self) -> timedelta:
        """How long draining may take."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Cordon:
    """Place nothing new on the node."""

    __match_args__: Final = ("node",)
    kind: ClassVar[Literal["cordon"]]
    def __new__(cls, node: _NodeId) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Uncordon:
    """Place things on the node again."""

    __match_args__: Final = ("node",)
    kind: ClassVar[Literal["uncordon"]]
    def __new__(cls, node: _NodeId) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class RestartAllDaemons:
    """Stop and start every supervised daemon of the node, with the usual grace."""

    __match_args__: Final = ("node",)
    kind: ClassVar[Literal["restart_all_daemons"]]
    def __new__(cls, node: _NodeId) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ClearAvoidList:
    """Clear the avoid list of that node."""

    __match_args__: Final = ("node",)
    kind: ClassVar[Literal["clear_avoid_list"]]
    def __new__(cls, node: _NodeId) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DropReplicas:
    """Let the node drop its copies of these chains."""

    __match_args__: Final = ("node", "chains")
    kind: ClassVar[Literal["drop_replicas"]]
    def __new__(cls, node: _NodeId, chains: tuple[_OriginHash, ...]) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    @property
    def chains(self) -> tuple[_OriginHash, ...]:
        """Which chains."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class InvalidatePlacement:
    """Score the chains led by the node anew at the next pass."""

    __match_args__: Final = ("node",)
    kind: ClassVar[Literal["invalidate_placement"]]
    def __new__(cls, node: _NodeId) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- operators: break-glass actions

@final
class FreezeCluster:
    """Stop all reconciling for `ttl`, 1 s to 24 h."""

    __match_args__: Final = ("ttl",)
    kind: ClassVar[Literal["freeze_cluster"]]
    def __new__(cls, ttl: timedelta) -> Self: ...
    @property
    def ttl(self) -> timedelta:
        """How long."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ThawCluster:
    """End a freeze; never held up by a cooldown."""

    __match_args__: Final = ()
    kind: ClassVar[Literal["thaw_cluster"]]
    def __new__(cls) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Local:
    """The whole avoid list of one node."""

    __match_args__: Final = ("node",)
    def __new__(cls, node: _NodeId) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """Which node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class OnPeer:
    """One peer, on every node's avoid list."""

    __match_args__: Final = ("peer",)
    def __new__(cls, peer: _NodeId) -> Self: ...
    @property
    def peer(self) -> _NodeId:
        """Which peer."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Global:
    """Every avoid list."""

    __match_args__: Final = ()
    def __new__(cls) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class FlushAvoidLists:
    """Take peers off avoid lists."""

    __match_args__: Final = ("scope",)
    kind: ClassVar[Literal["flush_avoid_lists"]]
    def __new__(cls, scope: AvoidScope) -> Self: ...
    @property
    def scope(self) -> AvoidScope:
        """Which lists."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ForceEvictReplica:
    """Evict a chain from a node."""

    __match_args__: Final = ("chain", "victim")
    kind: ClassVar[Literal["force_evict_replica"]]
    def __new__(cls, chain: _OriginHash, victim: _NodeId) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def victim(self) -> _NodeId:
        """From which node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ForceRestartDaemon:
    """Release a daemon's backoff and start it."""

    __match_args__: Final = ("daemon",)
    kind: ClassVar[Literal["force_restart_daemon"]]
    def __new__(cls, daemon: DaemonRef) -> Self: ...
    @property
    def daemon(self) -> DaemonRef:
        """Which daemon."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ForceCutover:
    """Place a chain on a node, whatever the scorer thinks."""

    __match_args__: Final = ("chain", "target")
    kind: ClassVar[Literal["force_cutover"]]
    def __new__(cls, chain: _OriginHash, target: _NodeId) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def target(self) -> _NodeId:
        """On which node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class KillMigration:
    """Abort the move of a daemon, named by its origin hash."""

    __match_args__: Final = ("migration",)
    kind: ClassVar[Literal["kill_migration"]]
    def __new__(cls, migration: _OriginHash) -> Self: ...
    @property
    def migration(self) -> _OriginHash:
        """The daemon that moves."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- operators: previews and envelopes

@final
class BlastWarning:
    """Something an operator should know before signing; `targets` are the ids it is about."""

    __match_args__: Final = ("kind", "targets")
    def __new__(
        cls,
        kind: BlastWarningKind,
        targets: tuple[int, ...] = (),
    ) -> Self:
        """Raise `InvalidArgument` for an unknown kind, or another number of ids than it is about."""
    @property
    def kind(self) -> BlastWarningKind:
        """What it says."""
    @property
    def targets(self) -> tuple[int, ...]:
        """The ids it is about."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class BlastRadius:
    """What an action will touch; part of what is signed."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        affected_nodes: tuple[_NodeId, ...],
        affected_replicas: tuple[_OriginHash, ...],
        affected_daemons: tuple[DaemonRef, ...],
        estimated_drain_delay: timedelta | None,
        placement_churn_basis_points: int,
        warnings: tuple[BlastWarning, ...],
    ) -> Self:
        """Raise `InvalidArgument` for a list out of order or too long."""
    @property
    def affected_nodes(self) -> tuple[_NodeId, ...]:
        """Nodes that observe it, ascending."""
    @property
    def affected_replicas(self) -> tuple[_OriginHash, ...]:
        """Chains whose holders shift, ascending."""
    @property
    def affected_daemons(self) -> tuple[DaemonRef, ...]:
        """Daemons whose life shifts, by id."""
    @property
    def estimated_drain_delay(self) -> timedelta | None:
        """How long it has an effect; `None`: no time can be told."""
    @property
    def placement_churn_basis_points(self) -> int:
        """Churn of placement, in hundredths of a percent."""
    @property
    def warnings(self) -> tuple[BlastWarning, ...]:
        """Hints, in the order of their making."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class OperatorSignature:
    """One operator's signature over an envelope."""

    __match_args__: Final = ("public_key", "signature")
    def __new__(cls, public_key: bytes, signature: bytes) -> Self: ...
    @property
    def public_key(self) -> bytes:
        """Whose, 32 bytes."""
    @property
    def signature(self) -> bytes:
        """64 bytes."""
    @property
    def operator_id(self) -> OperatorId:
        """The operator's handle."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class AdminEnvelope:
    """An ordinary command with everything that is signed; it cannot carry a break-glass action."""

    def __new__(
        cls,
        *,
        event: AdminEvent,
        cluster_id: _BytesLike,
        reason: str,
        envelope_id: _BytesLike | None = None,
        issued_at: datetime | None = None,
        not_after: datetime | None = None,
        signature: OperatorSignature | None = None,
    ) -> Self:
        """Make a command, issued now and good for 5 min unless told otherwise; times are cut to milliseconds.

        Raises `InvalidArgument` for what cannot be written, and `IceRequiresBundle` for a break-glass action.
        """
    @property
    def event(self) -> AdminEvent:
        """What is ordered."""
    @property
    def signature(self) -> OperatorSignature | None:
        """Who ordered it, once it is signed."""
    def with_signature(self, signature: OperatorSignature) -> AdminEnvelope:
        """Return the same envelope with this signature, in the place of any other."""
    @property
    def cluster_hash(self) -> bytes:
        """SHA-256 of the id of the cluster it is for."""
    @property
    def envelope_id(self) -> bytes:
        """16 random bytes that make it one command."""
    @property
    def issued_at(self) -> datetime:
        """When it was made."""
    @property
    def not_after(self) -> datetime:
        """After this it is void."""
    @property
    def reason(self) -> str:
        """Why, in the operator's words."""
    def signing_bytes(self) -> bytes:
        """Return the canonical bytes that are signed; fixed width, documented, reproducible without meshos."""
    def to_bytes(self) -> bytes:
        """Return it as bytes."""
    @classmethod
    def from_bytes(cls, data: _BytesLike) -> Self:
        """Read exactly one canonical envelope; raises `EnvelopeDecodeError`."""
    def to_text(self) -> str:
        """Return it armoured, for a mail or a chat."""
    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read one armoured envelope; raises `EnvelopeDecodeError`."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class IceEnvelope:
    """A break-glass action with everything that is signed: cluster, id, times, threshold, blast radius, reason."""

    def __new__(
        cls,
        *,
        action: IceAction,
        blast_radius: BlastRadius,
        cluster_id: _BytesLike,
        reason: str,
        threshold: int = 2,
        envelope_id: _BytesLike | None = None,
        issued_at: datetime | None = None,
        not_after: datetime | None = None,
        signatures: Iterable[OperatorSignature] = (),
    ) -> Self:
        """Make what is to be signed, issued now and good for 5 min unless told otherwise; times are cut to milliseconds.

        Raises `InvalidArgument` for what cannot be written.
        """
    @property
    def action(self) -> IceAction:
        """What is ordered."""
    @property
    def blast_radius(self) -> BlastRadius:
        """What the operators saw it would touch."""
    @property
    def blast_hash(self) -> bytes:
        """Hash of the blast radius, 32 bytes, as it is signed."""
    @property
    def threshold(self) -> int:
        """Distinct operators that must sign; the node's own threshold holds too."""
    @property
    def signatures(self) -> tuple[OperatorSignature, ...]:
        """Who agreed so far."""
    def with_signatures(self, signatures: Iterable[OperatorSignature]) -> IceEnvelope:
        """Return the same envelope with these signatures added; one that it has already is not added again."""
    @property
    def cluster_hash(self) -> bytes:
        """SHA-256 of the id of the cluster it is for."""
    @property
    def envelope_id(self) -> bytes:
        """16 random bytes that make it one command."""
    @property
    def issued_at(self) -> datetime:
        """When it was made."""
    @property
    def not_after(self) -> datetime:
        """After this it is void."""
    @property
    def reason(self) -> str:
        """Why, in the operator's words."""
    def signing_bytes(self) -> bytes:
        """Return the canonical bytes that are signed; fixed width, documented, reproducible without meshos."""
    def to_bytes(self) -> bytes:
        """Return it as bytes."""
    @classmethod
    def from_bytes(cls, data: _BytesLike) -> Self:
        """Read exactly one canonical envelope; raises `EnvelopeDecodeError`."""
    def to_text(self) -> str:
        """Return it armoured, for a mail or a chat."""
    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read one armoured envelope; raises `EnvelopeDecodeError`."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def operator_id(public_key: _BytesLike) -> OperatorId: ...
def simulate(snapshot: MeshOsSnapshot, action: IceAction) -> BlastRadius:
    """Tell what an action would touch; pure, and agrees with what the leader's reconcile does."""

# ---------------------------------------------------------------- operators: who they are, and who is obeyed

@final
class Operator:
    """One entry of a registry."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        operator_id: OperatorId,
        verify_key: VerifyKey,
        name: str,
        roles: frozenset[Role],
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Self: ...
    @property
    def operator_id(self) -> OperatorId:
        """The handle."""
    @property
    def verify_key(self) -> VerifyKey:
        """The key."""
    @property
    def name(self) -> str:
        """Who it is, for people."""
    @property
    def roles(self) -> frozenset[Role]:
        """What they may do."""
    @property
    def not_before(self) -> datetime | None:
        """Nothing before it is accepted."""
    @property
    def not_after(self) -> datetime | None:
        """Nothing after it is accepted."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class OperatorRegistry:
    """Who the operators are; one entry a key. A change holds from the next command on."""

    def __new__(cls) -> Self: ...
    def add(
        self,
        key: VerifyKey | bytes,
        *,
        name: str,
        roles: Iterable[Role],
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> OperatorId:
        """Add an operator and return its id; raises `InvalidArgument` for a key or a name that is there."""
    def rotate(self, operator_id: OperatorId, new: VerifyKey | bytes) -> OperatorId:
        """Give an operator another key and return its new id; the old key is revoked. Raises `InvalidArgument`."""
    def revoke(self, operator_id: OperatorId) -> None:
        """Accept nothing from this key any more; raises `InvalidArgument` for one that is not there."""
    def operators(self) -> tuple[Operator, ...]:
        """Return those who are not revoked, by id."""
    def __contains__(self, operator_id: object, /) -> bool: ...
    def __len__(self) -> int: ...

@final
class AdminVerifier:
    """Decides which commands a node obeys. One a node; keeps cooldowns and used envelope ids, also over restarts."""

    def __new__(
        cls,
        operators: OperatorRegistry,
        *,
        cluster_id: _BytesLike,
        ice_threshold: int = 2,
        freshness_window: timedelta = ...,
        future_skew: timedelta = ...,
        ice_cooldown: timedelta = ...,
    ) -> Self:
        """Windows are 5 min, 30 s and 5 min. Raises `ConfigError`, also when fewer operators than the threshold may use ICE."""
    @property
    def cluster_id(self) -> bytes:
        """The cluster whose envelopes are accepted."""
    @property
    def ice_threshold(self) -> int:
        """Distinct operators that must sign a break-glass action."""
    @property
    def freshness_window(self) -> timedelta:
        """Oldest envelope that is accepted."""
    @property
    def future_skew(self) -> timedelta:
        """How far ahead of the clock an envelope may be."""
    @property
    def ice_cooldown(self) -> timedelta:
        """How long the target of a break-glass action is left alone."""
    def verify(self, envelope: IceEnvelope | AdminEnvelope, *, now: datetime | None = None) -> None:
        """Check without any effect, not even on cooldowns; raises the `VerifyError` a node would.

        What only a running loop knows is not asked: a freeze, and whether the preview still holds.
        """

# ---------------------------------------------------------------- the behaviour loop: maintenance

@final
class Active:
    """In service."""

    __match_args__: Final = ()
    phase: ClassVar[Literal[MaintenancePhase.ACTIVE]]
    def __new__(cls) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class EnteringMaintenance:
    """Draining."""

    __match_args__: Final = ("since", "deadline", "daemons_left", "replicas_left")
    phase: ClassVar[Literal[MaintenancePhase.ENTERING]]
    def __new__(cls, since: datetime, deadline: datetime, daemons_left: int = 0, replicas_left: int = 0) -> Self: ...
    @property
    def since(self) -> datetime:
        """Since when."""
    @property
    def deadline(self) -> datetime:
        """When the drain has failed."""
    @property
    def daemons_left(self) -> int:
        """Daemons that it still waits for."""
    @property
    def replicas_left(self) -> int:
        """Copies of chains that it still waits for."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Maintenance:
    """Out of service."""

    __match_args__: Final = ("since",)
    phase: ClassVar[Literal[MaintenancePhase.MAINTENANCE]]
    def __new__(cls, since: datetime) -> Self: ...
    @property
    def since(self) -> datetime:
        """Since when."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ExitingMaintenance:
    """Starting daemons again."""

    __match_args__: Final = ("since",)
    phase: ClassVar[Literal[MaintenancePhase.EXITING]]
    def __new__(cls, since: datetime) -> Self: ...
    @property
    def since(self) -> datetime:
        """Since when."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DrainFailed:
    """Not drained in time."""

    __match_args__: Final = ("since", "reason")
    phase: ClassVar[Literal[MaintenancePhase.DRAIN_FAILED]]
    def __new__(cls, since: datetime, reason: str) -> Self: ...
    @property
    def since(self) -> datetime:
        """Since when."""
    @property
    def reason(self) -> str:
        """What was left."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Recovery:
    """Back in service, not yet for new placements."""

    __match_args__: Final = ("since",)
    phase: ClassVar[Literal[MaintenancePhase.RECOVERY]]
    def __new__(cls, since: datetime) -> Self: ...
    @property
    def since(self) -> datetime:
        """Since when."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- the behaviour loop: probes

@final
class PeerInventory:
    """What a node has; `None` means not sampled by this probe, and leaves the value of another probe alone."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        cpu_load_1m: float | None = None,
        mem_used_bytes: int | None = None,
        mem_total_bytes: int | None = None,
        disk_used_bytes: int | None = None,
        disk_total_bytes: int | None = None,
        saturation_trend: float | None = None,
        capability_set: frozenset[str] | None = None,
        software_version: str | None = None,
        forked_from: _NodeId | None = None,
    ) -> Self: ...
    @property
    def cpu_load_1m(self) -> float | None:
        """Load average of one minute."""
    @property
    def mem_used_bytes(self) -> int | None:
        """Memory in use."""
    @property
    def mem_total_bytes(self) -> int | None:
        """Memory there is."""
    @property
    def disk_used_bytes(self) -> int | None:
        """Disk in use."""
    @property
    def disk_total_bytes(self) -> int | None:
        """Disk there is."""
    @property
    def saturation_trend(self) -> float | None:
        """Where the load is heading, 0 to 1."""
    @property
    def capability_set(self) -> frozenset[str] | None:
        """Capability tags."""
    @property
    def software_version(self) -> str | None:
        """Version of its software."""
    @property
    def forked_from(self) -> _NodeId | None:
        """The node it was forked from."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ProbeCounts:
    """How many probes are installed."""

    __match_args__: Final = ("locality", "health", "inventory")
    def __new__(cls, locality: int, health: int, inventory: int) -> Self: ...
    @property
    def locality(self) -> int:
        """Of round trips."""
    @property
    def health(self) -> int:
        """Of health."""
    @property
    def inventory(self) -> int:
        """Of inventories."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- the behaviour loop: callbacks

@final
class ProbeRegistry:
    """The probes of a runtime; may be shared and changed at any time, and takes effect at the next tick.

    Coroutines of its probes run on the loop that started the first runtime it was given to, or on one of meshos.
    """

    def __new__(cls) -> Self: ...
    def add_locality_probe(self, probe: LocalityProbe) -> None:
        """Add a probe of round trips; raises `TypeError` for an object that is none."""
    def add_health_probe(self, probe: HealthProbe) -> None:
        """Add a probe of health; raises `TypeError` for an object that is none."""
    def add_inventory_probe(self, probe: InventoryProbe) -> None:
        """Add a probe of inventories; raises `TypeError` for an object that is none."""
    def remove(self, probe: LocalityProbe | HealthProbe | InventoryProbe) -> bool:
        """Take a probe out, wherever it was added; whether it was there."""
    def clear_locality_probes(self) -> None: ...
    def clear_health_probes(self) -> None: ...
    def clear_inventory_probes(self) -> None: ...
    def probe_counts(self) -> ProbeCounts:
        """Return how many there are of each kind, at one moment."""

@final
class RecoveryRegistry:
    """The recovery handlers of a runtime. Handlers may call it; a handler added during a run begins with the next.

    Coroutines of its handlers run on the loop that started the first runtime it was given to, or on one of meshos.
    """

    def __new__(cls) -> Self: ...
    def register(self, handler: RecoveryHandler, *, name: str | None = None, strikes: int = 3) -> int:
        """Add a handler and return how many there are; it is evicted after `strikes` raises in a row.

        Without a `name` it gets that of its function or class, numbered when that is in use. Raises `InvalidArgument`
        for a name in use, and `TypeError` for an object that cannot be called without arguments.
        """
    def unregister(self, handler: RecoveryHandler | str) -> bool:
        """Take a handler out, by itself or by name; whether it was there. A call of it that is under way ends as usual."""
    def try_run_all(self) -> tuple[int, ...]:
        """Run each handler once, in the order of registration, and return the recovered slots; the loop does this each tick.

        Runs on this thread. What a handler raises is logged, and a strike. Skips a handler that is running already, and
        one whose `has_work` says that there is none. Raises `ReentrantCallError` inside a daemon.
        """
    def status(self) -> tuple[RecoveryStatus, ...]:
        """Return how each handler is doing, in the order of registration."""
    def is_empty(self) -> bool: ...
    def __len__(self) -> int: ...

@final
class RecoveryStatus:
    """How one handler is doing."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        name: str,
        runs: int,
        recovered: int,
        strikes: int,
        last_error: str | None,
        last_run_at: datetime | None,
        last_took: timedelta,
    ) -> Self: ...
    @property
    def name(self) -> str:
        """Its name."""
    @property
    def runs(self) -> int:
        """Calls that ended."""
    @property
    def recovered(self) -> int:
        """Slots it placed again."""
    @property
    def strikes(self) -> int:
        """Raises in a row."""
    @property
    def last_error(self) -> str | None:
        """What it raised last."""
    @property
    def last_run_at(self) -> datetime | None:
        """When it ran last."""
    @property
    def last_took(self) -> timedelta:
        """How long that took."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MigrationCost:
    """What moving a replica would cost; scores are compared after it."""

    __match_args__: Final = ()
    def __new__(
        cls, *, state_transfer: timedelta = ..., disruption: timedelta = ..., reliability_factor: float = 1.0
    ) -> Self: ...
    @property
    def state_transfer(self) -> timedelta:
        """Time to copy."""
    @property
    def disruption(self) -> timedelta:
        """Time in which the copy is of no use."""
    @property
    def reliability_factor(self) -> float:
        """Weight of both; one that is not positive and finite counts as 1."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class SchedulerRegistry:
    """The slot of the active scorer; may be shared."""

    def __new__(cls) -> Self: ...
    def install(self, scorer: PlacementScorer) -> PlacementScorer | None:
        """Use `scorer` from the next pass on; returns the one before. Raises `TypeError` for an object that is none."""
    def current(self) -> PlacementScorer | None: ...
    def has_scorer(self) -> bool: ...

# ---------------------------------------------------------------- the behaviour loop: actions

@final
class Cause:
    """What led to an action."""

    __match_args__: Final = ("kind", "detail", "envelope_id")
    def __new__(
        cls,
        kind: Literal["event", "probe", "timer", "operator", "sweep"] = "event",
        detail: str = "",
        envelope_id: bytes | None = None,
    ) -> Self: ...
    @property
    def kind(self) -> Literal["event", "probe", "timer", "operator", "sweep"]:
        """What sort of thing."""
    @property
    def detail(self) -> str:
        """Which, in a few words."""
    @property
    def envelope_id(self) -> bytes | None:
        """The envelope, 16 bytes, when an operator ordered it."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class StartDaemon:
    """Make the daemon run; it may run already."""

    __match_args__: Final = ("daemon",)
    kind: ClassVar[Literal["start_daemon"]]
    def __new__(cls, daemon: DaemonRef, *, cause: Cause = ...) -> Self: ...
    @property
    def daemon(self) -> DaemonRef:
        """Which daemon."""
    @property
    def cause(self) -> Cause:
        """What led to it; not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class StopDaemon:
    """Stop the daemon, by force after `deadline`; it may be stopped already."""

    __match_args__: Final = ("daemon", "reason", "deadline")
    kind: ClassVar[Literal["stop_daemon"]]
    def __new__(cls, daemon: DaemonRef, reason: str, deadline: datetime, *, cause: Cause = ...) -> Self: ...
    @property
    def daemon(self) -> DaemonRef:
        """Which daemon."""
    @property
    def reason(self) -> str:
        """Why, for people."""
    @property
    def deadline(self) -> datetime:
        """Until when it may take its time."""
    @property
    def cause(self) -> Cause:
        """What led to it; not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ApplyBackoff:
    """Do not start the daemon before `until`."""

    __match_args__: Final = ("daemon", "until")
    kind: ClassVar[Literal["apply_backoff"]]
    def __new__(cls, daemon: DaemonRef, until: datetime, *, cause: Cause = ...) -> Self: ...
    @property
    def daemon(self) -> DaemonRef:
        """Which daemon."""
    @property
    def until(self) -> datetime:
        """Until when."""
    @property
    def cause(self) -> Cause:
        """What led to it; not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class PullReplica:
    """Copy a chain from `source` to this node."""

    __match_args__: Final = ("chain", "source")
    kind: ClassVar[Literal["pull_replica"]]
    def __new__(cls, chain: _OriginHash, source: _NodeId, *, cause: Cause = ...) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def source(self) -> _NodeId:
        """From which node."""
    @property
    def cause(self) -> Cause:
        """What led to it; not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DropReplica:
    """Drop this node's copy of a chain."""

    __match_args__: Final = ("chain",)
    kind: ClassVar[Literal["drop_replica"]]
    def __new__(cls, chain: _OriginHash, *, cause: Cause = ...) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def cause(self) -> Cause:
        """What led to it; not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class RequestPlacement:
    """Have one more node hold the chain: `target` if given, else one not in `exclude`."""

    __match_args__: Final = ("chain", "exclude", "target")
    kind: ClassVar[Literal["request_placement"]]
    def __new__(
        cls, chain: _OriginHash, exclude: tuple[_NodeId, ...], target: _NodeId | None, *, cause: Cause = ...
    ) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def exclude(self) -> tuple[_NodeId, ...]:
        """Not these nodes, ascending."""
    @property
    def target(self) -> _NodeId | None:
        """This node."""
    @property
    def cause(self) -> Cause:
        """What led to it; not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class RequestEviction:
    """Have `victim` drop the chain."""

    __match_args__: Final = ("chain", "victim")
    kind: ClassVar[Literal["request_eviction"]]
    def __new__(cls, chain: _OriginHash, victim: _NodeId, *, cause: Cause = ...) -> Self: ...
    @property
    def chain(self) -> _OriginHash:
        """Which chain."""
    @property
    def victim(self) -> _NodeId:
        """Which node."""
    @property
    def cause(self) -> Cause:
        """What led to it; not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MarkAvoid:
    """Tell whoever places things that a peer is avoided; the loop's own list has it already."""

    __match_args__: Final = ("peer", "reason", "until")
    kind: ClassVar[Literal["mark_avoid"]]
    def __new__(cls, peer: _NodeId, reason: str, until: datetime, *, cause: Cause = ...) -> Self: ...
    @property
    def peer(self) -> _NodeId:
        """Which node."""
    @property
    def reason(self) -> str:
        """Why, for people."""
    @property
    def until(self) -> datetime:
        """Until when."""
    @property
    def cause(self) -> Cause:
        """What led to it; not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class CommitMaintenanceTransition:
    """Commit this node's next maintenance state, and publish it back as observed."""

    __match_args__: Final = ("node", "target")
    kind: ClassVar[Literal["commit_maintenance_transition"]]
    def __new__(cls, node: _NodeId, target: MaintenanceState, *, cause: Cause = ...) -> Self: ...
    @property
    def node(self) -> _NodeId:
        """This node."""
    @property
    def target(self) -> MaintenanceState:
        """The next state."""
    @property
    def cause(self) -> Cause:
        """What led to it; not compared."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class BackpressureChange:
    """The executor's queue crossed its mark; `level` is 0 to 1."""

    __match_args__: Final = ("asserted", "level")
    def __new__(cls, asserted: bool, level: float) -> Self: ...
    @property
    def asserted(self) -> bool:
        """Whether it rose above it."""
    @property
    def level(self) -> float:
        """How full the queue is."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- the behaviour loop: daemons, chains and other nodes

@final
class Idle:
    """May start at once."""

    __match_args__: Final = ()
    def __new__(cls) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class BackingOff:
    """Waits after a crash."""

    __match_args__: Final = ("until",)
    def __new__(cls, until: datetime) -> Self: ...
    @property
    def until(self) -> datetime:
        """Until when."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class CrashLooping:
    """Crashed too often and cools down."""

    __match_args__: Final = ("until",)
    def __new__(cls, until: datetime) -> Self: ...
    @property
    def until(self) -> datetime:
        """Until when."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class CrashRecord:
    """Why a daemon crashed last."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        exception: str,
        message: str,
        at: datetime,
        event_origin: _OriginHash | None,
        event_sequence: int | None,
    ) -> Self: ...
    @property
    def exception(self) -> str:
        """Class name of the exception; empty when there was none."""
    @property
    def message(self) -> str:
        """Its text, or the reason when there was no exception."""
    @property
    def at(self) -> datetime:
        """When."""
    @property
    def event_origin(self) -> _OriginHash | None:
        """Origin of the event it failed on, if it was one."""
    @property
    def event_sequence(self) -> int | None:
        """Number of that event."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DaemonSnapshot:
    """One daemon that runs, ran or is wanted."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        ref: DaemonRef,
        intent: DaemonIntent | None,
        lifecycle: Lifecycle,
        health: _Health | None,
        saturation: float,
        restart_state: RestartState,
        restarts: int,
        last_crash: CrashRecord | None,
        started_at: datetime | None,
        placement: _NodeId,
        capabilities: CapabilitySet | None = None,
    ) -> Self: ...
    @property
    def ref(self) -> DaemonRef: ...
    @property
    def intent(self) -> DaemonIntent | None:
        """What is wanted of it; `None`: nothing."""
    @property
    def lifecycle(self) -> Lifecycle:
        """Where it is."""
    @property
    def health(self) -> _Health | None:
        """What it said of itself since it started last."""
    @property
    def saturation(self) -> float:
        """Its load since it started last, 0 to 1."""
    @property
    def capabilities(self) -> CapabilitySet | None:
        """What it adds to its node, as its author published last; `None`: nothing was published."""
    @property
    def restart_state(self) -> RestartState:
        """Whether it may start."""
    @property
    def restarts(self) -> int:
        """Starts after a crash."""
    @property
    def last_crash(self) -> CrashRecord | None:
        """Why it crashed last."""
    @property
    def started_at(self) -> datetime | None:
        """When it started last."""
    @property
    def placement(self) -> _NodeId:
        """The node it is on."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ReplicaSnapshot:
    """One replicated chain."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        holders: tuple[_NodeId, ...],
        desired_count: int | None,
        leader: _NodeId | None,
        term: int,
    ) -> Self: ...
    @property
    def holders(self) -> tuple[_NodeId, ...]:
        """Nodes that hold a copy, ascending."""
    @property
    def desired_count(self) -> int | None:
        """How many copies are wanted; `None`: nobody said."""
    @property
    def leader(self) -> _NodeId | None:
        """The node that leads."""
    @property
    def term(self) -> int:
        """Term of the election that said so."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class PeerSnapshot:
    """Another node; `None` where nothing is known."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        rtt: timedelta | None,
        health: NodeHealth | None,
        maintenance: MaintenancePhase | None,
        cordoned: bool,
        cpu_load_1m: float | None,
        mem_used_bytes: int | None,
        mem_total_bytes: int | None,
        disk_used_bytes: int | None,
        disk_total_bytes: int | None,
        saturation_trend: float | None,
        capability_set: frozenset[str],
        software_version: str | None,
        forked_from: _NodeId | None,
    ) -> Self: ...
    @property
    def rtt(self) -> timedelta | None:
        """Round trip as sampled last."""
    @property
    def health(self) -> NodeHealth | None:
        """How it looks."""
    @property
    def maintenance(self) -> MaintenancePhase | None:
        """Its maintenance."""
    @property
    def cordoned(self) -> bool:
        """Whether nothing new is placed on it."""
    @property
    def cpu_load_1m(self) -> float | None:
        """Load average of one minute."""
    @property
    def mem_used_bytes(self) -> int | None:
        """Memory in use."""
    @property
    def mem_total_bytes(self) -> int | None:
        """Memory there is."""
    @property
    def disk_used_bytes(self) -> int | None:
        """Disk in use."""
    @property
    def disk_total_bytes(self) -> int | None:
        """Disk there is."""
    @property
    def saturation_trend(self) -> float | None:
        """Where its load is heading, 0 to 1."""
    @property
    def capability_set(self) -> frozenset[str]:
        """Capability tags."""
    @property
    def software_version(self) -> str | None:
        """Version of its software."""
    @property
    def forked_from(self) -> _NodeId | None:
        """The node it was forked from."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class AvoidEntry:
    """A peer that nothing new is placed on."""

    __match_args__: Final = ("reason", "until")
    def __new__(cls, reason: str, until: datetime) -> Self: ...
    @property
    def reason(self) -> str:
        """Why, for people."""
    @property
    def until(self) -> datetime:
        """Until when."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- the behaviour loop: work

@final
class ActionSnapshot:
    """An action that was emitted."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        action_id: int,
        kind: str,
        target: int | None,
        state: Literal["queued", "deferred", "running", "awaiting_confirmation", "done", "failed"],
        emitted_at: datetime,
        attempts: int,
    ) -> Self: ...
    @property
    def action_id(self) -> int:
        """Its number, rising from 1 in a run."""
    @property
    def kind(self) -> str:
        """Its stable name."""
    @property
    def target(self) -> int | None:
        """The daemon, chain or node it is about."""
    @property
    def state(self) -> Literal["queued", "deferred", "running", "awaiting_confirmation", "done", "failed"]:
        """Where it is; "done": it is not under way any more."""
    @property
    def emitted_at(self) -> datetime:
        """When it was emitted."""
    @property
    def attempts(self) -> int:
        """Dispatches so far; 0 when it is not under way any more."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class CallbackStatus:
    """How one piece of user code on the callback lane is doing."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        calls: int,
        failures: int,
        late: int,
        disabled: bool,
        slowest: timedelta,
        last_error: str | None,
    ) -> Self: ...
    @property
    def calls(self) -> int:
        """Calls that ended."""
    @property
    def failures(self) -> int:
        """Calls that raised or gave back something they must not."""
    @property
    def late(self) -> int:
        """Answers that came after the budget."""
    @property
    def disabled(self) -> bool:
        """Whether it failed too often in a row and is left alone for a while."""
    @property
    def slowest(self) -> timedelta:
        """Longest call."""
    @property
    def last_error(self) -> str | None:
        """What it raised last."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class LoopMetrics:
    """How the loop is doing."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        tick_took: timedelta,
        event_queue_depth: int,
        action_queue_depth: int,
        dropped_actions: int,
        refused_events: int,
        sweep_repairs: int,
    ) -> Self: ...
    @property
    def tick_took(self) -> timedelta:
        """Time of the last pass."""
    @property
    def event_queue_depth(self) -> int:
        """Events that wait."""
    @property
    def action_queue_depth(self) -> int:
        """Actions that wait."""
    @property
    def dropped_actions(self) -> int:
        """Emissions that the full queue refused."""
    @property
    def refused_events(self) -> int:
        """Events that a full queue refused."""
    @property
    def sweep_repairs(self) -> int:
        """Changes that only the full sweep found; 0 unless meshos has a bug."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ExecutorStatsSnapshot:
    """Counters of the executor."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        dispatched: int,
        failed: int,
        deferred: int,
        gated: int,
        dispatch_retries: int,
        superseded: int,
        cluster_backpressure_asserts: int,
        cluster_backpressure_releases: int,
        chain_append_failures: int,
    ) -> Self: ...
    @property
    def dispatched(self) -> int:
        """Carried out."""
    @property
    def failed(self) -> int:
        """Failed for good, each once."""
    @property
    def deferred(self) -> int:
        """Waited for a throttle."""
    @property
    def gated(self) -> int:
        """Refused by a gate at the last moment."""
    @property
    def dispatch_retries(self) -> int:
        """Tried again because the dispatcher asked for it."""
    @property
    def superseded(self) -> int:
        """Taken back because nobody wanted it any more."""
    @property
    def cluster_backpressure_asserts(self) -> int:
        """Rising edges of back-pressure."""
    @property
    def cluster_backpressure_releases(self) -> int:
        """Falling edges."""
    @property
    def chain_append_failures(self) -> int:
        """Action records that the appender could not keep."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class RuntimeStats:
    """What a runtime did in its life."""

    __match_args__: Final = ()
    def __new__(cls, *, reconcile_passes: int, executor: ExecutorStatsSnapshot, dropped_actions: int) -> Self: ...
    @property
    def reconcile_passes(self) -> int:
        """Passes of its loop."""
    @property
    def executor(self) -> ExecutorStatsSnapshot:
        """What its executor did."""
    @property
    def dropped_actions(self) -> int:
        """Emissions that the executor's full queue refused."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class RuntimeHealth:
    """Whether the parts of a runtime are alive."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        loop_alive: bool,
        executor_alive: bool,
        last_tick_at: datetime,
        last_tick_took: timedelta,
    ) -> Self: ...
    @property
    def loop_alive(self) -> bool:
        """Whether the loop is."""
    @property
    def executor_alive(self) -> bool:
        """Whether the executor is."""
    @property
    def last_tick_at(self) -> datetime:
        """When the last pass began."""
    @property
    def last_tick_took(self) -> timedelta:
        """How long it took."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MetadataView:
    """What a daemon may know of where it runs."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        node_id: _NodeId,
        daemon: DaemonRef,
        maintenance: MaintenanceState,
        peers: Mapping[_NodeId, PeerSnapshot],
    ) -> Self: ...
    @property
    def node_id(self) -> _NodeId:
        """The node."""
    @property
    def daemon(self) -> DaemonRef:
        """The daemon."""
    @property
    def maintenance(self) -> MaintenanceState:
        """Maintenance of the node."""
    @property
    def peers(self) -> Mapping[_NodeId, PeerSnapshot]:
        """Other nodes."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- the behaviour loop: moves

@final
class MigrationSnapshot:
    """A move under way, as operators see it."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        daemon_origin: _OriginHash,
        phase: MigrationPhase,
        started_at: datetime,
        phase_entered_at: datetime,
        source_node: _NodeId,
        target_node: _NodeId,
        snapshot_bytes: int | None,
        bytes_moved: int,
        retries: int,
        buffered_events: int | None,
    ) -> Self: ...
    @property
    def daemon_origin(self) -> _OriginHash:
        """The daemon that moves."""
    @property
    def phase(self) -> MigrationPhase:
        """Its phase."""
    @property
    def started_at(self) -> datetime:
        """When it began."""
    @property
    def phase_entered_at(self) -> datetime:
        """When its phase began."""
    @property
    def source_node(self) -> _NodeId:
        """From which node."""
    @property
    def target_node(self) -> _NodeId:
        """To which node."""
    @property
    def snapshot_bytes(self) -> int | None:
        """Size of the snapshot; `None`: not taken yet."""
    @property
    def bytes_moved(self) -> int:
        """Bytes that reached the target."""
    @property
    def retries(self) -> int:
        """Steps that were repeated."""
    @property
    def buffered_events(self) -> int | None:
        """Events held back for the target; `None` where this node cannot know."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MigrationOpts:
    """How to move a daemon."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        mode: Literal["stop", "live"] = "stop",
        transport_identity: bool = True,
        retry_not_ready: timedelta | None = ...,
        freeze_max: timedelta = ...,
        deadline: timedelta = ...,
        bytes_per_second_max: int | None = None,
    ) -> Self:
        """Raise `ConfigError` for an option out of range."""
    @property
    def mode(self) -> Literal["stop", "live"]:
        """ "stop": freeze, copy, go on there; "live": copy while it works, and freeze only for the last events."""
    @property
    def transport_identity(self) -> bool:
        """Seal the key to the target; without it the daemon works there, and cannot sign."""
    @property
    def retry_not_ready(self) -> timedelta | None:
        """How long to retry a side that is not ready, or does not answer, 30 s; `None`: not at all. At most 30 days."""
    @property
    def freeze_max(self) -> timedelta:
        """Longest time that it stands still, 2 s; a move that would take longer is aborted. 1 ms to 2 min.

        The factory at the target, before that, has as long, or 5 s if that is longer, until the target counts as not ready.
        """
    @property
    def deadline(self) -> timedelta:
        """Longest whole move before its commit point, 10 min. 1 ms to 30 days."""
    @property
    def bytes_per_second_max(self) -> int | None:
        """Bytes of it that travel in a second at most; `None`: as many as can."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MigrationOutcome:
    """A move that reached its target."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        origin_hash: _OriginHash,
        source_node: _NodeId,
        target_node: _NodeId,
        epoch: int,
        took: timedelta,
        blackout: timedelta,
        snapshot_took: timedelta,
        bytes_moved: int,
        rounds: int,
        mode: Literal["stop", "live"],
    ) -> Self: ...
    @property
    def origin_hash(self) -> _OriginHash:
        """The daemon."""
    @property
    def source_node(self) -> _NodeId:
        """From which node."""
    @property
    def target_node(self) -> _NodeId:
        """To which node."""
    @property
    def epoch(self) -> int:
        """The target's term of ownership."""
    @property
    def took(self) -> timedelta:
        """From the order to the confirmation of the target."""
    @property
    def blackout(self) -> timedelta:
        """From the freeze to the confirmation of the target that it owns."""
    @property
    def snapshot_took(self) -> timedelta:
        """How long the daemon's own `snapshot` took."""
    @property
    def bytes_moved(self) -> int:
        """Bytes that travelled."""
    @property
    def rounds(self) -> int:
        """Times that it was copied."""
    @property
    def mode(self) -> Literal["stop", "live"]:
        """How it was carried out: a live move whose replay differed ends as "stop"."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MoveCore:
    @property
    def origin_hash(self) -> _OriginHash: ...
    @property
    def source_node(self) -> _NodeId: ...
    @property
    def target_node(self) -> _NodeId: ...
    @property
    def attempt(self) -> bytes: ...
    def phase(self) -> MigrationPhase: ...
    def progress(self) -> MigrationSnapshot: ...
    def wait(self, timeout: timedelta | None) -> MigrationOutcome: ...
    def on_end(self, wake: Callable[[], object]) -> int | None: ...
    def forget(self, ticket: int) -> None: ...
    def cancel(self) -> None: ...
    def phases(self) -> PhasesCore: ...

@final
class PhasesCore:
    def take(self, timeout: timedelta) -> MigrationPhase | None: ...
    def on_next(self, wake: Callable[[], object]) -> bool: ...
    def close(self) -> None: ...

@final
class MigrationStats:
    """What became of moves from here and to here."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        committed: int,
        aborted: int,
        arrived: int,
        queued: int,
        shipped: int,
        thawed: int,
        redirected: int,
        waiting: int,
        refused: int,
        taken_in: int,
        sent_on: int,
        malformed: int,
        forged: int,
        full: int,
        alarms: int,
    ) -> Self: ...
    @property
    def committed(self) -> int:
        """Moves away from here that were committed."""
    @property
    def aborted(self) -> int:
        """Moves away from here that were aborted."""
    @property
    def arrived(self) -> int:
        """Daemons that came here."""
    @property
    def queued(self) -> int:
        """Events that had to wait while a daemon stood still: the sum of the next four."""
    @property
    def shipped(self) -> int:
        """Of these, those that went with the daemon."""
    @property
    def thawed(self) -> int:
        """Of these, those that were given back after an abort."""
    @property
    def redirected(self) -> int:
        """Of these, those whose senders were told where the daemon is."""
    @property
    def waiting(self) -> int:
        """Of these, those that wait."""
    @property
    def refused(self) -> int:
        """Events that there was no room for; their senders try again."""
    @property
    def taken_in(self) -> int:
        """Events that came here with a daemon, and were given to it first."""
    @property
    def sent_on(self) -> int:
        """Events that came here with a daemon that another node owned by then, and were sent on."""
    @property
    def malformed(self) -> int:
        """Messages that cannot be read."""
    @property
    def forged(self) -> int:
        """Messages with signatures that do not fit."""
    @property
    def full(self) -> int:
        """Messages that there was no room for."""
    @property
    def alarms(self) -> int:
        """Moves that somebody has to look at: long in doubt, or committed by a source of which this node knows nothing."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MigrationOrchestrator:
    """Drives the moves ordered on this node."""

    def list_migrations(self) -> tuple[MigrationSnapshot, ...]:
        """Return the moves under way, the oldest first."""
    def phase(self, origin_hash: _OriginHash) -> MigrationPhase | None:
        """Return the phase of the move of a daemon; `None` when there is none, or it is over."""
    def stats(self) -> MigrationStats:
        """Return what became of moves from this node and to it."""
    def abort(self, origin_hash: _OriginHash, *, reason: str) -> bool:
        """Ask for an abort; whether there is such a move. The source decides, and `reason` is in the `MigrationError`."""

# ---------------------------------------------------------------- the protocol of moves, for tools and tests

@final
class SnapshotChunk:
    """A part of an encoded snapshot."""

    __match_args__: Final = ("index", "total", "digest", "data")
    def __new__(cls, index: int, total: int, digest: _BytesLike, data: _BytesLike) -> Self: ...
    @property
    def index(self) -> int:
        """Which part, from 0."""
    @property
    def total(self) -> int:
        """How many there are."""
    @property
    def digest(self) -> bytes:
        """BLAKE3 of `data`."""
    @property
    def data(self) -> bytes:
        """The bytes. All parts but the last have as many."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def chunk_snapshot(snapshot: StateSnapshot, *, chunk_bytes_max: int = 1048576) -> Iterator[SnapshotChunk]:
    """Cut an encoded snapshot into chunks of at most `MAX_SNAPSHOT_CHUNK_SIZE` bytes; raises `InvalidArgument`."""

@final
class _Chunks:
    def __iter__(self) -> Self: ...
    def __next__(self) -> SnapshotChunk: ...

@final
class SnapshotReassembler:
    """Puts chunks together again, in any order, twice too."""

    def __new__(cls, total: int, snapshot_bytes: int, *, bytes_max: int = 17179869184) -> Self:
        """Expect that many chunks and bytes; raises `InvalidArgument` above `bytes_max`, `MAX_SNAPSHOT_SIZE`."""
    def add(self, chunk: SnapshotChunk) -> StateSnapshot | None:
        """Take one chunk, and return the snapshot with the last.

        Raises `SnapshotDecodeError` for a chunk that was altered or does not fit, and it changed nothing. A chunk that
        came before changes nothing either.
        """
    def missing(self) -> tuple[int, ...]:
        """Return the indexes of the chunks that did not come yet."""

@final
class MigrationMessage:
    """One message of a move; `body` is as documented for its `kind`.

    Who sent it and who gets it is not in its bytes: what carries it says so.
    """

    __match_args__: Final = ("kind", "attempt", "entity_id", "epoch", "step", "body")
    def __new__(
        cls,
        kind: MigrationMessageKind,
        attempt: _BytesLike,
        entity_id: EntityId,
        epoch: int,
        step: int,
        body: _BytesLike,
        *,
        sender: EntityId | None = None,
        receiver: EntityId | None = None,
    ) -> Self:
        """Raise `InvalidArgument` unless this is a message that can be read."""
    @classmethod
    def prepare(
        cls,
        signer: Identity,
        entity_id: EntityId,
        epoch: int,
        source: EntityId,
        target: EntityId,
        *,
        kind: str,
        not_after: datetime,
        orchestrator: EntityId | None = None,
        freeze_max: timedelta | None = None,
        state_bytes: int = 0,
    ) -> Self:
        """Order a move, signed by `signer`, who sees to it where no `orchestrator` is named; a fresh attempt each time."""
    @property
    def kind(self) -> MigrationMessageKind:
        """What it is."""
    @property
    def attempt(self) -> bytes:
        """16 bytes that name the attempt."""
    @property
    def entity_id(self) -> EntityId:
        """The daemon."""
    @property
    def epoch(self) -> int:
        """The owner's term when the order was written."""
    @property
    def step(self) -> int:
        """Which message of its sender about the move it is, from 1."""
    @property
    def body(self) -> bytes:
        """What it says."""
    @property
    def sender(self) -> EntityId | None:
        """The node that sent it, as what carried it says."""
    @property
    def receiver(self) -> EntityId | None:
        """The node that gets it."""
    def to_bytes(self) -> bytes:
        """Return its form on the wire."""
    @classmethod
    def from_bytes(cls, data: _BytesLike, *, sender: EntityId | None = None, receiver: EntityId | None = None) -> Self:
        """Read exactly one; raises `InvalidArgument`. Signatures are not checked."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class IdentityEnvelope:
    """The key of a daemon, sealed to the target of one order; nobody else can open it."""

    @classmethod
    def seal(cls, identity: Identity, order: MigrationMessage) -> Self:
        """Seal the key of the daemon of a "prepare" message to its target; raises `InvalidArgument`, `IdentityError`."""
    def open(self, node: Identity, order: MigrationMessage) -> Identity:
        """Open it as the target of the order; raises `IdentityError`."""
    def to_bytes(self) -> bytes:
        """Return its form on the wire, 80 bytes."""
    @classmethod
    def from_bytes(cls, data: _BytesLike) -> Self:
        """Read exactly one; raises `InvalidArgument`."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class MigrationSourceHandler:
    """The source's table of the protocol as a function: no clock, no socket.

    What travels is the snapshot as it is, not sealed. `rows` of a handler, given to another one, are what a node knows
    after a crash.
    """

    def __new__(
        cls,
        node: EntityId,
        identity: Identity,
        snapshot: StateSnapshot,
        lineage: Iterable[OwnershipRecord],
        *,
        rows: Iterable[tuple[int, bytes, bytes]] = (),
    ) -> Self:
        """Stand at `snapshot`, owned as `lineage` says; `identity` signs the record that gives the daemon away."""
    def step(self, now: datetime, message: MigrationMessage | None = None) -> tuple[MigrationMessage, ...]:
        """Take a message, or only the time, and return what to send; what has to be durable first is in `rows`."""
    def phase(self) -> MigrationPhase | None:
        """Return where it is; `COMPLETE` once the target has confirmed."""
    def rows(self) -> tuple[tuple[int, bytes, bytes], ...]:
        """Return what is durable: table, key and value of each row."""

@final
class MigrationTargetHandler:
    """The target's table of the protocol as a function: no clock, no socket.

    `rows` of a handler, given to another one, are what a node knows after a crash.
    """

    def __new__(
        cls,
        node: EntityId,
        entity_id: EntityId,
        *,
        bytes_max: int = 1073741824,
        rows: Iterable[tuple[int, bytes, bytes]] = (),
    ) -> Self: ...
    def step(self, now: datetime, message: MigrationMessage | None = None) -> tuple[MigrationMessage, ...]:
        """Take a message, or only the time, and return what to send; what has to be durable first is in `rows`."""
    def phase(self) -> MigrationPhase | None:
        """Return where it is; `COMPLETE` once it owns."""
    def snapshot(self) -> StateSnapshot | None:
        """Return the snapshot that it went live with."""
    def rows(self) -> tuple[tuple[int, bytes, bytes], ...]:
        """Return what is durable: table, key and value of each row."""

# ---------------------------------------------------------------- the behaviour loop: records

@final
class FailureSource:
    """Where a failure came from."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        part: Literal["action", "callback", "probe", "recovery", "appender", "migration", "loop"],
        name: str,
        target: int | None = None,
        action_id: int | None = None,
        envelope_id: bytes | None = None,
    ) -> Self: ...
    @property
    def part(self) -> Literal["action", "callback", "probe", "recovery", "appender", "migration", "loop"]:
        """Which part."""
    @property
    def name(self) -> str:
        """Kind of the action, or name of the callback."""
    @property
    def target(self) -> int | None:
        """The daemon, chain or node it was about."""
    @property
    def action_id(self) -> int | None:
        """The action."""
    @property
    def envelope_id(self) -> bytes | None:
        """The envelope, 16 bytes, when an operator ordered it."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class FailureRecord:
    """Something that did not work."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        seq: int,
        at: datetime,
        source: FailureSource,
        reason: str,
        traceback: str | None = None,
        chain_pending: bool = False,
    ) -> Self: ...
    @property
    def seq(self) -> int:
        """Its number, from 1 in a run."""
    @property
    def at(self) -> datetime:
        """When."""
    @property
    def source(self) -> FailureSource:
        """Where it came from."""
    @property
    def reason(self) -> str:
        """Why, for people."""
    @property
    def traceback(self) -> str | None:
        """Where in user code, for people."""
    @property
    def chain_pending(self) -> bool:
        """Whether an appender could not keep it."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class LogRecord:
    """One line of a daemon or of the node."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        seq: int,
        at: datetime,
        level: LogLevel,
        node: _NodeId,
        daemon: _OriginHash | None,
        message: str,
        chain_pending: bool = False,
    ) -> Self: ...
    @property
    def seq(self) -> int:
        """Its number, from 1 in a run."""
    @property
    def at(self) -> datetime:
        """When."""
    @property
    def level(self) -> LogLevel:
        """How severe."""
    @property
    def node(self) -> _NodeId:
        """Which node."""
    @property
    def daemon(self) -> _OriginHash | None:
        """Which daemon; `None`: the node itself."""
    @property
    def message(self) -> str:
        """The line."""
    @property
    def chain_pending(self) -> bool:
        """Whether an appender could not keep it."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class AdminAuditRecord:
    """One attempt at a command, whatever came of it; written before the effect."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        seq: int,
        committed_at: datetime,
        event: AdminEvent | IceAction,
        envelope_id: bytes | None,
        operator_ids: tuple[int, ...],
        reason: str,
        verdict: Verdict,
        rejected_kind: str | None,
        times: int = 1,
        chain_pending: bool = False,
    ) -> Self: ...
    @property
    def seq(self) -> int:
        """Its number, from 1 in a run."""
    @property
    def committed_at(self) -> datetime:
        """When."""
    @property
    def event(self) -> AdminEvent | IceAction:
        """What was ordered."""
    @property
    def envelope_id(self) -> bytes | None:
        """The envelope it came in, 16 bytes."""
    @property
    def operator_ids(self) -> tuple[int, ...]:
        """The operators whose signatures verified."""
    @property
    def reason(self) -> str:
        """Why, in the operator's words."""
    @property
    def verdict(self) -> Verdict:
        """What the node made of it."""
    @property
    def rejected_kind(self) -> str | None:
        """Stable name of the reason, when refused."""
    @property
    def times(self) -> int:
        """How often the very same was refused; 1 of what was obeyed."""
    @property
    def chain_pending(self) -> bool:
        """Whether an appender could not keep it."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class RecordsReport:
    """What a file of records proves."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        records: int,
        first_seq: int,
        last_seq: int,
        head_digest: bytes,
        signed_through: int,
    ) -> Self: ...
    @property
    def records(self) -> int:
        """How many records were checked."""
    @property
    def first_seq(self) -> int:
        """Number of the first record; 0 without records."""
    @property
    def last_seq(self) -> int:
        """Number of the last record; 0 without records. Each run of a node begins at 1 again."""
    @property
    def head_digest(self) -> bytes:
        """Digest at the end: whoever knows it finds out about every change, also a cut."""
    @property
    def signed_through(self) -> int:
        """How many records, from the first, the signer vouches for; 0 without a signer."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class RecordFile:
    def __new__(
        cls,
        kind: Literal["audit", "log", "failure", "action"],
        path: str | PathLike[str],
        signer: Identity | None,
    ) -> Self: ...
    @staticmethod
    def in_store(kind: Literal["audit", "log", "failure", "action"], store: Store) -> RecordFile: ...
    def append(self, record: object) -> None: ...
    def close(self) -> None: ...

def verify_records(
    file: str | PathLike[str],
    *,
    kind: Literal["audit", "log", "failure", "action"] = "audit",
    signer: EntityId | None = None,
    head_digest: BytesLike | None = None,
) -> RecordsReport:
    """Check a file of an appender: every link, and the signer or an end known from elsewhere.

    Args:
        file: What a `FileAdminAuditAppender` or its like has written; it may still be open. Or the folder of a store that
            no process has open.
        kind: Which records of a store; a file says so itself.
        signer: Whose signatures count for `signed_through`.
        head_digest: The digest that the file is known to end with, from an earlier report.

    Raises:
        ChainError: The first bad record. `FileDecodeError`: it cannot be read, also because the file was cut inside of
            it. `BrokenLink` "altered": it, or something before it, was changed, removed or moved; "receipt": the file
            does not end with `head_digest`. `BadSignature`: a head before it is not signed by who it names.
        OSError: The file cannot be opened.
    """

def read_records(
    file: str | PathLike[str], *, kind: Literal["audit", "log", "failure", "action"] = "audit"
) -> tuple[Record, ...]:
    """Check a file of an appender, and return its records, oldest first; raises `ChainError`, `OSError`.

    `file` may be the folder of a store that no process has open; `kind` says which of its records.
    """

@final
class MaintenanceOrder:
    """A node that operators want out of service."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        node: int,
        since: datetime,
        deadline: datetime | None,
        returns: bool,
    ) -> Self: ...
    @property
    def node(self) -> int:
        """Which node."""
    @property
    def since(self) -> datetime:
        """Since when."""
    @property
    def deadline(self) -> datetime | None:
        """By when it shall be drained; `None`: as the node is configured."""
    @property
    def returns(self) -> bool:
        """Whether it comes back by itself, at the deadline at the latest."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ForcedOrder:
    """Something that operators force on a chain; it may have been carried out."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        chain: int,
        order: Literal["evict", "cutover"],
        node: int,
        until: datetime,
        envelope_id: bytes | None,
    ) -> Self: ...
    @property
    def chain(self) -> int:
        """Which chain."""
    @property
    def order(self) -> Literal["evict", "cutover"]:
        """Whether a copy shall go or come."""
    @property
    def node(self) -> int:
        """The node."""
    @property
    def until(self) -> datetime:
        """When it is given up."""
    @property
    def envelope_id(self) -> bytes | None:
        """The envelope it came in, 16 bytes."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ReplayReport:
    """What an audit tells of: the state that commands alone decided, as it was at one moment."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        records: int,
        accepted: int,
        rejected: int,
        runs: int,
        at: datetime | None,
        freeze_until: datetime | None,
        cordoned: tuple[int, ...],
        maintenance: tuple[MaintenanceOrder, ...],
        forced: tuple[ForcedOrder, ...],
        envelopes: int,
        digest: bytes,
    ) -> Self: ...
    @property
    def records(self) -> int:
        """Commands in it."""
    @property
    def accepted(self) -> int:
        """Commands that took effect."""
    @property
    def rejected(self) -> int:
        """Commands that were refused."""
    @property
    def runs(self) -> int:
        """Runs that wrote it."""
    @property
    def at(self) -> datetime | None:
        """The moment; `None`: nothing is in it."""
    @property
    def freeze_until(self) -> datetime | None:
        """When a freeze ends; `None`: not frozen."""
    @property
    def cordoned(self) -> tuple[int, ...]:
        """Nodes that nothing new is placed on, ascending."""
    @property
    def maintenance(self) -> tuple[MaintenanceOrder, ...]:
        """Nodes that shall be out of service, ascending."""
    @property
    def forced(self) -> tuple[ForcedOrder, ...]:
        """What is forced on chains, and not given up."""
    @property
    def envelopes(self) -> int:
        """Envelopes that are remembered, to be obeyed once."""
    @property
    def digest(self) -> bytes:
        """Digest of the state, as a running node shows it in its snapshot."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def replay_records(file: str | PathLike[str], *, at: datetime | None = None) -> ReplayReport:
    """Check a file of audit records, and tell what commands alone had decided.

    A node that keeps its audit there shows the same digest as `MeshOsSnapshot.control_digest`, once it has written what
    it obeyed.

    Args:
        file: What a `FileAdminAuditAppender` has written. It may still be open; an entry that is written at this moment
            counts as one that was cut.
        at: Only what was recorded until then, and what holds then; `None`: all, and what held at the last record.

    Raises:
        ChainError: The first bad record, as for `verify_records`. `FileDecodeError`: it keeps other records.
        OSError: The file cannot be opened.
    """

@final
class ActionRecord:
    """What became of one action."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        seq: int,
        at: datetime,
        action_id: int,
        action: str,
        disposition: Literal["dispatched", "failed", "gated", "superseded"],
        reason: str,
        retry_after: timedelta | None = None,
        chain_pending: bool = False,
    ) -> Self: ...
    @property
    def seq(self) -> int:
        """Its number, from 1 in a run."""
    @property
    def at(self) -> datetime:
        """When."""
    @property
    def action_id(self) -> int:
        """The action."""
    @property
    def action(self) -> str:
        """Its stable name."""
    @property
    def disposition(self) -> Literal["dispatched", "failed", "gated", "superseded"]:
        """What became of it."""
    @property
    def reason(self) -> str:
        """Why, for people; empty when it was carried out."""
    @property
    def retry_after(self) -> timedelta | None:
        """When it is tried again."""
    @property
    def chain_pending(self) -> bool:
        """Whether an appender could not keep it."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- the behaviour loop: why, and how many

@final
class Reason:
    """One thing that holds a daemon or a chain where it is."""

    __match_args__: Final = ("kind", "text", "until")
    def __new__(cls, kind: str, text: str, until: datetime | None = None) -> Self: ...
    @property
    def kind(self) -> str:
        """Stable name."""
    @property
    def text(self) -> str:
        """For people."""
    @property
    def until(self) -> datetime | None:
        """Until when it holds."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Explanation:
    """Why a daemon or a chain is as it is; `str()` is for people."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        subject: DaemonRef | _OriginHash,
        desired: str,
        actual: str,
        rule: str,
        reasons: tuple[Reason, ...],
    ) -> Self: ...
    @property
    def subject(self) -> DaemonRef | _OriginHash:
        """What is explained."""
    @property
    def desired(self) -> str:
        """What is wanted, for people."""
    @property
    def actual(self) -> str:
        """What is, for people."""
    @property
    def rule(self) -> str:
        """Stable name of the rule that decides."""
    @property
    def reasons(self) -> tuple[Reason, ...]:
        """What holds it."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class PeerCounts:
    """Nodes by health."""

    __match_args__: Final = ()
    def __new__(cls, *, healthy: int, degraded: int, unreachable: int, unknown: int) -> Self: ...
    @property
    def healthy(self) -> int:
        """Those that answer in time."""
    @property
    def degraded(self) -> int:
        """Those that answer late."""
    @property
    def unreachable(self) -> int:
        """Those that do not answer."""
    @property
    def unknown(self) -> int:
        """Those whose health nobody sampled."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class DaemonCounts:
    """Daemons by lifecycle; the last two overlap with the others."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        running: int,
        starting: int,
        stopping: int,
        stopped: int,
        backing_off: int,
        crash_looping: int,
    ) -> Self: ...
    @property
    def running(self) -> int:
        """Those that run."""
    @property
    def starting(self) -> int:
        """Those whose start is under way."""
    @property
    def stopping(self) -> int:
        """Those whose stop is under way."""
    @property
    def stopped(self) -> int:
        """Those that do not run."""
    @property
    def backing_off(self) -> int:
        """Those that wait after a crash."""
    @property
    def crash_looping(self) -> int:
        """Those that crashed too often and cool down."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class StatusSummary:
    """A snapshot in one line."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        peers: PeerCounts,
        daemons: DaemonCounts,
        replica_chains: int,
        avoid_list_entries: int,
        recently_emitted: int,
        recent_failures: int,
        frozen: bool,
        local_maintenance: MaintenancePhase,
    ) -> Self: ...
    @property
    def peers(self) -> PeerCounts:
        """Other nodes."""
    @property
    def daemons(self) -> DaemonCounts:
        """Daemons."""
    @property
    def replica_chains(self) -> int:
        """Replicated chains."""
    @property
    def avoid_list_entries(self) -> int:
        """Peers that nothing new is placed on."""
    @property
    def recently_emitted(self) -> int:
        """Actions in `recently_emitted`."""
    @property
    def recent_failures(self) -> int:
        """Failures in `recent_failures`."""
    @property
    def frozen(self) -> bool:
        """Whether the cluster is frozen."""
    @property
    def local_maintenance(self) -> MaintenancePhase:
        """Maintenance of the node."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- the behaviour loop: its snapshot

@final
class MeshOsSnapshot:
    """One node's view after a pass of its loop. Immutable; shares what did not change with the one before.

    Only a runtime makes one: it has no constructor, and is not pickled. Two are equal when they are the same publication
    of the same run. A mapping makes the object of an entry when it is asked for it.
    """

    @property
    def runtime_epoch_id(self) -> int:
        """Random for each start; a change resets every `seq` a reader keeps."""
    @property
    def generation(self) -> int:
        """Rises by one for each change of content, never for the passing of time."""
    @property
    def tick(self) -> int:
        """Passes of the loop so far."""
    @property
    def published_at(self) -> datetime:
        """When it was published."""
    @property
    def this_node(self) -> _NodeId:
        """The node."""
    @property
    def authority(self) -> Literal["verified", "refused", "open"]:
        """What commands need to be obeyed: a verifier's word, or nothing ("open"), or they are all refused."""
    @property
    def control_digest(self) -> bytes:
        """Digest of what commands alone decided: a replay of the whole audit gives the same."""
    @property
    def daemons(self) -> Mapping[_OriginHash, DaemonSnapshot]:
        """Daemons by handle."""
    @property
    def replicas(self) -> Mapping[_OriginHash, ReplicaSnapshot]:
        """Replicated chains by origin."""
    @property
    def peers(self) -> Mapping[_NodeId, PeerSnapshot]:
        """Other nodes."""
    @property
    def avoid_list(self) -> Mapping[_NodeId, AvoidEntry]:
        """Peers that nothing new is placed on."""
    @property
    def local_maintenance(self) -> MaintenanceState:
        """Maintenance of the node."""
    @property
    def cordoned(self) -> bool:
        """Whether nothing new is placed on the node."""
    @property
    def freeze_until(self) -> datetime | None:
        """When a freeze ends; `None`: not frozen."""
    @property
    def in_flight(self) -> tuple[ActionSnapshot, ...]:
        """Actions under way, in the order of their numbers."""
    @property
    def recently_emitted(self) -> tuple[ActionSnapshot, ...]:
        """The newest emissions, oldest first."""
    @property
    def recent_failures(self) -> tuple[FailureRecord, ...]:
        """The newest failures, oldest first."""
    @property
    def in_flight_migrations(self) -> tuple[MigrationSnapshot, ...]:
        """Moves under way."""
    @property
    def recovery(self) -> tuple[RecoveryStatus, ...]:
        """Recovery handlers, in the order of their registration."""
    @property
    def callbacks(self) -> Mapping[str, CallbackStatus]:
        """Other user code, by name."""
    @property
    def audit_head_seq(self) -> int:
        """Number of the newest audit record; 0: none."""
    @property
    def log_head_seq(self) -> int:
        """Number of the newest line of the log; 0: none."""
    @property
    def failure_head_seq(self) -> int:
        """Number of the newest failure; 0: none."""
    @property
    def metrics(self) -> LoopMetrics:
        """How the loop is doing."""
    def summary(self) -> StatusSummary:
        """Count what is in it."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- threads

def configure_lanes(threads_max: int) -> None:
    """Set how many threads may run user code, 1 to 1024, 32 by default; raises `ConfigError` once a runtime was made."""

def _on_lane(function: Callable[[], _R], call: str) -> Future[_R]: ...
def _at_exit() -> None: ...
def _forked() -> None: ...
def _lane_stats() -> tuple[int, int, int, int]: ...

# ---------------------------------------------------------------- streams and queries

@final
class RolledBack:
    """Outputs of a daemon after `after`, up to `through`, do not stand any more."""

    __match_args__: Final = ("after", "through", "epoch")
    def __new__(cls, after: int, through: int, epoch: int) -> Self: ...
    @property
    def after(self) -> int:
        """The last that stands."""
    @property
    def through(self) -> int:
        """The last that was handed out."""
    @property
    def epoch(self) -> int:
        """The term of ownership that began with that."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Gap:
    """Items `first` to `last` were gone before the reader came to them."""

    __match_args__: Final = ("first", "last")
    def __new__(cls, first: int, last: int) -> Self: ...
    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class CommitReceipt:
    """A command that took effect: audited as `audit_seq`, visible in snapshots from `generation` on."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        envelope_id: bytes,
        event_kind: str,
        verdict: Verdict,
        operator_ids: tuple[int, ...],
        committed_at: datetime,
        audit_seq: int,
        generation: int,
    ) -> Self: ...
    @property
    def envelope_id(self) -> bytes:
        """The envelope it came in."""
    @property
    def event_kind(self) -> str:
        """Stable name of the command."""
    @property
    def verdict(self) -> Verdict:
        """What the node made of it: `UNVERIFIED` only where nobody checks."""
    @property
    def operator_ids(self) -> tuple[int, ...]:
        """Operators whose signatures verified, ascending."""
    @property
    def committed_at(self) -> datetime:
        """When it took effect."""
    @property
    def audit_seq(self) -> int:
        """Number of its audit record."""
    @property
    def generation(self) -> int:
        """Snapshots from this generation on show its effect."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Cooldown:
    """A target that break-glass actions have to leave alone until then."""

    __match_args__: Final = ("bucket", "until")
    def __new__(cls, bucket: str, until: datetime) -> Self: ...
    @property
    def bucket(self) -> str:
        """What it is about, such as `node:7` or `cluster:freeze`."""
    @property
    def until(self) -> datetime:
        """Until when."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class LogFilter:
    """Which lines of the log; all conditions hold together."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        min_level: LogLevel = LogLevel.TRACE,
        daemon: int | None = None,
        node: int | None = None,
        since: int = 0,
    ) -> Self: ...
    @property
    def min_level(self) -> LogLevel:
        """Only lines as severe."""
    @property
    def daemon(self) -> int | None:
        """Only lines of this daemon."""
    @property
    def node(self) -> int | None:
        """Only lines of this node."""
    @property
    def since(self) -> int:
        """Only lines with a higher number; 0: from the oldest in the ring."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class AuditQuery:
    """Which audit records; all conditions hold together."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        recent: int | None = None,
        by_operator: int | None = None,
        between: tuple[datetime, datetime] | None = None,
        since: int = 0,
        force_only: bool = False,
        verdict: Verdict | None = None,
        event_kind: str | None = None,
        target: int | None = None,
    ) -> Self: ...
    @property
    def recent(self) -> int | None:
        """At most so many of the newest."""
    @property
    def by_operator(self) -> int | None:
        """Signed by this operator, among others perhaps."""
    @property
    def between(self) -> tuple[datetime, datetime] | None:
        """Committed between these moments, both included."""
    @property
    def since(self) -> int:
        """Only records with a higher number; 0: from the oldest in the ring."""
    @property
    def force_only(self) -> bool:
        """Only break-glass actions."""
    @property
    def verdict(self) -> Verdict | None:
        """Only with this verdict."""
    @property
    def event_kind(self) -> str | None:
        """Only commands of this kind."""
    @property
    def target(self) -> int | None:
        """Only about this node, chain or daemon."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# ---------------------------------------------------------------- the behaviour loop, native half

@final
class ComputeCore:
    def __new__(cls, runtime: RuntimeCore) -> Self: ...
    def dispatch(self, wanted: MeshOsAction) -> None: ...

@final
class EarCore:
    def listen(self, timeout: timedelta) -> DaemonControl | None: ...
    def on_control(self, wake: Callable[[], object]) -> int | None: ...
    def forget_control(self, ticket: int) -> bool: ...
    def close(self) -> None: ...

@final
class LoopCore:
    def __new__(
        cls,
        config: MeshOsConfig,
        dispatcher: ActionDispatcher,
        probes: ProbeRegistry | None,
        scheduler: SchedulerRegistry | None,
        daemon_registry: DaemonRegistry | None,
        recovery: RecoveryRegistry | None,
        control_sink: ControlSink | None,
        admin_verifier: AdminVerifier | None,
        admin_audit_appender: AdminAuditChainAppender | None,
        log_appender: LogChainAppender | None,
        failure_appender: FailureChainAppender | None,
        action_appender: ActionChainAppender | None,
        migration_aborter: MigrationAborter | None,
        migration_snapshot_source: MigrationSnapshotSource | None,
    ) -> Self: ...
    def publish(self, event: MeshOsEvent, timeout: timedelta | None) -> None: ...
    def publish_many(self, events: Iterable[MeshOsEvent], timeout: timedelta | None) -> None: ...
    def set_intent(self, daemon: int, intent: DaemonIntent, node: int | None) -> None: ...
    def snapshot(self) -> MeshOsSnapshot: ...
    def wait_changed(self, generation: int, timeout: timedelta | None) -> MeshOsSnapshot: ...
    def on_change(self, generation: int, wake: Callable[[], object]) -> int | None: ...
    def forget_change(self, ticket: int) -> bool: ...
    def open_ear(self, origin_hash: int) -> EarCore: ...
    def daemon_ref(self, origin_hash: int) -> DaemonRef: ...
    def metadata(self, daemon: DaemonRef) -> MetadataView: ...
    def log(self, level: LogLevel, message: str, daemon: int | None) -> None: ...
    def publish_capabilities(self, daemon: DaemonRef, capabilities: CapabilitySet) -> None: ...
    def leave(self, daemon: DaemonRef, grace: timedelta) -> None: ...
    def explain(self, daemon: int | None, chain: int | None) -> Explanation: ...
    def executor_stats(self) -> ExecutorStatsSnapshot: ...
    def dropped_actions(self) -> int: ...
    def this_node(self) -> int: ...
    def health(self) -> RuntimeHealth: ...
    def is_alive(self) -> bool: ...
    def logs(self, since: int, limit: int) -> tuple[LogRecord, ...]: ...
    def audits(self, since: int, limit: int) -> tuple[AdminAuditRecord, ...]: ...
    def commit(self, envelope: AdminEnvelope | IceEnvelope, timeout: timedelta | None) -> CommitReceipt: ...
    def cooldowns(self) -> tuple[Cooldown, ...]: ...
    def failures(self, since: int, limit: int) -> tuple[FailureRecord, ...]: ...
    def generation(self) -> int: ...
    def ice_policy(self) -> tuple[bytes, int]: ...
    def nudge(self) -> None: ...
    def probes(self) -> ProbeRegistry: ...
    def scheduler(self) -> SchedulerRegistry: ...
    def recovery(self) -> RecoveryRegistry: ...
    def daemon_registry(self) -> DaemonRegistry: ...
    def shutdown(self, timeout: timedelta) -> RuntimeStats: ...
    def abandon(self) -> bool: ...

# ---------------------------------------------------------------- simulation

@final
class Faults:
    """What goes wrong in a simulated run. Shares are 0 to 1.

    A round is a moment at which a few events may be sent, and comes every 20 ms in the mean, or after half of the longest
    delay. A step is a round, an event that is taken in, or a message or write of a move.
    """

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        loss: float = 0.0,
        duplicate: float = 0.0,
        delay: tuple[timedelta, timedelta] = ...,
        crash: float = 0.0,
        partition: float = 0.0,
        torn_write: float = 0.0,
        slow_callback: float = 0.0,
        clock_jump: float = 0.0,
    ) -> Self:
        """Raise `ConfigError` for an option out of range."""
    @property
    def loss(self) -> float:
        """Share of the messages that are lost."""
    @property
    def duplicate(self) -> float:
        """Share of the messages that arrive twice."""
    @property
    def delay(self) -> tuple[timedelta, timedelta]:
        """Shortest and longest time of a message; messages overtake each other. Both 0."""
    @property
    def crash(self) -> float:
        """Share of steps at which a node crashes; it restarts with what its store had made durable."""
    @property
    def partition(self) -> float:
        """Share of rounds at which some nodes are cut off, in one direction or both, for up to half a second."""
    @property
    def torn_write(self) -> float:
        """Share of the writes of moves that fail, and of crashes after which a beginning of what was not synced is there."""
    @property
    def slow_callback(self) -> float:
        """Share of the events for which `process` takes long, up to two seconds."""
    @property
    def clock_jump(self) -> float:
        """Share of rounds at which the wall clock of a node jumps, by up to a minute."""

@final
class SimulationRun:
    """A run in which every promise held."""

    __match_args__: Final = ()
    def __new__(
        cls,
        *,
        seed: int,
        digest: bytes,
        steps: int,
        acknowledged: int,
        rolled_back: int,
        moves_completed: int,
        moves_aborted: int,
        crashes: int,
        partitions: int,
        messages_lost: int,
        messages_repeated: int,
        messages_overtaken: int,
        writes_failed: int,
        slow_callbacks: int,
        clock_jumps: int,
        simulated: timedelta,
    ) -> Self: ...
    @property
    def seed(self) -> int:
        """The seed."""
    @property
    def digest(self) -> bytes:
        """Commits to everything that happened: equal arguments, equal digests."""
    @property
    def steps(self) -> int:
        """Steps of the run: something arrives, or falls due."""
    @property
    def acknowledged(self) -> int:
        """Events, each of which took effect once."""
    @property
    def rolled_back(self) -> int:
        """Acknowledged events that a crash rolled back, and whose senders were told: none under "journal"."""
    @property
    def moves_completed(self) -> int:
        """Moves that were committed."""
    @property
    def moves_aborted(self) -> int:
        """Moves that were not; the daemon stayed where it was."""
    @property
    def crashes(self) -> int:
        """Crashes of nodes."""
    @property
    def partitions(self) -> int:
        """Times at which nodes were cut off."""
    @property
    def messages_lost(self) -> int:
        """Messages that were lost, or cut off."""
    @property
    def messages_repeated(self) -> int:
        """Messages that arrived twice."""
    @property
    def messages_overtaken(self) -> int:
        """Messages that arrived before one that was sent earlier to the same node."""
    @property
    def writes_failed(self) -> int:
        """Writes that failed."""
    @property
    def slow_callbacks(self) -> int:
        """Calls of `process` that took long."""
    @property
    def clock_jumps(self) -> int:
        """Jumps of wall clocks."""
    @property
    def simulated(self) -> timedelta:
        """How long it took there."""

def _simulate(
    daemon: Callable[[], MeshDaemon],
    seed: int,
    nodes: int,
    events: int,
    moves: int,
    faults: Faults,
    payload: Callable[[int], bytes] | None,
    config: DaemonHostConfig,
    again: Callable[[], str],
    finish: Callable[[Awaitable[object] | AsyncIterable[object]], object],
) -> SimulationRun: ...
