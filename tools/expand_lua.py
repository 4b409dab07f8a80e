"""
Write each script as Redis gets it, includes expanded: for luacheck, and for reading.

    python tools/expand_lua.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from quota_engine.scripts import load_scripts


def expand(target: Path) -> list[Path]:
    """Write the scripts into ``target`` and return their paths."""
    target.mkdir(parents=True, exist_ok=True)
    for stale in target.glob("*.lua"):
        stale.unlink()
    paths = []
    for name, spec in load_scripts().items():
        path = target / f"{name}.lua"
        shebang, _, body = spec.source.partition("\n")
        path.write_text(f"-- {shebang}\n{body}")  # Lua itself does not know the shebang's flags
        paths.append(path)
    return paths


if __name__ == "__main__":
    sys.exit(0 if expand(Path(sys.argv[1])) else 1)
