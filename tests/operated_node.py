"""A node in a process of its own, for the tests that operate it: `operated_node.py SOCKET CLUSTER KEY...`

Each KEY is a public key in hex digits, `admin:` before one that may sign ordinary commands only; `audit:FILE` is where
it keeps its audit. It says `ready`, then obeys the lines of its input, saying `done` after each: `peer N` makes a node
known, `end` ends the loop.
"""

import sys
from datetime import timedelta

from meshos import MeshOsConfig, MeshOsRuntime
from meshos.audit import FileAdminAuditAppender
from meshos.dispatch import LoggingDispatcher
from meshos.events import NodeHealthUpdate
from meshos.operator import AdminVerifier, OperatorRegistry, OperatorSocket, Role
from meshos.probes import NodeHealth

SOON = timedelta(seconds=10)


def main(path: str, cluster: str, *keys: str) -> None:
    operators = OperatorRegistry()
    appender = None
    for key in keys:
        if key.startswith("audit:"):
            appender = FileAdminAuditAppender(key.removeprefix("audit:"))
            continue
        roles = [Role.ADMIN] if key.startswith("admin:") else [Role.ADMIN, Role.ICE]
        operators.add(bytes.fromhex(key.removeprefix("admin:")), name=key, roles=roles)
    verifier = AdminVerifier(operators, cluster_id=cluster.encode())
    config = MeshOsConfig(this_node=1, audit="best_effort" if appender is None else "required")
    with (
        MeshOsRuntime.start(
            config, LoggingDispatcher(), admin_verifier=verifier, admin_audit_appender=appender
        ) as runtime,
        OperatorSocket(runtime, path),
    ):
        print("ready", flush=True)
        for line in sys.stdin:
            word, _, number = line.strip().partition(" ")
            if word == "peer":
                peer = int(number)
                runtime.handle().publish(NodeHealthUpdate(peer, NodeHealth.HEALTHY))
                runtime.snapshot_reader().wait_for(lambda snapshot: peer in snapshot.peers, timeout=SOON)  # noqa: B023
            elif word == "end":
                runtime.shutdown()
            print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
