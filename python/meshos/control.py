"""What the mesh tells its daemons: shut down, drain, slow down, resume."""

from typing import TypeAlias

from meshos._core import BackpressureOff as BackpressureOff
from meshos._core import BackpressureOn as BackpressureOn
from meshos._core import DrainFinish as DrainFinish
from meshos._core import DrainStart as DrainStart
from meshos._core import Resume as Resume
from meshos._core import Shutdown as Shutdown

__all__ = ["BackpressureOff", "BackpressureOn", "DaemonControl", "DrainFinish", "DrainStart", "Resume", "Shutdown"]

DaemonControl: TypeAlias = Shutdown | DrainStart | DrainFinish | Resume | BackpressureOn | BackpressureOff
"""What `MeshDaemon.on_control` is given. Match with a `case _` arm: new ones may come."""
