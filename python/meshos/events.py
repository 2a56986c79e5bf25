"""What happens to daemons, as a registry tells its observers."""

from typing import TypeAlias

from meshos._core import Crashed as Crashed
from meshos._core import HealthChanged as HealthChanged
from meshos._core import Registered as Registered
from meshos._core import SaturationChanged as SaturationChanged
from meshos._core import Unregistered as Unregistered

__all__ = [
    "Crashed",
    "DaemonLifecycleSignal",
    "HealthChanged",
    "Registered",
    "SaturationChanged",
    "Unregistered",
]

DaemonLifecycleSignal: TypeAlias = Registered | Unregistered | Crashed | HealthChanged | SaturationChanged
"""What a `DaemonLifecycleEvent` says happened. Match with a `case _` arm: new ones may come."""
