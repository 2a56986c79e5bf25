"""What a node offers and what a daemon needs: canonical tags, and requirements that fail when they cannot be judged."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshos.capability import CapabilityFilter, CapabilitySet
from meshos.errors import InvalidArgument
from records import BAD_BOOLS, BAD_INTS, Cases, check_record, check_refused, evaluated, twins

words = st.text("abcxyz019_.-", min_size=1, max_size=8)
tags = words | st.tuples(words, st.sampled_from("=:"), words).map("".join)

SERVER = CapabilitySet(
    [
        "hardware.memory_gb=64",
        "hardware.gpu",
        "hardware.gpu.vendor=nvidia",
        "hardware.gpu.vram_gb=24",
        "software.model.0.id=llama",
        "software.model.0.context_length=8192",
        "software.model.0.modality=text",
        "software.model.1.id=whisper",
        "software.model.1.modality=audio",
        "software.tool.0.tool_id=search",
        "zone:eu",
    ]
)
FILTER: dict[str, object] = {
    "require_tags": frozenset({"zone=eu"}),
    "require_models": frozenset({"llama", "qwen"}),
    "require_tools": frozenset({"search"}),
    "require_modalities": frozenset({"audio", "text"}),
    "require_gpu": True,
    "gpu_vendor": "nvidia",
    "min_memory_gb": 32.0,
    "min_vram_gb": 16.5,
    "min_context_length": 8192,
}


# ---------------------------------------------------------------- sets


@given(st.lists(tags), st.dictionaries(words, st.text()))
def test_set_is_copied_shown_and_pickled(given_tags: list[str], metadata: dict[str, str]) -> None:
    offered = CapabilitySet(given_tags, metadata)

    assert offered.tags == {tag.replace(":", "=", 1) if "=" not in tag else tag for tag in given_tags}
    assert offered.metadata == metadata
    for twin in twins(offered):
        assert twin == offered
        assert hash(twin) == hash(offered)
    assert evaluated(repr(offered)) == offered


def test_both_separators_make_one_tag() -> None:
    offered = CapabilitySet(["software.cuda:12", "software.cuda=12"])

    assert offered.tags == {"software.cuda=12"}
    assert offered.has_tag("software.cuda=12")
    assert offered.has_tag("software.cuda:12")
    assert not offered.has_tag("software.cuda=13")
    assert not offered.has_tag("")


def test_set_is_frozen() -> None:
    metadata = {"rack": "7"}
    offered = CapabilitySet(["a"], metadata)

    metadata["rack"] = "8"

    assert offered.metadata == {"rack": "7"}
    with pytest.raises(TypeError):
        offered.metadata["rack"] = "9"  # type: ignore[index]
    with pytest.raises(AttributeError):
        offered.tags = frozenset()  # type: ignore[misc]


def test_union_has_everything_of_both() -> None:
    union = CapabilitySet(["a", "b"], {"x": "1", "y": "1"}) | CapabilitySet(["b", "c"], {"y": "2"})

    assert union == CapabilitySet(["a", "b", "c"], {"x": "1", "y": "2"})
    with pytest.raises(TypeError):
        _ = union | {"a"}  # type: ignore[operator]
    with pytest.raises(TypeError):
        _ = {"a"} | union  # type: ignore[operator]


def test_empty_set_is_the_default() -> None:
    assert CapabilitySet() == CapabilitySet((), {}) == CapabilitySet(metadata={}, tags=[])
    assert CapabilitySet() != CapabilitySet(["a"])
    assert evaluated(repr(CapabilitySet())) == CapabilitySet()


@pytest.mark.parametrize(
    "tag", ["", "a b", "a\n", "=b", "a=", ":", "a" * 256, "causal:x", "dataforts:x", "fork-of:x", "heat:x", "scope=x"]
)
def test_malformed_and_reserved_tags_are_refused(tag: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        CapabilitySet(["fine", tag])
    assert raised.value.argument == "tags"
    with pytest.raises(InvalidArgument) as raised:
        CapabilityFilter(require_tags=[tag])
    assert raised.value.argument == "require_tags"


def test_bad_arguments_are_refused() -> None:
    texts: Cases = [
        *((value, TypeError) for value in ("tag", b"tag", 3, None, [3], [b"a"], [None])),
        (["\ud800"], InvalidArgument),
    ]
    mappings: Cases = [
        *((value, TypeError) for value in ([("a", "b")], "ab", 3, None, {1: "a"}, {"a": 1}, {"a": None})),
        *((value, InvalidArgument) for value in ({"": "a"}, {"a b": "c"}, {"a" * 256: ""}, {"a": "b" * 65_536})),
    ]
    check_refused(CapabilitySet, {"tags": ["a"], "metadata": {}}, {"tags": texts, "metadata": mappings})
    check_refused(CapabilitySet().has_tag, {"tag": "a"}, {"tag": [(3, TypeError), (None, TypeError)]})
    numbers: Cases = [
        *((value, TypeError) for value in ("1", True, b"")),
        *((value, InvalidArgument) for value in (-1, -0.5, math.nan, math.inf, 10**400)),
    ]
    vendors: Cases = [(3, TypeError), (b"amd", TypeError), ("voodoo", InvalidArgument)]
    bad: dict[str, Cases] = {name: texts for name in FILTER if name.startswith("require_") and name != "require_gpu"}
    bad |= {"require_gpu": BAD_BOOLS, "gpu_vendor": vendors, "min_memory_gb": numbers, "min_vram_gb": numbers}
    bad["min_context_length"] = [case for case in BAD_INTS if case[0] is not None]
    check_refused(CapabilityFilter, FILTER, bad)


def test_what_an_iterable_raises_passes_through() -> None:
    def broken() -> object:
        yield "a"
        raise LookupError("the source of tags")

    with pytest.raises(LookupError, match="the source of tags"):
        CapabilitySet(broken())  # type: ignore[arg-type]


# ---------------------------------------------------------------- filters


def test_filter_is_a_record() -> None:
    check_record(CapabilityFilter(**FILTER), FILTER, by_keyword=True)  # type: ignore[arg-type]
    empty = dict.fromkeys(("gpu_vendor", "min_memory_gb", "min_vram_gb", "min_context_length"))
    sets: dict[str, object] = dict.fromkeys((name for name in FILTER if name.startswith("require_")), frozenset())
    check_record(CapabilityFilter(), {**sets, "require_gpu": False, **empty}, by_keyword=True)


@given(st.lists(tags))
def test_empty_filter_fits_everywhere(offered: list[str]) -> None:
    assert CapabilityFilter().matches(CapabilitySet(offered))
    assert CapabilityFilter().missing(CapabilitySet(offered)) == ()


def test_all_that_is_required_and_offered_matches() -> None:
    wanted = CapabilityFilter(**FILTER)  # type: ignore[arg-type]

    assert wanted.missing(SERVER) == ()
    assert wanted.matches(SERVER)
    assert not wanted.matches(CapabilitySet())
    assert len(wanted.missing(CapabilitySet())) == 10


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (CapabilityFilter(require_tags={"zone=us"}), "zone=us"),
        (CapabilityFilter(require_models={"qwen"}), "qwen"),
        (CapabilityFilter(require_tools={"mail"}), "mail"),
        (CapabilityFilter(require_modalities={"text", "video"}), "video"),
        (CapabilityFilter(gpu_vendor="amd"), "amd"),
        (CapabilityFilter(min_memory_gb=65), "memory"),
        (CapabilityFilter(min_vram_gb=25), "GPU memory"),
        (CapabilityFilter(min_context_length=8193), "8193"),
    ],
    ids=repr,
)
def test_what_is_missing_is_named(wanted: CapabilityFilter, words: str) -> None:
    (missing,) = wanted.missing(SERVER)

    assert words in missing
    assert not wanted.matches(SERVER)


def test_requirement_that_cannot_be_judged_fails() -> None:
    wanted = CapabilityFilter(min_memory_gb=1)

    for tags_given in (["hardware.memory_gb=lots"], ["hardware.memory_gb=8", "hardware.memory_gb=9"], []):
        assert not wanted.matches(CapabilitySet(tags_given))


def test_wrong_types_are_refused_where_something_is_offered() -> None:
    wrong: Cases = [(value, TypeError) for value in (None, ["a"], "a", FILTER)]
    for call in (CapabilityFilter().matches, CapabilityFilter().missing):
        check_refused(call, {"offered": SERVER}, {"offered": wrong})
