"""Builds the wheel, installs it alone into a clean environment and uses it there as a host project would."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "scripts" / "wheel_smoke.py"


def build(folder: Path) -> Path:
    """The wheel, by way of the source distribution, so that both are known to be whole."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """The wheel and what it depends on, nothing of development; returns the interpreter."""
    venv.create(folder, with_pip=True)
    python = next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())
    pip = [str(python), "-m", "pip", "install", "-qq", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, str(wheel)], check=True)
    return python


def main() -> int:
    """0 where the installed wheel works."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder / "dist")
        python = install(wheel, folder / "venv")
        # -P and another folder: the checkout must not be found in the wheel's stead.
        done = subprocess.run([str(python), "-P", "-W", "error", str(SMOKE)], cwd=folder, check=False)
        print(f"{wheel.name} {'works' if done.returncode == 0 else 'FAILED'} in a clean environment", flush=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
