"""The cards of a gallery section: grouped by the three questions, with what the filters ask for.

Each card says of its page which question it is about, which symptoms it shows, and which libraries
its script uses. `card_filters.js` makes fields of that, and hides what does not fit.
"""

import re
import shutil
from pathlib import Path

from alternative_texts import CARDS
from bs4 import BeautifulSoup
from project import ROOT

from bnref.doctor import CHECKS

TITLES = {
    "1": "Whose statistics?",
    "2": "Remembered how?",
    "3": "Used when?",
    "none": "None of the three",
}
# What in a script tells that its page is about a library.
LIBRARIES = {
    "Keras 3": r"\bkeras\.layers\.BatchNormalization|\bKeras 3",
    "tf_keras": r"\btf_keras\b",
    "TensorFlow 1": r"\btf1\b|compat\.v1",
    "PyTorch": r"\bPyTorch\b|pytorch/pytorch",
}
FILTERS = """<form class="card-filters pst-js-only" aria-label="Show some of the pages">
<label>Question <select name="question"><option value="">all</option></select></label>
<label>Symptom <select name="symptom"><option value="">all</option></select></label>
<label>Library <select name="library"><option value="">all</option></select></label>
<output role="status"></output></form>"""


def arrange(app, pagename, templatename, context, doctree):
    """Group the cards of a section's page."""
    body = context.get("body") or ""
    if not re.fullmatch(r"gallery/\w+/index", pagename) or "sphx-glr-thumbcontainer" not in body:
        return
    soup = BeautifulSoup(body, "html.parser")
    all_cards = soup.select_one(".sphx-glr-thumbnails")
    groups, domain = {}, app.env.get_domain("symptom")
    for card in all_cards.select(".sphx-glr-thumbcontainer"):
        docname = pagename.rpartition("/")[0] + "/" + card.a["href"].partition(".html")[0]
        question, symptoms = of_page(domain, docname)
        card["data-question"] = TITLES.get(question, "")
        card["data-symptom"] = "|".join(symptoms)
        card["data-library"] = "|".join(libraries(docname))
        groups.setdefault(question, []).append(card)
    if len(groups) > 1 and set(groups) - {""}:
        for question in sorted(groups, key=[*TITLES, ""].index):
            title = soup.new_tag("h2", id=f"question-{question or 'other'}")
            title.string = TITLES.get(question, "More")
            part = soup.new_tag("div", attrs={"class": "sphx-glr-thumbnails"})
            part.extend([card.extract() for card in groups[question]])
            all_cards.insert_before(title)
            all_cards.insert_before(part)
        all_cards.decompose()
    first = soup.select_one("h2, .sphx-glr-thumbnails")
    first.insert_before(BeautifulSoup(FILTERS, "html.parser"))
    context["body"] = str(soup)


def of_page(domain, docname):
    """The question that a page is mostly about, "" if it does not say, and its symptoms."""
    entries = domain.data["entries"].get(docname, [])
    questions = [
        str(CHECKS[each["doctor"]].question) if each["doctor"] else each["question"]
        for each in entries
    ]
    symptoms = list(dict.fromkeys(each["name"] for each in entries))
    return max(questions, key=questions.count, default=""), symptoms


def libraries(docname):
    """The libraries that a page is about."""
    script = (ROOT / f"{docname}.py").read_text("utf-8")
    return [name for name, pattern in LIBRARIES.items() if re.search(pattern, script)]


def use_cards(app, error):
    """Show the card that was drawn for a page in place of its figure made small."""
    if error is None and app.builder.format == "html":
        for card in CARDS.glob("*.png"):
            thumbnail = Path(app.outdir, "_images", f"sphx_glr_{card.stem}_thumb.png")
            if thumbnail.exists():
                shutil.copyfile(card, thumbnail)


def setup(app):
    """Arrange before the page is written, once its cards have their texts."""
    app.setup_extension("symptoms")
    app.connect("html-page-context", arrange, priority=600)
    app.connect("build-finished", use_cards)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
