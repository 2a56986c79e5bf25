"""The workflows parse, keep to the schema, and do what the pages promise."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".github" / "workflows"
SCHEMA = json.loads((ROOT / "tests" / "data" / "github-workflow.schema.json").read_text(encoding="utf-8"))


def load(text: str) -> dict[str, Any]:
    """Read a workflow; to YAML 1.1 its key `on` is the truth value."""
    workflow: dict[Any, Any] = yaml.safe_load(text)
    return {"on" if key is True else key: value for key, value in workflow.items()}


def problems(workflow: dict[str, Any]) -> list[str]:
    """Return what the schema has against a workflow."""
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(SCHEMA).iter_errors(workflow)]


TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.y*ml"))}
WORKFLOWS = {name: load(text) for name, text in TEXTS.items()}


def job(workflow: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = WORKFLOWS[workflow]["jobs"][name]
    return found


def runs(job: dict[str, Any]) -> str:
    """Return all that a job runs, as one text."""
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def actions(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the actions of a job, with the inputs of the last use of each."""
    return {step["uses"].partition("@")[0]: step.get("with", {}) for step in job["steps"] if "uses" in step}


def combinations(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the combinations of a matrix, as the service makes them when `include` only adds whole ones."""
    matrix = dict(job["strategy"]["matrix"])
    added: list[dict[str, Any]] = matrix.pop("include", [])
    made = [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())] if matrix else []
    return made + added


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert TEXTS


@pytest.mark.parametrize("name", TEXTS)
def test_workflow_keeps_to_the_schema(name: str) -> None:
    assert problems(WORKFLOWS[name]) == []


STEP = "      - run: make check"


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("    runs-on: ubuntu-latest\n", "", "$.jobs.one"),
        ("    runs-on:", "    run-on:", "$.jobs.one"),
        ("    timeout-minutes: 5\n", "", "$.jobs.one"),
        (STEP, STEP + "\n        uses: actions/checkout@v6", "$.jobs.one.steps[0]"),
        (STEP, "      - name: nothing", "$.jobs.one.steps[0]"),
        (STEP, STEP + "\n        with: { a: b }", "$.jobs.one.steps[0]"),
        (STEP, "      - uses: actions/checkout@main", "$.jobs.one.steps[0].uses"),
        (STEP, "      - uses: actions/checkout", "$.jobs.one.steps[0].uses"),
        ("  push:", "  pushed:", "$.on"),
        ("  contents: read", "  contents: all", "$.permissions.contents"),
        ("permissions:\n  contents: read\n", "", "$"),
    ],
)
def test_schema_refuses_mistakes(old: str, new: str, where: str) -> None:
    good = (
        "name: one\non:\n  push:\npermissions:\n  contents: read\n"
        f"jobs:\n  one:\n    runs-on: ubuntu-latest\n    timeout-minutes: 5\n    steps:\n{STEP}\n"
    )
    assert problems(load(good)) == []
    assert old in good

    found = problems(load(good.replace(old, new)))

    assert any(problem.startswith(f"{where}: ") for problem in found), found


@pytest.mark.parametrize("name", TEXTS)
def test_jobs_need_only_jobs_that_exist(name: str) -> None:
    jobs = WORKFLOWS[name]["jobs"]
    assert {needed for each in jobs.values() for needed in each.get("needs", ())} <= set(jobs)


@pytest.mark.parametrize("name", TEXTS)
def test_matrix_keys_exist(name: str) -> None:
    """`${{ matrix.os }}` of a matrix without `os` is an empty text, and no error."""
    for each in WORKFLOWS[name]["jobs"].values():
        used = set(re.findall(r"matrix\.(\w+)", json.dumps(each)))
        known = {key for combination in (combinations(each) if "strategy" in each else []) for key in combination}
        assert used <= known


@pytest.mark.parametrize("name", TEXTS)
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for each in WORKFLOWS[name]["jobs"].values():
        assert set(re.findall(r"\bmake ([a-z-]+)", runs(each))) <= targets


@pytest.mark.parametrize("name", TEXTS)
def test_scripts_exist(name: str) -> None:
    for path in re.findall(r"\btests/smoke/[\w.]+", TEXTS[name]):
        assert (ROOT / path).is_file()


def test_linux_runs_make_check() -> None:
    linux = job("check.yml", "linux")
    assert "make check" in runs(linux).splitlines()
    assert linux["runs-on"].startswith("ubuntu")
    assert "continue-on-error" not in linux


def test_other_systems_build_and_test_every_python() -> None:
    systems = job("check.yml", "systems")
    required = {(each["os"], each["python"]) for each in combinations(systems) if not each["experimental"]}
    assert required == set(
        itertools.product(
            ["ubuntu-latest", "macos-latest", "windows-latest"],
            ["3.11", "3.12", "3.13", "3.14"],
        )
    )
    for command in ("maturin build", "cargo test", "python -m pytest"):
        assert command in runs(systems)
    assert "core.symlinks true" in systems["steps"][0]["run"]


def test_free_threaded_python_is_allowed_to_fail() -> None:
    systems = job("check.yml", "systems")
    experimental = [each for each in combinations(systems) if each["experimental"]]
    assert [each["python"] for each in experimental] == ["3.14t"]
    assert systems["continue-on-error"] == "${{ matrix.experimental }}"


def test_one_job_waits_for_all_checks() -> None:
    jobs = WORKFLOWS["check.yml"]["jobs"]
    assert set(jobs["passed"]["needs"]) == set(jobs) - {"passed"}
    assert jobs["passed"]["if"] == "always()"


def test_wheels_for_every_system() -> None:
    linux = {(each["libc"], each["target"]["arch"]) for each in combinations(job("wheels.yml", "linux"))}
    desktop = {(each["system"], each["arch"]) for each in combinations(job("wheels.yml", "desktop"))}
    assert linux == set(itertools.product(["manylinux_2_28", "musllinux_1_2"], ["x86_64", "aarch64"]))
    assert desktop == {("macos", "aarch64"), ("macos", "x86_64"), ("windows", "x86_64")}


@pytest.mark.parametrize("name", ["linux", "desktop"])
def test_wheels_stable_and_free_threaded(name: str) -> None:
    """One wheel for Python 3.11 and newer, and one of its own for the free-threaded build; both are smoke tested."""
    uses = [
        step["with"]["args"] for step in job("wheels.yml", name)["steps"] if "maturin-action" in step.get("uses", "")
    ]
    assert [("3.14t" in args, "--no-default-features" in args) for args in uses] == [(False, False), (True, True)]
    assert all("--release" in args for args in uses)
    for wheel in ("*-abi3-*.whl", "*-cp314t-*.whl"):
        assert re.search(r"clean_install\.py \S*" + re.escape(wheel), runs(job("wheels.yml", name)))


def test_sdist_is_built_from_and_smoke_tested() -> None:
    sdist = job("wheels.yml", "sdist")
    assert actions(sdist)["PyO3/maturin-action"]["command"] == "sdist"
    assert "clean_install.py dist/*.tar.gz" in runs(sdist)


def test_release_is_for_tags_whose_version_fits() -> None:
    workflow = WORKFLOWS["wheels.yml"]
    assert workflow["on"]["push"] == {"tags": ["v*"]}
    assert workflow["jobs"]["release"]["if"] == "startsWith(github.ref, 'refs/tags/')"
    assert set(workflow["jobs"]["release"]["needs"]) == set(workflow["jobs"]) - {"release"}
    compare = runs(workflow["jobs"]["version"])
    (expression,) = re.findall(r"sed -n '(.+)' Cargo\.toml", compare)
    pattern = re.fullmatch(r"s/(.+)/\\1/p", expression)
    assert pattern is not None
    cargo = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    versions = re.findall(pattern[1].replace(r"\(", "(").replace(r"\)", ")"), cargo, re.MULTILINE)
    assert len(versions) == 1
    assert re.fullmatch(r"\d+\.\d+\.\d+", versions[0])
    assert 'v$version" ]' in compare


def test_release_publishes_by_identity_and_attests() -> None:
    release = job("wheels.yml", "release")
    assert release["permissions"] == {"contents": "read", "id-token": "write", "attestations": "write"}
    publish = actions(release)["pypa/gh-action-pypi-publish"]
    assert publish == {"attestations": True}
    assert "actions/attest" in actions(release)


@pytest.mark.parametrize("name", TEXTS)
def test_no_secrets_and_least_rights(name: str) -> None:
    """No job sees a secret, and only the release job may do more than read."""
    assert "secrets" not in TEXTS[name]
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    assert {key for key, each in WORKFLOWS[name]["jobs"].items() if "permissions" in each} <= {"release"}
