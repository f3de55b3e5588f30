"""Makes the README's pictures again: `python docs/make_pictures.py`.

Runs the browser test of the TensorBoard page, which keeps what it saw and what the run printed,
crops that, and has the browser set the transcript beside the charts.
"""

import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).parent / "images"
# left, top, right and bottom, in pixels
PICTURES = {"card": (360, 80, 1380, 956), "pictures": (360, 120, 760, 358)}
CHARTS = ((376, 140, 726, 362), (726, 140, 1076, 362))
LINES = 18  # of the transcript
FIRST = """<!DOCTYPE html><style>
body { margin: 0; display: flex; background: #1f2430; width: 1040px; height: 484px }
pre { margin: 0; padding: 16px; width: 644px; tab-size: 4; color: #d7dce2;
      font-size: 11.5px; line-height: 1.9 }
p { margin: 0; overflow: hidden; text-overflow: ellipsis }
b { color: #8fd18f }
div { background: white; padding: 8px 7px; font: 15px sans-serif }
img { display: block }
</style>
<pre><b>$ python train.py --devices 2 --strategy ddp</b>%s</pre>
<div>Loss<img src="chart_0.png"><img src="chart_1.png"></div>"""


def main() -> None:
    """Write `docs/images/first.png`, `card.png` and `pictures.png`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pytest", "tests/telemetry/dashboard/test_page.py"]
        root = Path(__file__).parent.parent
        subprocess.run([*command, f"--basetemp={folder}/pytest"], cwd=root, check=True)
        seen = folder / "pytest" / "page0"
        for picture, box in PICTURES.items():
            keep(Image.open(seen / f"{picture}.png").crop(box), picture)
        for number, box in enumerate(CHARTS):
            Image.open(seen / "charts.png").crop(box).save(folder / f"chart_{number}.png")
        keep(beside((seen / "transcript.txt").read_text(), folder), "first")


def beside(transcript: str, folder: Path) -> Image.Image:
    """What a run has printed, beside the charts that are in a folder."""
    lines = [f"<p>{escape(line)}</p>" for line in transcript.splitlines()[:LINES]]
    (folder / "first.html").write_text(FIRST % "".join(lines))
    browser = shutil.which("chromium")
    assert browser is not None, "chromium is not installed"
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    size, to = "--window-size=1040,484", f"--screenshot={folder}/first.png"
    subprocess.run([browser, *options, size, to, f"file://{folder}/first.html"], check=True)
    return Image.open(folder / "first.png")


def keep(image: Image.Image, name: str) -> None:
    """Write a picture, in few colours."""
    image.convert("RGB").quantize(64).save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
