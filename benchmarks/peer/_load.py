"""Picks the adapter: `BENCH_ADAPTER` names a module, by default `_adapter`."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
adapter: Any = importlib.import_module(os.environ.get("BENCH_ADAPTER", "_adapter"))
