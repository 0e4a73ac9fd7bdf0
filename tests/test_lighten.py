"""What `docs/lighten.py` leaves of a site: all that its pages use, and little else."""

import shutil
from pathlib import Path

import lighten
import numpy as np
import pydata_sphinx_theme
import pytest
from bs4 import BeautifulSoup
from fontTools.ttLib import TTFont
from mathml import WHOLE
from PIL import Image

THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
PAGE = """<html><head>
<script src="../_static/doctools.js?v=1"></script>
<script src="../_static/sg-tags.js"></script>
<script defer src="../_static/design-tabs.js"></script>
</head><body>
<div id="searchbox"></div>
<i class="fa-solid fa-house"></i>
<math><mi>x</mi><mo>+</mo><mi>\u03b2</mi><mn>2</mn></math>
<p class="used" data-theme="dark">text</p>
<img alt="A" src="../_images/a.png" class="figure"/>
<img alt="B" src="../_images/b_thumb.png" />
<img width="5" src="../_images/a.png">
<pre><span class="n">x</span> <span class="o">=</span> <span class="p">(</span></pre>
</body></html>"""
STYLE = """
.used{color:red} .unused{color:blue} html[data-theme="dark"] p{color:black}
.divider:before{content:"\uf105"} .drawn:before{content:"\\f019"}
"""


COLOURS = """html[data-theme="light"] .highlight{background:#fff;color:#010}
html[data-theme="light"] .highlight .n{color:#010}
html[data-theme="light"] .highlight .o{color:#020}
html[data-theme="light"] .highlight .p{color:#010}
html[data-theme="dark"] .highlight .p{color:#040}
html[data-theme="dark"] .highlight{background:#000;color:#030}
html[data-theme="dark"] .highlight .n{color:#030} html[data-theme="dark"] .highlight .o{color:#030}
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(lighten, "CACHE", tmp_path / "cache")
    site = tmp_path / "site"
    for folder in ("_static/scripts", "_static/styles", "_images", "pages"):
        (site / folder).mkdir(parents=True)
    (site / lighten.ICONS).parent.mkdir(parents=True)
    shutil.copy(THEME / "vendor/fontawesome/webfonts/fa-solid-900.woff2", site / lighten.ICONS)
    shutil.copy(THEME / "styles/pydata-sphinx-theme.css", site / "_static/styles")
    shutil.copy(WHOLE, site / lighten.MATHEMATICS)
    (site / "_static/site.css").write_text(STYLE)
    (site / "_static/pygments.css").write_text(COLOURS)
    (site / "_static/scripts/fontawesome.js").write_text("x" * 90_000)
    shutil.copy(THEME / "scripts/bootstrap.js", site / lighten.BOOTSTRAP)
    (site / f"{lighten.BOOTSTRAP}.map").write_text("x" * 90_000)
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), "uint8")
    for name in ("a.png", "b_thumb.png"):
        Image.fromarray(noise).save(site / "_images" / name)
    (site / "pages/page.html").write_text(PAGE)
    return site


def letters(path):
    with TTFont(path) as font:
        return {chr(code) for code in font.getBestCmap()}


def test_fonts_have_the_icons_and_letters_that_are_drawn_and_few_others(site):
    lighten.lighten(site)
    icons = letters(site / lighten.ICONS)
    assert {"\uf015", "\uf105", "\uf019"} <= icons  # by its class; as a letter; as a number
    assert "\uf1f8" not in icons and len(icons) < 80  # a bin
    found = letters(site / lighten.MATHEMATICS)
    assert {"x", "+", "2", "\u03b2", "\U0001d465", "\U0001d6fd"} <= found
    assert "y" not in found and len(found) < 12


def test_style_sheets_have_the_rules_that_apply(site):
    lighten.lighten(site)
    style = (site / "_static/site.css").read_text()
    assert "red" in style and "dark" in style and ".unused" not in style
    before = (THEME / "styles/pydata-sphinx-theme.css").stat().st_size
    assert (site / "_static/styles/pydata-sphinx-theme.css").stat().st_size < before / 3


def test_a_script_that_has_nothing_to_do_is_not_asked_for(site):
    lighten.lighten(site)
    assert "<script" not in (site / "pages/page.html").read_text()
    (site / "pages/page.html").write_text(PAGE.replace("used", "sd-tab-set"))
    lighten.lighten(site)
    assert "design-tabs.js" in (site / "pages/page.html").read_text()


def test_of_bootstrap_there_is_what_pages_use_and_nothing_is_missing(site):
    before = (site / lighten.BOOTSTRAP).stat().st_size
    lighten.lighten(site)
    part = (site / lighten.BOOTSTRAP).read_text()
    assert "bootstrap={Dropdown:" in part and "Tooltip:" in part and len(part) < before / 2
    assert "Bootstrap Authors" in part, "its licence asks for this line"
    assert not list(site.glob("_static/**/*.map"))
    other = '<a data-bs-toggle="modal">x</a></body>'
    (site / "pages/page.html").write_text(PAGE.replace("</body>", other))
    with pytest.raises(ValueError, match="lacks what pages use: modal"):
        lighten.lighten(site)


def test_words_that_have_the_colour_of_the_program_in_each_theme_have_no_tag(site):
    lighten.lighten(site)
    page = (site / "pages/page.html").read_text()
    assert '<pre>x <span class="o">=</span> <span class="p">(</span></pre>' in page


def test_pictures_have_their_size_and_those_of_cards_come_when_they_are_seen(site):
    lighten.lighten(site)
    tags = [line for line in (site / "pages/page.html").read_text().splitlines() if "<img" in line]
    assert tags == [
        '<img width="60" height="40" alt="A" src="../_images/a.png" class="figure"/>',
        '<img width="60" height="40" loading="lazy" alt="B" src="../_images/b_thumb.png"/>',
        '<img width="5" src="../_images/a.png">',
    ]
    with Image.open(site / "_images/b_thumb.png") as image:
        assert image.mode == "P" and len(image.getcolors()) <= 64


def test_what_was_made_once_is_kept_for_what_it_was_made_of(site, monkeypatch):
    whole = (site / lighten.MATHEMATICS).read_bytes()
    lighten.lighten(site)
    first = (site / lighten.MATHEMATICS).read_bytes()
    monkeypatch.setattr(lighten.subset, "main", lambda options: pytest.fail("made again"))
    (site / lighten.MATHEMATICS).write_bytes(whole)
    lighten.with_letters(site / lighten.MATHEMATICS, lighten.mathematics(PAGE))
    assert (site / lighten.MATHEMATICS).read_bytes() == first
    with pytest.raises(pytest.fail.Exception, match="made again"):
        lighten.with_letters(site / lighten.MATHEMATICS, {ord("y")})


FIGURE = """<img src="../_images/{0}.png"
 srcset="../_images/{0}.png, ../_images/{0}_2_00x.png 2.00x"
 alt="A" class = "sphx-glr-single-img{1}"/>"""


def drawing(path, size=(60, 40)):
    """White, with a black line and a blue one."""
    image = Image.new("RGB", size, "white")
    for column, colour in ((10, (0, 0, 0)), (20, (0, 114, 178))):
        for row in range(size[1]):
            image.putpixel((column, row), colour)
    image.save(path)


@pytest.fixture
def figure(site):
    for name in ("sphx_glr_it_001", "sphx_glr_it_001_2_00x", "sphx_glr_it_thumb"):
        drawing(site / "_images" / f"{name}.png")
    page = (
        FIGURE.format("sphx_glr_it_001", "")
        + '<img alt="C" src="../_images/sphx_glr_it_thumb.png"/>'
    )
    (site / "pages/page.html").write_text(page)
    return site


def test_a_figure_has_a_twin_for_the_dark_of_the_same_hues(figure):
    lighten.lighten(figure)
    with Image.open(figure / "_images/sphx_glr_it_001_dark.png") as image:
        dark = image.convert("RGBA")
    assert dark.getpixel((0, 0))[3] == 0, "what was white shows the page"
    assert min(dark.getpixel((10, 0))) > 220, "what was black is light"
    red, green, blue, alpha = dark.getpixel((20, 0))
    assert blue > green > red and blue > 178 and alpha == 255, "blue is a lighter blue"
    with Image.open(figure / "_images/sphx_glr_it_001.png") as image:
        assert image.convert("RGB").getpixel((10, 0)) == (0, 0, 0), "and the first one is as it was"


def test_the_page_has_both_and_each_leads_to_the_large_one(figure):
    lighten.lighten(figure)
    page = BeautifulSoup((figure / "pages/page.html").read_text(), "html.parser")
    light, dark = page.find_all("a", class_="large")
    assert light["href"] == "../_images/sphx_glr_it_001_2_00x.png"
    assert dark["href"] == "../_images/sphx_glr_it_001_2_00x_dark.png"
    assert "only-light" in light.img["class"] and "only-dark" in dark.img["class"]
    assert "only-light" in light["class"] and "only-dark" in dark["class"], "hidden with its figure"
    assert dark.img["src"] == "../_images/sphx_glr_it_001_dark.png"
    assert dark.img["loading"] == "lazy" and dark.img["width"] == "60"
    thumbs = page.find_all("img", alt="C")
    assert [each.parent.name for each in thumbs] == ["[document]"] * 2, "a card is a link itself"


def test_a_figure_that_holds_a_picture_keeps_its_colours(figure):
    page = FIGURE.format("sphx_glr_it_001", " keeps-colours")
    (figure / "pages/page.html").write_text(page)
    lighten.lighten(figure)
    assert "only-dark" not in (figure / "pages/page.html").read_text()
    assert not list(figure.glob("_images/*_dark.png"))
