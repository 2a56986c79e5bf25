"""The behaviour loop: desired state in, actions out."""

from meshos._core import BackoffConfig as BackoffConfig
from meshos._core import BackpressureConfig as BackpressureConfig
from meshos._core import LocalityConfig as LocalityConfig
from meshos._core import MaintenanceConfig as MaintenanceConfig
from meshos._core import MeshOsConfig as MeshOsConfig
from meshos._core import SchedulerConfig as SchedulerConfig

__all__ = [
    "BackoffConfig",
    "BackpressureConfig",
    "LocalityConfig",
    "MaintenanceConfig",
    "MeshOsConfig",
    "SchedulerConfig",
]
