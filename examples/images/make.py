"""Makes the images of README's examples: python3 make.py, with Pillow.

sketch.png  a three, drawn with a black pen on white paper: take it with --negate
digit.png   a seven as the digits model knows them, white on black, 28x28
hole.png    a mask for digit.png: its upper half is to be filled in
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).parent


def drawn(points, width, paper, ink):
    image = Image.new("L", (280, 280), paper)
    pen = ImageDraw.Draw(image)
    pen.line(points, fill=ink, width=width, joint="curve")
    for x, y in (points[0], points[-1]):
        radius = width // 2
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    return image


THREE = [(92, 84), (130, 60), (172, 74), (176, 112), (132, 136), (178, 156), (184, 200), (142, 224), (92, 206)]
SEVEN = [(84, 76), (190, 72), (164, 130), (132, 226)]

drawn(THREE, 14, paper=255, ink=0).save(FOLDER / "sketch.png", optimize=True)
seven = drawn(SEVEN, 24, paper=0, ink=255).filter(ImageFilter.GaussianBlur(4))
seven.resize((28, 28), Image.Resampling.BOX).save(FOLDER / "digit.png", optimize=True)
hole = Image.new("L", (28, 28), 0)
hole.paste(255, (0, 0, 28, 14))
hole.save(FOLDER / "hole.png", optimize=True)
