"""What an installed package must do with only the packages that it declares; `clean_install.py` runs it."""

import ast
import re
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import distribution, distributions
from pathlib import Path

import meshos
from meshos import CausalEvent, ChainError, DaemonRuntime, Identity, Mesh, MeshDaemon, StateSnapshot, verify_chain


class Tally(MeshDaemon):
    """Counts the bytes it was given."""

    name = "tally"

    def __init__(self) -> None:
        self.total = 0

    def process(self, event: CausalEvent) -> list[bytes]:
        """Emit the total so far."""
        self.total += len(event.payload)
        return [str(self.total).encode()]

    def snapshot(self) -> bytes:
        """Return the total."""
        return str(self.total).encode()

    def restore(self, state: bytes) -> None:
        """Take over a total."""
        self.total = int(state)


def check_environment() -> None:
    """Nothing is installed but the package, what it declares, and pip."""
    wanted, queue = {"pip", "setuptools", "meshos"}, ["meshos"]
    while queue:
        for requirement in distribution(queue.pop()).requires or ():
            # An extra, or a marker of another system: not asked for, or not installed.
            name = normal(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
            if "extra ==" not in requirement and name not in wanted and name in installed():
                wanted.add(name)
                queue.append(name)
    assert installed() <= wanted, f"not declared: {sorted(installed() - wanted)}"


def installed() -> set[str]:
    """Return the names of the installed distributions."""
    return {normal(each.metadata["Name"]) for each in distributions()}


def normal(name: str) -> str:
    """Return a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_files() -> None:
    """The types are inside, and the stub is a file and not what is left of a link."""
    folder = Path(meshos.__file__).parent
    assert (folder / "py.typed").is_file(), "py.typed is missing"
    stub = folder / "_core.pyi"
    assert stub.is_file(), "_core.pyi is missing"
    assert not stub.is_symlink(), "_core.pyi is a link"
    assert ast.parse(stub.read_text(encoding="utf-8")).body, "_core.pyi is empty"


def check_life(folder: Path) -> None:
    """Spawn, deliver, snapshot, restore, export and verify."""
    identity = Identity.generate()
    file = folder / "tally.chain"
    with DaemonRuntime(Mesh.local()) as runtime:
        runtime.register_factory("tally", Tally)
        runtime.start()
        key = runtime.spawn("tally", identity).origin_hash
        (output,) = runtime.deliver(key, CausalEvent.external(1, 1, b"four"))
        assert output.payload == b"4", output.payload

        taken = runtime.snapshot(key)
        assert taken is not None, "a daemon with state has a snapshot"
        blob = taken.to_bytes()
        runtime.stop(key)
        revived = runtime.spawn_from_snapshot("tally", identity, StateSnapshot.from_bytes(blob))
        (output,) = runtime.deliver(revived.origin_hash, CausalEvent.external(1, 2, b"more"))
        assert (output.payload, output.link.sequence) == (b"8", 2), output

        runtime.export_chain(revived.origin_hash, file)
    report = verify_chain(file, identity.entity_id)
    assert report.last_sequence == report.signed_through == 2, report

    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    try:
        verify_chain(file, identity.entity_id)
    except ChainError:
        return
    raise AssertionError("a changed chain was accepted")


def check_command() -> None:
    """The demo runs on the sample that the package brings with it."""
    scripts = Path(sysconfig.get_path("scripts"))
    command = scripts / ("meshos.exe" if sys.platform == "win32" else "meshos")
    subprocess.run([command, "demo"], check=True, timeout=120)


def main() -> None:
    """Run every check; the first that fails ends the run with a traceback."""
    check_environment()
    check_files()
    with tempfile.TemporaryDirectory() as folder:
        check_life(Path(folder))
    check_command()
    print(f"meshos {meshos.__version__} works in a clean environment")


if __name__ == "__main__":
    main()
