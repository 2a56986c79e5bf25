"""Long-lived, stateful workers on a mesh of machines: nothing lost, nothing twice, provable.

A name has one home module. The everyday ones are here too, loaded when first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshos import audit as audit
    from meshos import capability as capability
    from meshos import chain as chain
    from meshos import channel as channel
    from meshos import compute as compute
    from meshos import control as control
    from meshos import daemon as daemon
    from meshos import dispatch as dispatch
    from meshos import errors as errors
    from meshos import events as events
    from meshos import identity as identity
    from meshos import mesh as mesh
    from meshos import migration as migration
    from meshos import node as node
    from meshos import operator as operator
    from meshos import probes as probes
    from meshos import recovery as recovery
    from meshos import runtime as runtime
    from meshos import scheduler as scheduler
    from meshos import snapshot as snapshot
    from meshos import status as status
    from meshos import store as store
    from meshos import stream as stream
    from meshos import testing as testing
    from meshos._core import __version__ as __version__
    from meshos.chain import CausalEvent as CausalEvent
    from meshos.chain import CausalLink as CausalLink
    from meshos.chain import verify_chain as verify_chain
    from meshos.channel import ChannelName as ChannelName
    from meshos.channel import ChannelPolicy as ChannelPolicy
    from meshos.channel import PermissionToken as PermissionToken
    from meshos.channel import Right as Right
    from meshos.compute import DaemonRuntime as DaemonRuntime
    from meshos.compute import Receipt as Receipt
    from meshos.control import BackpressureOff as BackpressureOff
    from meshos.control import BackpressureOn as BackpressureOn
    from meshos.control import DaemonControl as DaemonControl
    from meshos.control import DrainFinish as DrainFinish
    from meshos.control import DrainStart as DrainStart
    from meshos.control import Resume as Resume
    from meshos.control import Shutdown as Shutdown
    from meshos.daemon import DaemonHandle as DaemonHandle
    from meshos.daemon import DaemonHostConfig as DaemonHostConfig
    from meshos.daemon import DaemonRef as DaemonRef
    from meshos.daemon import MeshDaemon as MeshDaemon
    from meshos.daemon import Output as Output
    from meshos.dispatch import ComputeDispatcher as ComputeDispatcher
    from meshos.errors import Backpressure as Backpressure
    from meshos.errors import ChainError as ChainError
    from meshos.errors import DaemonError as DaemonError
    from meshos.errors import MeshOsError as MeshOsError
    from meshos.errors import Migrating as Migrating
    from meshos.errors import MigrationError as MigrationError
    from meshos.errors import NotOwner as NotOwner
    from meshos.errors import ProcessFailed as ProcessFailed
    from meshos.errors import SendTimeout as SendTimeout
    from meshos.errors import StoreError as StoreError
    from meshos.errors import SubscribeRejected as SubscribeRejected
    from meshos.errors import WaitTimeout as WaitTimeout
    from meshos.events import DaemonIntent as DaemonIntent
    from meshos.identity import EntityId as EntityId
    from meshos.identity import Identity as Identity
    from meshos.mesh import Mesh as Mesh
    from meshos.migration import MigrationHandle as MigrationHandle
    from meshos.migration import MigrationOpts as MigrationOpts
    from meshos.migration import MigrationOutcome as MigrationOutcome
    from meshos.node import Node as Node
    from meshos.runtime import BackoffConfig as BackoffConfig
    from meshos.runtime import MeshOsConfig as MeshOsConfig
    from meshos.runtime import MeshOsRuntime as MeshOsRuntime
    from meshos.runtime import MeshOsRuntimeBuilder as MeshOsRuntimeBuilder
    from meshos.snapshot import StateSnapshot as StateSnapshot
    from meshos.store import Store as Store

__all__ = [
    "BackoffConfig",
    "Backpressure",
    "BackpressureOff",
    "BackpressureOn",
    "CausalEvent",
    "CausalLink",
    "ChainError",
    "ChannelName",
    "ChannelPolicy",
    "ComputeDispatcher",
    "DaemonControl",
    "DaemonError",
    "DaemonHandle",
    "DaemonHostConfig",
    "DaemonIntent",
    "DaemonRef",
    "DaemonRuntime",
    "DrainFinish",
    "DrainStart",
    "EntityId",
    "Identity",
    "Mesh",
    "MeshDaemon",
    "MeshOsConfig",
    "MeshOsError",
    "MeshOsRuntime",
    "MeshOsRuntimeBuilder",
    "Migrating",
    "MigrationError",
    "MigrationHandle",
    "MigrationOpts",
    "MigrationOutcome",
    "Node",
    "NotOwner",
    "Output",
    "PermissionToken",
    "ProcessFailed",
    "Receipt",
    "Resume",
    "Right",
    "SendTimeout",
    "Shutdown",
    "StateSnapshot",
    "Store",
    "StoreError",
    "SubscribeRejected",
    "WaitTimeout",
    "__version__",
    "verify_chain",
]

_HOME = {
    "BackoffConfig": "runtime",
    "Backpressure": "errors",
    "BackpressureOff": "control",
    "BackpressureOn": "control",
    "CausalEvent": "chain",
    "CausalLink": "chain",
    "ChainError": "errors",
    "ChannelName": "channel",
    "ChannelPolicy": "channel",
    "ComputeDispatcher": "dispatch",
    "DaemonControl": "control",
    "DaemonError": "errors",
    "DaemonHandle": "daemon",
    "DaemonHostConfig": "daemon",
    "DaemonIntent": "events",
    "DaemonRef": "daemon",
    "DaemonRuntime": "compute",
    "DrainFinish": "control",
    "DrainStart": "control",
    "EntityId": "identity",
    "Identity": "identity",
    "Mesh": "mesh",
    "MeshDaemon": "daemon",
    "MeshOsConfig": "runtime",
    "MeshOsError": "errors",
    "MeshOsRuntime": "runtime",
    "MeshOsRuntimeBuilder": "runtime",
    "Migrating": "errors",
    "MigrationError": "errors",
    "MigrationHandle": "migration",
    "MigrationOpts": "migration",
    "MigrationOutcome": "migration",
    "Node": "node",
    "NotOwner": "errors",
    "Output": "daemon",
    "PermissionToken": "channel",
    "ProcessFailed": "errors",
    "Receipt": "compute",
    "Resume": "control",
    "Right": "channel",
    "SendTimeout": "errors",
    "Shutdown": "control",
    "StateSnapshot": "snapshot",
    "Store": "store",
    "StoreError": "errors",
    "SubscribeRejected": "errors",
    "WaitTimeout": "errors",
    "__version__": "_core",
    "verify_chain": "chain",
}
_MODULES = frozenset(
    (
        "audit",
        "capability",
        "chain",
        "channel",
        "compute",
        "control",
        "daemon",
        "dispatch",
        "errors",
        "events",
        "identity",
        "mesh",
        "migration",
        "node",
        "operator",
        "probes",
        "recovery",
        "runtime",
        "scheduler",
        "snapshot",
        "status",
        "store",
        "stream",
        "testing",
    )
)

# Hidden from type checkers: to them a module with `__getattr__` has every name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        home = _HOME.get(name)
        if home is not None:
            value = getattr(import_module(f"meshos.{home}"), name)
        elif name in _MODULES:
            value = import_module(f"meshos.{name}")
        else:
            message = f"module 'meshos' has no attribute {name!r}"
            raise AttributeError(message, name=name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
