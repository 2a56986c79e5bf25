"""What the tests of signed commands share: two operators, a verifier, and the client of one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from nacl.signing import SigningKey

from loops import CONFIG
from meshos import MeshOsConfig, MeshOsRuntime
from meshos.dispatch import ActionDispatcher
from meshos.events import AdminEvent
from meshos.migration import MigrationAborter
from meshos.operator import (
    AdminVerifier,
    CommitReceipt,
    DeckClient,
    IceAction,
    IceEnvelope,
    OperatorKey,
    OperatorRegistry,
    Role,
)

ALICE, BOB, EVE = (OperatorKey(SigningKey(bytes([number]) * 32)) for number in (1, 2, 3))
CLUSTER = b"test-cluster"


def verifier(*, cooldown: timedelta = timedelta(0), freshness: timedelta = timedelta(minutes=5)) -> AdminVerifier:
    """Alice may everything, Bob agrees to break-glass actions; Eve is nobody."""
    operators = OperatorRegistry()
    operators.add(ALICE.verify_key, name="alice", roles=[Role.ADMIN, Role.ICE])
    operators.add(BOB.verify_key, name="bob", roles=[Role.ICE])
    return AdminVerifier(operators, cluster_id=CLUSTER, ice_cooldown=cooldown, freshness_window=freshness)


class Deck:
    """A running node, and the client of an operator."""

    def __init__(self, runtime: MeshOsRuntime) -> None:
        self.runtime = runtime
        self.client = DeckClient.from_runtime(runtime, ALICE)

    def order(self, event: AdminEvent) -> CommitReceipt:
        """Commit an ordinary command of Alice's."""
        receipt = self.client.admin.commit(event, reason="test")
        assert self.runtime.snapshot().generation >= receipt.generation
        return receipt

    def agreed(self, action: IceAction) -> IceEnvelope:
        """What Alice and Bob have signed."""
        envelope = self.client.ice.propose(action, reason="test")
        return envelope.with_signatures([ALICE.sign(envelope), BOB.sign(envelope)])

    def force(self, action: IceAction) -> CommitReceipt:
        """Commit a break-glass action of both."""
        receipt = self.client.ice.commit(self.agreed(action))
        assert self.runtime.snapshot().generation >= receipt.generation
        return receipt


@contextmanager
def operated(
    dispatcher: ActionDispatcher,
    *,
    config: MeshOsConfig = CONFIG,
    admin_verifier: AdminVerifier | None = None,
    migration_aborter: MigrationAborter | None = None,
) -> Iterator[Deck]:
    """Give a running node that obeys both operators."""
    with MeshOsRuntime.start(
        config,
        dispatcher,
        admin_verifier=admin_verifier or verifier(),
        migration_aborter=migration_aborter,
    ) as runtime:
        yield Deck(runtime)
