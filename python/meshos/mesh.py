"""A node: its identity, and what it is connected to."""

from meshos._core import Mesh as Mesh

__all__ = ["Mesh"]
