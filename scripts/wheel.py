"""Build the wheel, install it into a clean environment and use it there as a project would."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "scripts" / "wheel_smoke.py"


def build(folder: Path) -> Path:
    """Build the wheel from the source distribution, so that both are known to be complete; return its path."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel and its dependencies, no development tool; return the interpreter."""
    venv.create(folder, with_pip=True)
    python = next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())
    pip = [str(python), "-m", "pip", "install", "-qq", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, str(wheel)], check=True)
    return python


def main() -> int:
    """Return 0 if the installed wheel works."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder / "dist")
        python = install(wheel, folder / "venv")
        # -P and another folder: the smoke test must not import the checkout instead of the wheel.
        smoke = subprocess.run([str(python), "-P", "-W", "error", str(SMOKE)], cwd=folder, check=False)
        print(f"{wheel.name} {'works' if smoke.returncode == 0 else 'FAILED'} in a clean environment", flush=True)
    return smoke.returncode


if __name__ == "__main__":
    sys.exit(main())
