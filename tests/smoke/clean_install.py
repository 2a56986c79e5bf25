"""Installs one wheel or sdist in a clean environment, and runs `wheel_smoke.py` there.

    python tests/smoke/clean_install.py FILE

The environment and the working folder lie outside the checkout, so nothing in it can help the package.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

SMOKE = Path(__file__).with_name("wheel_smoke.py")


def main(package: Path) -> int:
    """Return the exit code of the smoke test."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder, "venv")
        venv.create(home, with_pip=True)
        python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        install = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install", str(package)]
        subprocess.run([python, *install], check=True, cwd=folder)
        # -I: neither the working folder nor PYTHONPATH is on the path.
        return subprocess.run([python, "-I", SMOKE], check=False, cwd=folder).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/smoke/clean_install.py FILE")
    sys.exit(main(Path(sys.argv[1]).resolve(strict=True)))
