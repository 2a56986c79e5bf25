"""The observed horizon: an exact map, and a sketch of it without false negatives."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from meshos.chain import ObservedHorizon
from records import BAD_INTS, Cases, check_refused, evaluated

numbers = st.integers(0, reference.U64_MAX)
seen_maps = st.dictionaries(numbers, numbers, max_size=40)


@given(st.lists(st.tuples(numbers, numbers), max_size=40))
def test_horizon_keeps_the_highest_sequence_of_each_origin(observed: list[tuple[int, int]]) -> None:
    horizon, model = ObservedHorizon(), dict[int, int]()

    for origin, sequence in observed:
        horizon.observe(origin, sequence)
        model[origin] = max(sequence, model.get(origin, 0))

    assert horizon.as_mapping() == model
    for origin, sequence in model.items():
        assert horizon.has_observed(origin, sequence)
        assert sequence == reference.U64_MAX or not horizon.has_observed(origin, sequence + 1)
    assert horizon.has_observed(7, 0) == (7 in model)


@given(seen_maps)
def test_sketch_is_that_of_the_specification(seen: dict[int, int]) -> None:
    assert ObservedHorizon(seen).encoded == reference.sketch(seen)


@given(seen_maps)
def test_horizon_is_copied_shown_and_pickled(seen: dict[int, int]) -> None:
    horizon = ObservedHorizon(seen)

    shown = evaluated(repr(horizon))

    assert isinstance(shown, ObservedHorizon)
    for twin in (shown, copy.copy(horizon), copy.deepcopy(horizon), pickle.loads(pickle.dumps(horizon))):
        assert twin.as_mapping() == seen
        assert twin.encoded == horizon.encoded


def test_copy_and_mapping_do_not_follow_the_horizon() -> None:
    horizon = ObservedHorizon({1: 1})
    mapping, twin = horizon.as_mapping(), copy.copy(horizon)

    horizon.observe(2, 2)

    assert mapping == twin.as_mapping() == {1: 1}
    with pytest.raises(TypeError):
        mapping[1] = 2  # type: ignore[index]


def test_bad_arguments_are_refused() -> None:
    horizon = ObservedHorizon()
    good = {"origin_hash": 1, "sequence": 1}
    bad: dict[str, Cases] = {"origin_hash": BAD_INTS, "sequence": BAD_INTS}
    check_refused(horizon.observe, good, bad)
    check_refused(horizon.has_observed, good, bad)
    assert horizon.as_mapping() == {1: 1}

    maps: Cases = [(value, TypeError) for value in (None, 3, "ab", {1, 2}, iter([(1, 2)]))]
    keys: Cases = [({value: 1}, expected) for value, expected in BAD_INTS if not isinstance(value, list)]
    values: Cases = [({1: value}, expected) for value, expected in BAD_INTS]
    check_refused(ObservedHorizon, {"seen": {1: 1}}, {"seen": [*maps, *keys, *values]})
