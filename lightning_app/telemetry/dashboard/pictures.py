"""The Images tab: who got what, a bar for each split, with how many steps had it."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]
Split = tuple[int, ...]

WIDTH, ROW_HEIGHT = 350, 34  # as wide as the page shows it, so that it is not scaled
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP = 82, 44, 26
MAX_ROWS = 10
WHITE, BLACK = (255, 255, 255), (20, 20, 20)
COLORS = [(8, 69, 148), (217, 95, 14), (35, 139, 69), (117, 107, 177)]  # of ranks, in turn


def who_got_what(splits: Mapping[Split, int]) -> Picture:
    """Draw how batches were split over the ranks.

    Args:
        splits: For each split, samples in rank order, the number of steps that had it; at least
            one.

    Returns:
        An RGB picture `(height, width, 3)`.
    """
    shown = list(splits.items())[:MAX_ROWS]
    num_hidden = len(splits) - len(shown)
    height = MARGIN_TOP + ROW_HEIGHT * (len(shown) + (num_hidden > 0))
    image = Image.new("RGB", (WIDTH, height), WHITE)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    draw.text((4, 4), "steps", BLACK, font)
    ranks = "rank 0" if len(shown[0][0]) == 1 else f"ranks 0 to {len(shown[0][0]) - 1}"
    draw.text((MARGIN_LEFT, 4), f"samples of {ranks}", BLACK, font)
    draw.text((WIDTH - 4, 4), "all", BLACK, font, anchor="ra")
    most = max(sum(split) for split, _ in shown)
    scale = (WIDTH - MARGIN_LEFT - MARGIN_RIGHT) / max(most, 1)
    for row, (split, count) in enumerate(shown):
        top = MARGIN_TOP + ROW_HEIGHT * row
        middle = top + ROW_HEIGHT // 2 - 2
        draw.text((4, middle), str(count), BLACK, font, anchor="lm")
        draw.text((WIDTH - 4, middle), str(sum(split)), BLACK, font, anchor="rm")
        start = 0
        for rank, size in enumerate(split):
            box = [MARGIN_LEFT + scale * start, top, MARGIN_LEFT + scale * (start + size) - 2]
            start += size
            if size and box[2] > box[0]:
                draw.rectangle((*box, top + ROW_HEIGHT - 6), COLORS[rank % len(COLORS)])
            if draw.textlength(str(size), font) < box[2] - box[0]:
                draw.text(((box[0] + box[2]) / 2, middle), str(size), WHITE, font, anchor="mm")
    if num_hidden:
        bottom = MARGIN_TOP + ROW_HEIGHT * len(shown) + 4
        draw.text((4, bottom), f"… and {num_hidden} more splits", BLACK, font)
    return np.asarray(image)
