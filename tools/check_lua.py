"""
Run luacheck on the expanded scripts; say so, and pass, where luacheck can not be had.

The expanded text stays in .cache/lua: the line numbers are its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tools.debian_parts import CACHE, MissingError, program
from tools.expand_lua import expand

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Expand, then check."""
    scripts = expand(CACHE.parent / "lua")
    luacheck = shutil.which("luacheck")
    try:
        luacheck = luacheck or str(program("luacheck"))
    except (MissingError, OSError) as error:
        print(f"SKIPPED: luacheck can not be had here: {error}")
        return 0
    if not scripts:
        return 0
    command = [luacheck, "--no-color", "--quiet", "--config", str(ROOT / ".luacheckrc")]
    return subprocess.run([*command, *map(str, scripts)], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
