"""The Images tab: who got what, a row for each rank and a column for each step."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from lightning_app.telemetry.many_ranks import MAX_EACH

Picture = npt.NDArray[np.uint8]

CELL_HEIGHT = 36
MAX_WIDTH = 960
MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM = 64, 28, 24
WHITE, BLACK = (255, 255, 255), (20, 20, 20)
LOW, HIGH = np.array((222, 235, 247)), np.array((8, 69, 148))  # pale to dark blue


def who_got_what(sizes: npt.NDArray[np.int64], first_step: int) -> Picture:
    """Draw the sizes of shards as colours, and as numbers where there is room.

    Args:
        sizes: Samples `(steps, ranks)`.
        first_step: The number of the first row.

    Returns:
        An RGB picture `(height, width, 3)`.
    """
    num_steps, num_all = sizes.shape
    # Of many ranks a few, from the first to the last: parts are larger on the first ones.
    ranks = np.linspace(0, num_all - 1, min(num_all, MAX_EACH)).astype(int)
    sizes, num_ranks = sizes[:, ranks], len(ranks)
    cell_width = max(1, min(48, (MAX_WIDTH - MARGIN_LEFT) // num_steps))
    if cell_width == 1:  # more steps than pixels
        sizes = sizes[:: -(-num_steps // (MAX_WIDTH - MARGIN_LEFT))]
    width = MARGIN_LEFT + cell_width * len(sizes)
    height = MARGIN_TOP + CELL_HEIGHT * num_ranks + MARGIN_BOTTOM
    image = Image.new("RGB", (max(width, 360), height), WHITE)
    draw = ImageDraw.Draw(image)
    draw.text((4, 6), f"samples per rank and step: {sizes.min()} (pale) to {sizes.max()}", BLACK)
    for rank in range(num_ranks):
        top = MARGIN_TOP + CELL_HEIGHT * rank
        draw.text((4, top + CELL_HEIGHT // 2 - 6), f"rank {ranks[rank]}", BLACK)
        for column, size in enumerate(sizes[:, rank]):
            left = MARGIN_LEFT + cell_width * column
            share = int(size) / max(int(sizes.max()), 1)
            box = (left, top, left + cell_width - 1 - (cell_width > 4), top + CELL_HEIGHT - 2)
            draw.rectangle(box, tuple(np.round(LOW + share * (HIGH - LOW)).astype(int)))
            if cell_width >= 18:
                color = WHITE if share > 0.5 else BLACK
                center = (left + cell_width // 2, top + CELL_HEIGHT // 2 - 1)
                draw.text(center, str(size), color, anchor="mm")
    last = f"step {first_step + num_steps - 1}"
    bottom = height - MARGIN_BOTTOM + 5
    draw.text((MARGIN_LEFT, bottom), f"step {first_step}", BLACK)
    if width > MARGIN_LEFT + 120:
        draw.text((width - 2, bottom), last, BLACK, anchor="ra")
    return np.asarray(image)
