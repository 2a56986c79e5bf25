"""Who a daemon or a node is: an Ed25519 key."""

from typing import Self, TypeAlias, final

from meshos import _core
from meshos._core import Identity as Identity

__all__ = ["EntityId", "EntityKeypair", "Identity", "NodeId", "OriginHash"]

OriginHash: TypeAlias = int
"""First 8 bytes, little endian, of BLAKE3 over an entity id, in its own domain: the handle of a daemon."""
NodeId: TypeAlias = int
"""The same over a node's key, in another domain."""
EntityKeypair: TypeAlias = Identity
"""Another name of `Identity`."""


# In Python, since the stable ABI has no native subclass of `bytes`.
@final
class EntityId(bytes):
    """A 32-byte Ed25519 public key; `nacl.signing.VerifyKey(entity_id)` takes it as it is."""

    __slots__ = ()

    def __new__(cls, raw: bytes, /) -> Self:
        """Check that the bytes are a key that signatures can be checked with.

        Raises:
            InvalidArgument: They are not 32 bytes.
            IdentityError: They are no point of the curve, or one of small order.
        """
        return bytes.__new__(cls, _core.entity_id_bytes(raw))

    @property
    def origin_hash(self) -> OriginHash:
        """The handle of a daemon with this key."""
        return _core.entity_id_origin_hash(self)

    @property
    def node_id(self) -> NodeId:
        """The id of a node with this key."""
        return _core.entity_id_node_id(self)

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"EntityId.fromhex({self.hex()!r})"
