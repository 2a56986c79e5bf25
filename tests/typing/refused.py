"""Read by a type checker and never run: mistakes that it must find, one a line, each with the code of its complaint.

An ignore that ignores nothing is an error too, so a mistake that goes unnoticed fails the check.
"""

from datetime import timedelta

import meshos
from meshos import CausalEvent, CausalLink, DaemonHostConfig, DaemonRuntime, Identity, MeshDaemon, Output, Resume
from meshos import ReplicaGroup as ReplicaGroup  # type: ignore[attr-defined]
from meshos.daemon import DaemonRef
from meshos.dispatch import Cause, StartDaemon
from meshos.errors import ConfigError, NotReady, ProcessFailed, WaitTimeout
from meshos.events import DaemonIntent, DaemonIntentUpdate, DaemonLifecycle, Registered, RttSample
from meshos.probes import PeerInventory
from meshos.runtime import MeshOsConfig
from meshos.status import MeshOsSnapshot


class Number(MeshDaemon):
    def process(self, event: CausalEvent) -> int:  # type: ignore[override]
        return len(event.payload)


class Text(MeshDaemon):
    def process(self, event: CausalEvent) -> str:  # type: ignore[override]
        return "text"


class NoEvent(MeshDaemon):
    def process(self) -> None: ...  # type: ignore[override]


class AsyncState(MeshDaemon):
    def process(self, event: CausalEvent) -> None: ...

    async def snapshot(self) -> bytes:  # type: ignore[override]
        return b""


class OddName(MeshDaemon):
    name = 7  # type: ignore[assignment]

    def process(self, event: CausalEvent) -> None: ...


class Abstract(MeshDaemon):
    pass


class Good(MeshDaemon):
    def process(self, event: CausalEvent) -> None: ...


def mistakes(runtime: DaemonRuntime, identity: Identity, event: CausalEvent) -> None:
    Abstract()  # type: ignore[abstract]
    DaemonHostConfig(dlivery="once")  # type: ignore[call-arg]
    DaemonHostConfig(delivery="twice")  # type: ignore[arg-type]
    DaemonHostConfig(10)  # type: ignore[call-arg]
    Output("text")  # type: ignore[arg-type]
    Output(b"", channel="later")  # type: ignore[arg-type]
    CausalEvent.external(origin_hash=7, sequence=1, payload="text")  # type: ignore[arg-type]
    event.payload = b""  # type: ignore[misc]
    event.link.sequence = 2  # type: ignore[misc]
    CausalLink(1, 2, 3)  # type: ignore[call-arg]
    DaemonRef(1).name = "other"  # type: ignore[misc]
    runtime.register_factory("good", Good())  # type: ignore[arg-type]
    runtime.spawn("good", b"key")  # type: ignore[arg-type]
    runtime.send(1, event, timeout=5)  # type: ignore[arg-type]
    runtime.send(1, event, timedelta(seconds=5))  # type: ignore[call-arg]
    runtime.start_migration(1, 2)  # type: ignore[call-arg]
    Good().on_control("resume")  # type: ignore[arg-type]
    Good().process(Resume())  # type: ignore[arg-type]
    ConfigError("field")  # type: ignore[call-arg]
    ProcessFailed("odd", 1, 2, 3, "message")  # type: ignore[arg-type]
    WaitTimeout("it", 5)  # type: ignore[arg-type]
    NotReady().kind = "not_ready"  # type: ignore[misc]
    if NotReady().kind == "ready":  # type: ignore[comparison-overlap]
        pass
    meshos.Deamon  # type: ignore[attr-defined]  # noqa: B018


def mistakes_of_the_loop(snapshot: MeshOsSnapshot) -> None:
    DaemonIntentUpdate(DaemonRef(1), "run")  # type: ignore[arg-type]
    DaemonIntentUpdate(1, DaemonIntent.RUN)  # type: ignore[arg-type]
    DaemonLifecycle(DaemonRef(1), Registered())  # type: ignore[arg-type]
    RttSample(2, 0.003)  # type: ignore[arg-type]
    StartDaemon(DaemonRef(1), Cause())  # type: ignore[call-arg]
    Cause("boredom")  # type: ignore[arg-type]
    MeshOsConfig(1)  # type: ignore[call-arg]
    MeshOsConfig(authority="closed")  # type: ignore[arg-type]
    MeshOsConfig(tick_interval=0.5)  # type: ignore[arg-type]
    PeerInventory(0.5)  # type: ignore[call-arg]
    snapshot.daemons[1] = snapshot.daemons[2]  # type: ignore[index]
    snapshot.tick = 7  # type: ignore[misc]
