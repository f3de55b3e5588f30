"""Makes the README's pictures of the dashboard again: `python docs/make_pictures.py`.

Runs the browser test of the TensorBoard page, which keeps what it saw, and crops that.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = {
    "charts": (360, 80, 1400, 930),
    "card": (360, 80, 1400, 960),
    "pictures": (360, 120, 760, 420),
}


def main() -> None:
    """Write `docs/images/charts.png`, `card.png` and `pictures.png`."""
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "tests/telemetry/dashboard/test_page.py"]
        subprocess.run([*command, f"--basetemp={folder}/pytest"], cwd=root, check=True)
        for name, box in PICTURES.items():
            picture = (
                Image.open(Path(folder, "pytest", "page0", f"{name}.png")).convert("RGB").crop(box)
            )
            target = root / "docs" / "images" / f"{name}.png"
            target.parent.mkdir(exist_ok=True)
            picture.quantize(64).save(target, optimize=True)


if __name__ == "__main__":
    main()
