"""The pictures of a rendered site: few colours, a twin for the dark, a size, the large one."""

import re
from colorsys import hls_to_rgb, rgb_to_hls
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

from PIL import Image

THREADS = 2
# Of a figure and of a thumbnail: lines, shades of them, and text.
COLOURS = {False: 256, True: 64}
# The figures of the gallery, with what stands behind the address.
FIGURE = re.compile(r'<img [^>]*?src="[^"]*_images/(sphx_glr_[^"/]+\.png)"[^>]*?>')
DARK = "_dark"
DARKEST, LIGHTEST = 0.08, 0.9  # lightness of what was white and of what was black
IMAGE = re.compile(r'<img (?![^>]*\bwidth=)([^>]*?src="([^"]*_images/[^"]+\.png)"[^>]*?)\s*/?>')


def pictures(site, text, made):
    """Few colours for each picture, and a second one for the dark; the names of those that have it.

    ``made`` replaces a file by what a function makes of it. A figure that holds a picture itself,
    or colours that stand for numbers, is left as it is.
    """
    tags = [found[0] for found in FIGURE.finditer(text) if "keeps-colours" in found[0]]
    kept = {script_of(FIGURE.search(tag)[1]) for tag in tags}
    paths = sorted(site.glob("_images/*.png"))
    recoloured = {
        path.name
        for path in paths
        if path.name.startswith("sphx_glr_") and script_of(path.name) not in kept
    }

    def replace(path):
        data, name = path.read_bytes(), path.name.encode()
        if path.name in recoloured:
            dark = path.with_stem(path.stem + DARK)
            made(path, [data, name, b"dark"], for_the_dark, to=dark)
        made(path, [data, name], few_colours)

    # Pillow works outside of Python's lock, so threads are enough.
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(replace, paths))
    return recoloured


def script_of(name):
    """Which script has drawn a picture."""
    return re.sub(r"(_\d{3}(_2_00x)?|_thumb)\.png$", "", name)


def few_colours(path):
    """A picture with few colours, where that makes it smaller."""
    data, before = BytesIO(), path.read_bytes()
    quantized(path).save(data, "png")
    return min(data.getvalue(), before, key=len)


def quantized(path):
    """A picture with few colours."""
    with Image.open(path) as image:
        colours = COLOURS["_thumb" in path.name]
        return image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)


def for_the_dark(path):
    """A figure as it is read on a dark page: light is dark and dark is light, of the same hues.

    What was white is transparent.
    """
    image, data = quantized(path), BytesIO()
    colours = image.getpalette()
    clear = bytearray(b"\xff" * (len(colours) // 3))
    for start in range(0, len(colours), 3):
        hue, lightness, saturation = rgb_to_hls(
            *(each / 255 for each in colours[start : start + 3])
        )
        clear[start // 3] = 0 if lightness > 0.995 else 255
        # Neither black on the page's near-black, nor glaring white.
        swapped = hls_to_rgb(hue, DARKEST + (LIGHTEST - DARKEST) * (1 - lightness), saturation)
        colours[start : start + 3] = [round(255 * each) for each in swapped]
    image.putpalette(colours)
    image.save(data, "png", transparency=bytes(clear))
    return data.getvalue()


def placed(page, folder, recoloured):
    """A page of this folder with sizes of its pictures, and twins and links of its figures."""
    page = IMAGE.sub(lambda found: sized(found, folder), page)
    return FIGURE.sub(lambda found: twice(found, recoloured), page)


def twice(found, recoloured):
    """A figure's tag, for the light and for the dark; a click shows the large one."""
    tag, name = found[0], found[1]
    tags = {"": tag}
    if name in recoloured:
        stem = name.removesuffix(".png")
        dark = re.sub(rf"{re.escape(stem)}(_2_00x)?\.png", rf"{stem}\1{DARK}.png", tag)
        both = {"only-light": tag, "only-dark": dark}
        tags = {theme: with_class(each, theme) for theme, each in both.items()}
    if "_thumb." in name:
        return "".join(tags.values())
    # The link of the hidden one is hidden too, so that nobody comes to it by keyboard.
    return "".join(
        f'<a class="{f"large {theme}".strip()}" href="{largest(each)}">{each}</a>'
        for theme, each in tags.items()
    )


def with_class(tag, name):
    """A tag with one more class; hidden, it is not loaded."""
    tag, found = re.subn(r'class\s*=\s*"', f'class="{name} ', tag, count=1)
    if not found:
        tag = tag.replace("<img ", f'<img class="{name}" ', 1)
    return tag if "loading=" in tag else tag.replace("<img ", '<img loading="lazy" ', 1)


def largest(tag):
    """The address of the finest picture of a tag."""
    fine = re.search(r'srcset="[^"]*?(\S+) 2\.00x"', tag)
    return fine[1] if fine else re.search(r' src="([^"]+)"', tag)[1]


def sized(found, folder):
    """An image's tag with its size, so that nothing moves when it comes; cards' come late."""
    with Image.open(folder / found[2]) as image:
        width, height = image.size
    later = 'loading="lazy" ' if "_thumb." in found[2] else ""
    return f'<img width="{width}" height="{height}" {later}{found[1].strip()}/>'
