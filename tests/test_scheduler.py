"""The slot of the scorer, and what a move costs."""

import gc
import math
import weakref
from collections.abc import Collection
from datetime import timedelta

import pytest

from meshos.scheduler import MigrationCost, PlacementScorer, SchedulerRegistry
from records import BAD_SPANS, check_record


class Flat(PlacementScorer):
    """Scores every node alike."""

    known: object = None

    def score(self, chain: int, node: int, /) -> float | None:
        return 0.5

    def best_alternative(self, chain: int, exclude: Collection[int], /) -> tuple[int, float] | None:
        return None


def test_the_slot_gives_back_what_was_in_it() -> None:
    registry, first, second = SchedulerRegistry(), Flat(), Flat()
    assert not registry.has_scorer()
    assert registry.current() is None
    assert repr(registry) == "SchedulerRegistry(<no scorer>)"

    assert registry.install(first) is None
    assert registry.has_scorer()
    assert registry.current() is first
    assert registry.install(second) is first
    assert registry.current() is second
    assert repr(registry) == "SchedulerRegistry(<Flat>)"


def test_defaults_of_a_scorer() -> None:
    scorer = Flat()

    assert scorer.live_score(1, 2) == 0.5
    assert scorer.node_fingerprint(2) is None
    assert scorer.migration_cost(1, 2) is None


def test_an_object_with_the_methods_is_a_scorer() -> None:
    class Duck:
        def score(self, chain: int, node: int) -> float:
            return 1.0

        def best_alternative(self, chain: int, exclude: Collection[int]) -> None:
            return None

    registry = SchedulerRegistry()
    duck: object = Duck()
    registry.install(duck)  # type: ignore[arg-type]

    assert registry.current() is duck


def test_what_is_no_scorer_is_refused_with_the_reason() -> None:
    class Half:
        def score(self, chain: int, node: int) -> float:
            return 1.0

    class Narrow(Flat):
        def score(self, chain: int) -> float:  # type: ignore[override]
            return 1.0

    class Waits(Flat):
        async def score(self, chain: int, node: int, /) -> float:  # type: ignore[override]
            return 1.0

    class Costly(Flat):
        def migration_cost(self) -> MigrationCost:  # type: ignore[override]
            return MigrationCost()

    cases: list[tuple[object, str]] = [
        (None, "scorer must be a PlacementScorer: NoneType has no method `score`"),
        (Flat, "scorer must be a PlacementScorer: Flat is a class, give an instance of it"),
        (Half(), "Half has no method `best_alternative`"),
        (Narrow(), "Narrow.score` cannot be called with two positional arguments"),
        (Waits(), "Waits.score` is async, and is never awaited"),
        (Costly(), "Costly.migration_cost` cannot be called with two positional arguments"),
    ]
    registry = SchedulerRegistry()
    for scorer, message in cases:
        with pytest.raises(TypeError) as caught:
            registry.install(scorer)  # type: ignore[arg-type]
        assert str(caught.value).endswith(message), str(caught.value)
    assert not registry.has_scorer()
    with pytest.raises(TypeError, match="abstract"):
        PlacementScorer()  # type: ignore[abstract]


def test_a_cycle_through_a_scorer_is_collected() -> None:
    registry, scorer = SchedulerRegistry(), Flat()
    scorer.known = registry
    registry.install(scorer)
    seen = weakref.ref(scorer)
    del registry, scorer
    gc.collect()

    assert seen() is None


def test_a_cost_is_a_record() -> None:
    fields: dict[str, object] = {
        "state_transfer": timedelta(seconds=2),
        "disruption": timedelta(milliseconds=5),
        "reliability_factor": 1.5,
    }
    check_record(MigrationCost(**fields), fields, by_keyword=True)  # type: ignore[arg-type]
    assert MigrationCost() == MigrationCost(
        state_transfer=timedelta(0), disruption=timedelta(0), reliability_factor=1.0
    )


def test_a_weight_may_be_any_number_and_only_a_number() -> None:
    for weight in (0, -1.0, math.inf, 2):
        assert MigrationCost(reliability_factor=weight).reliability_factor == weight
    assert math.isnan(MigrationCost(reliability_factor=math.nan).reliability_factor)
    for wrong in (None, "1", True):
        with pytest.raises(TypeError):
            MigrationCost(reliability_factor=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("span", "error"), BAD_SPANS)
def test_a_span_of_a_cost_is_a_span(span: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        MigrationCost(state_transfer=span)  # type: ignore[arg-type]
