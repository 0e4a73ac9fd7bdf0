"""What `docs/lighten.py` leaves of a site: all that its pages use, and little else."""

import shutil
from pathlib import Path

import lighten
import numpy as np
import pydata_sphinx_theme
import pytest
from fontTools.ttLib import TTFont
from mathml import WHOLE
from PIL import Image

THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
PAGE = """<html><head>
<script src="../_static/doctools.js?v=1"></script>
<script defer src="../_static/design-tabs.js"></script>
</head><body>
<i class="fa-solid fa-house"></i>
<math><mi>x</mi><mo>+</mo><mi>\u03b2</mi><mn>2</mn></math>
<p class="used" data-theme="dark">text</p>
<img alt="A" src="../_images/a.png" class="figure"/>
<img alt="B" src="../_images/b_thumb.png" />
<img width="5" src="../_images/a.png">
</body></html>"""
STYLE = """
.used{color:red} .unused{color:blue} html[data-theme="dark"] p{color:black}
.divider:before{content:"\uf105"} .drawn:before{content:"\\f019"}
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
    (site / "_static/scripts/fontawesome.js").write_text("x" * 90_000)
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
