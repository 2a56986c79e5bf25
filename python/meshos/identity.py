"""Who a daemon or a node is: an Ed25519 key."""

from typing import TypeAlias

from meshos._core import EntityId as EntityId
from meshos._core import Identity as Identity

__all__ = ["EntityId", "EntityKeypair", "Identity", "NodeId", "OriginHash"]

OriginHash: TypeAlias = int
"""First 8 bytes, little endian, of BLAKE3 over an entity id, in its own domain: the handle of a daemon."""
NodeId: TypeAlias = int
"""The same over a node's key, in another domain."""
EntityKeypair: TypeAlias = Identity
"""Another name of `Identity`."""
