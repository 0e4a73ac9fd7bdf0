"""The notebook of each gallery page, made of the rendered page: text without roles, and outputs.

sphinx-gallery's own have the directives of the script in their text, and what it printed nowhere.
The first cell says how to install what the page needs; links lead to the published site.
"""

import base64
import posixpath
import re
import zipfile
from pathlib import Path

import nbformat
from addresses import requirement, site
from as_markdown import ARTICLE, LEFT_OUT, Converter, language
from bs4 import BeautifulSoup
from made_once import made_once, side_by_side
from nbformat import v4

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "downloads"
CODE = "div.highlight-Python"
OUTPUT = "div.sphx-glr-script-out"
MARK = "xxcellxx"
# What is on the page and not in a notebook, besides what is not in its Markdown.
ON_THE_PAGE = ".page-made, .see-also, summary, p.sphx-glr-script-out, img"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def write(folder):
    """Replace the notebooks of a rendered site."""
    pages, targets = {}, []
    for path in sorted((folder / "gallery").glob("*/*.html")):
        page = path.read_text("utf-8")
        if notebook := offered(page, path, "ipynb"):
            pages[path.relative_to(folder).as_posix()] = page
            targets.append((notebook, offered(page, path, "zip")))
    made = side_by_side(once, pages.values(), pages, [folder] * len(pages))
    for (target, packed), data in zip(targets, made, strict=True):
        target.write_bytes(data)
        if packed:
            pack(packed, target)


def offered(page, path, kind):
    """The file of this kind that a page offers for download, or None."""
    found = re.search(rf'href="([^"]*_downloads/[^"]*/{re.escape(path.stem)}\.{kind})"', page)
    return path.parent / found[1] if found else None


def once(page, address, folder):
    """The notebook of a page, made once for what the page is and shows."""
    pictures = [picture(folder, address, source) for source in sources(page)]
    settings = f"{requirement()}\0{site()}\0{address}".encode()
    given = [Path(__file__).read_bytes(), page.encode(), settings, *pictures]
    return made_once(CACHE, given, ".ipynb", lambda: notebook(page, address, pictures)).read_bytes()


def sources(page):
    """The addresses of a page's figures, in order; the first was moved up, and is the first."""
    return re.findall(r'<img [^>]*?src="([^"]*/sphx_glr_[^"]+)"', ARTICLE.search(page)[0])


def picture(folder, address, source):
    """The file of a figure on the page with this address."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(address), source))
    return (folder / path).read_bytes()


def notebook(page, address, pictures):
    """The notebook as bytes."""
    article = BeautifulSoup(ARTICLE.search(page)[0], "html.parser")
    for each in article.select(f"{LEFT_OUT}, {ON_THE_PAGE}"):
        each.decompose()
    absolute(article, address)
    codes = take_code(article)
    give_pictures(codes, pictures)
    options = {"heading_style": "ATX", "bullets": "-", "code_language_callback": language}
    text = Converter(**options).convert_soup(article)
    cells = [
        v4.new_code_cell(f'# Once, to install what this needs:\n# %pip install "{requirement()}"')
    ]
    for number, part in enumerate(re.split(rf"{MARK}\d+", text)):
        words = re.sub(r"\n{3,}", "\n\n", part).strip()
        cells += [v4.new_markdown_cell(words)] if words else []
        cells += [codes[number]] if number < len(codes) else []
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # the same page gives the same notebook
    made = v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.validate(made)
    return nbformat.writes(made).encode()


def absolute(article, address):
    """Links that lead to the site; text, where nobody says where that is."""
    for link in article.select("a[href]"):
        if re.match("[a-z]+:", link["href"]):
            continue
        if not site():
            link.unwrap()
            continue
        folder = posixpath.dirname(address)
        path, hash_, place = link["href"].partition("#")
        path = posixpath.normpath(posixpath.join(folder, path)) if path else address
        link["href"] = site() + path + hash_ + place


def take_code(article):
    """The cells of code, each with what it printed; in their place a mark."""
    cells = []
    for block in article.select(CODE):
        printed = ""
        following = block.find_next_sibling()
        while following is not None and OUTPUT.partition(".")[2] in following.get("class", []):
            printed += following.get_text()
            following, done = following.find_next_sibling(), following
            done.decompose()
        cell = v4.new_code_cell(block.get_text().strip("\n"))
        if printed.strip():
            cell["outputs"] = [v4.new_output("stream", name="stdout", text=printed.lstrip("\n"))]
        block.replace_with(f"\n\n{MARK}{len(cells)}\n\n")
        cells.append(cell)
    return cells


def give_pictures(cells, pictures):
    """Each figure to the cell that shows it."""
    shown = [cell for cell in cells if "plt.show()" in cell["source"]]
    for cell, data in zip(shown, pictures, strict=False):
        encoded = base64.b64encode(data).decode()
        cell["outputs"].append(v4.new_output("display_data", {"image/png": encoded}))


def pack(path, target):
    """Replace the notebook in the archive that has both."""
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in kept.items():
            same = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            archive.writestr(same, target.read_bytes() if name.endswith(".ipynb") else data)
