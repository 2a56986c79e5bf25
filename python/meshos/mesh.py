"""A node: its identity, and what it is connected to."""

from meshos._core import ChannelMessage as ChannelMessage
from meshos._core import Mesh as Mesh
from meshos._core import MeshStats as MeshStats
from meshos._core import OwnershipDirectory as OwnershipDirectory
from meshos._core import OwnershipRecord as OwnershipRecord
from meshos._core import OwnershipStats as OwnershipStats
from meshos._core import Peer as Peer

__all__ = ["ChannelMessage", "Mesh", "MeshStats", "OwnershipDirectory", "OwnershipRecord", "OwnershipStats", "Peer"]
