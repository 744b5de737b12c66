"""Make the sprite sheet of the built-in model's world: `python docs/make_sprites.py FOLDER`.

FOLDER is `assets` of the npm package @lobehub/fluent-emoji-3d 1.1.0 (`npm pack @lobehub/fluent-emoji-3d@1.1.0`), which
holds Microsoft's Fluent Emoji, MIT, as 256x256 pictures named by code point.
"""

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from fatezero_ext.toy.world.objects import CELL, COLUMNS, MARGIN, SHEET
from fatezero_ext.toy.world.world import OBJECTS

CODE_POINTS = {
    "cat": "1f431",
    "dog": "1f436",
    "panda": "1f43c",
    "fox": "1f98a",
    "car": "1f697",
    "bus": "1f68c",
    "ball": "26bd",
    "apple": "1f34e",
    "rabbit": "1f430",
    "frog": "1f438",
    "lion": "1f981",
    "pig": "1f437",
    "elephant": "1f418",
    "duck": "1f986",
    "owl": "1f989",
    "penguin": "1f427",
    "fish": "1f420",
    "turtle": "1f422",
    "butterfly": "1f98b",
    "taxi": "1f695",
    "rocket": "1f680",
    "balloon": "1f388",
    "pumpkin": "1f383",
    "mushroom": "1f344",
    "sunflower": "1f33b",
    "robot": "1f916",
    "ghost": "1f47b",
    "snowman": "26c4",
}


def sheet(folder: Path) -> Image.Image:
    """Scale every object to the same greatest side, let it stand on the same line, and put all in one picture."""
    rows = -(-len(OBJECTS) // COLUMNS)
    result = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    room = CELL - 2 * MARGIN
    for index, name in enumerate(OBJECTS):
        sprite = Image.open(folder / f"{CODE_POINTS[name]}.webp", formats=["WEBP"]).convert("RGBA")
        sprite = sprite.crop(sprite.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())
        scale = room / max(sprite.size)
        width, height = (max(1, round(side * scale)) for side in sprite.size)
        small = sprite.resize((width, height), Image.Resampling.LANCZOS)
        left, top = index % COLUMNS * CELL, index // COLUMNS * CELL
        result.paste(small, (left + (CELL - width) // 2, top + CELL - MARGIN - height))
    return result


if __name__ == "__main__":
    sheet(Path(sys.argv[1])).save(SHEET, optimize=True)
