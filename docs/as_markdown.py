"""Each page as Markdown beside its HTML, and `llms.txt` and `llms-full.txt`, for language models.

They are made of the rendered article, so that they say what the page says: text, code, what it
printed, formulas as LaTeX, and of each figure its alternative text.
"""

import re
from pathlib import Path

from bs4 import BeautifulSoup
from made_once import made_once, side_by_side
from markdownify import MarkdownConverter

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "markdown"
# Of an article: links to itself, buttons, fields to type in, and what only a browser shows.
LEFT_OUT = """a.headerlink, button, form, input, script, style, .sphx-glr-footer,
.sphx-glr-download-link-note, .sphx-glr-thumbnails"""
ARTICLE = re.compile("<article.*</article>", re.DOTALL)
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
SECTIONS = {
    "": "Ways in",
    "learn": "Learn",
    "gallery/examine": "Examine your model",
    "gallery/questions": "Questions",
    "gallery/variants": "Variants",
    "gallery/networks": "Batch norm in a network",
    "gallery/pitfalls": "Pitfalls",
    "gallery/multi_gpu": "Several GPUs",
    "gallery/performance": "Performance",
    "api": "Reference",
    "upstream": "Reports to the frameworks",
}
NO_PAGES = {"404.html", "genindex.html", "py-modindex.html", "search.html"}


class Converter(MarkdownConverter):
    """Markdown as a page's author would write it."""

    def convert_math(self, node, text, parent_tags):
        """A formula as the LaTeX that it was made of."""
        mark = "$$" if node.get("display") == "block" else "$"
        return f"{mark}{node.get('alttext', text)}{mark}"

    def convert_img(self, node, text, parent_tags):
        """A figure by what it shows."""
        return f"[Figure: {node.get('alt', '')}]"

    def convert_summary(self, node, text, parent_tags):
        """The title of what is folded, on a line of its own."""
        return f"\n\n**{text.strip()}**\n\n"


def write(site):
    """Write what the whole site says as Markdown."""
    paths = [
        path
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts and path.name not in NO_PAGES
    ]
    texts = side_by_side(once, [path.read_text("utf-8") for path in paths])
    pages = {path.relative_to(site): text for path, text in zip(paths, texts, strict=True)}
    for path, text in pages.items():
        (site / path).with_suffix(".md").write_text(text, "utf-8")
    (site / "llms.txt").write_text(contents(pages), "utf-8")
    (site / "llms-full.txt").write_text("\n\n---\n\n".join(pages.values()), "utf-8")


def once(page):
    """The Markdown of a page, made once for what the page is."""
    given = [Path(__file__).read_bytes(), page.encode()]
    kept = made_once(CACHE, given, ".md", lambda: markdown(page).encode())
    return kept.read_text("utf-8")


def markdown(page):
    """The article of a page; links to other pages lead to their Markdown."""
    article = BeautifulSoup(ARTICLE.search(page)[0], "html.parser")
    for each in article.select(LEFT_OUT):
        each.decompose()
    for link in article.select("a[href]"):
        if not re.match("[a-z]+:", link["href"]):
            link["href"] = re.sub(r"\.html(#|$)", r".md\1", link["href"])
    options = {"heading_style": "ATX", "bullets": "-", "code_language_callback": language}
    parts = FENCE.split(Converter(**options).convert_soup(article))
    for i in range(0, len(parts), 2):  # between the blocks of code
        parts[i] = re.sub(r"\n{3,}", "\n\n", parts[i])
    return "".join(parts).strip() + "\n"


def language(block):
    """The language of a block of code; none for what a program printed."""
    highlighted = block.find_parent("div", class_=re.compile("^highlight-"))
    classes = highlighted["class"] if highlighted else []
    for name in classes:
        found = name.removeprefix("highlight-").lower()
        if found in ("python", "ipython3"):
            return "python"
        if found in ("bash", "sh", "shell", "console", "rst", "toml"):
            return found
    return ""


def contents(pages):
    """The list of all pages, by section, each with the beginning of what it says."""
    lines = ["# bnref", "", "> " + first_paragraph(pages[Path("index.html")])]
    for folder, title in SECTIONS.items():
        lines += ["", f"## {title}", ""]
        for path, text in pages.items():
            if path.parent.as_posix() == (folder or "."):
                name = text.partition("\n")[0].lstrip("# ").strip()
                address = path.with_suffix(".md").as_posix()
                lines.append(f"- [{name}]({address}): {first_paragraph(text)}")
    return "\n".join(lines) + "\n"


def first_paragraph(text):
    """What a page says first, in one line, without links."""
    found = next((each for each in text.split("\n\n")[1:] if re.match(r"[A-Z`*_“]", each)), "")
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(found.split()))
