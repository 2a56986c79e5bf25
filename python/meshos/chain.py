"""The causal chain: what a daemon emitted, in which order, who spoke for it, and how a stranger checks that."""

from typing import TypeAlias

from meshos._core import CausalChainBuilder as CausalChainBuilder
from meshos._core import CausalEvent as CausalEvent
from meshos._core import CausalLink as CausalLink
from meshos._core import Certificate as Certificate
from meshos._core import ChainReport as ChainReport
from meshos._core import Checkpoint as Checkpoint
from meshos._core import ForkRecord as ForkRecord
from meshos._core import ObservedHorizon as ObservedHorizon
from meshos._core import OwnerSpan as OwnerSpan
from meshos._core import fork_entity as fork_entity
from meshos._core import verify as verify
from meshos._core import verify_chain as verify_chain

__all__ = [
    "BytesLike",
    "CausalChainBuilder",
    "CausalEvent",
    "CausalLink",
    "Certificate",
    "ChainReport",
    "Checkpoint",
    "ForkRecord",
    "ObservedHorizon",
    "OwnerSpan",
    "fork_entity",
    "verify",
    "verify_chain",
]

BytesLike: TypeAlias = bytes | bytearray | memoryview
"""What payloads and states may be given as; they are handed out as `bytes`, and only `bytes` are not copied."""
