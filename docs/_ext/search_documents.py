"""What the search finds: pages, sections, symptoms and names, each with its fields.

`FIELDS` of `docs/_node/terms.js` says how much each field counts.
"""

import re
import textwrap

from docutils import nodes

WAYS_IN = {"index", "search"}  # lead to pages, and are no answer
LISTS = {"api", "conformance", "contributing", "learn/references", "on_record", "upstream"}
LISTS |= {"symptoms", "variants"}
SENTENCES = 2  # of each place are kept, to be shown
SENTENCE_ENDS = re.compile(r"(?<=[.?!])\s+(?=[A-Z“\"])")


def documents(domain, texts, asked, titles):
    """All that is indexed.

    Parameters
    ----------
    domain : Symptoms
    texts : dict
        Of each page, what `site_search.Texts` collected.
    asked, titles : dict
        Of each page, what its readers say, and the titles of threads that it answers.
    """
    symptoms, found = symptoms_of_pages(domain), []
    for docname, text in sorted(texts.items()):
        if docname in WAYS_IN:
            continue
        url = f"{docname}.html"
        told = symptoms.get(docname, "")
        found.append(page(url, text, told, asked.get(docname, ""), " ".join(titles[docname])))
        if docname == "symptoms":
            found += [symptom(url, each, domain) for each in names_of_symptoms(domain)]
        elif not docname.startswith("gallery/"):
            found += [section(url, text, each) for each in text["sections"][1:]]
        found += [explained(url, each) for each in text["names"]]
    return found


def page(url, text, symptoms, words, threads):
    """A page, whose lead counts for more than what comes after it."""
    docname = url.removesuffix(".html")
    top, *others = text["sections"]
    lead = sentences(top["paragraphs"][:2])
    body = first_sentences(top["paragraphs"][2:])
    for each in others:
        body += first_sentences(each["paragraphs"])
    return {
        "url": url,
        "kind": kind_of(docname),
        "title": top["title"],
        "threads": threads,
        "symptoms": symptoms,
        "words": words,
        "lead": " ".join(lead),
        "headings": " ".join(each["title"] for each in others),
        "names": " ".join(error for each in text["sections"] for error in each["errors"]),
        # Names are found by themselves, and what a list says on the pages that it names.
        "body": "" if text["names"] or kind_of(docname) == "list" else " ".join(body),
        "sentences": [short(each) for each in (lead + body)[:SENTENCES]],
    }


def kind_of(docname):
    """Whether a page answers, reports a defect to somebody, or lists other pages."""
    if docname.endswith("/index") or docname.startswith("api/") or docname in LISTS:
        return "list"
    return "report" if docname.startswith("upstream/") else "page"


def section(url, text, section):
    """A section of a text: in the gallery all pages have the same headings."""
    lead = sentences(section["paragraphs"][:1])
    return {
        "url": f"{url}#{section['anchor']}",
        "kind": "section",
        "title": f"{section['title']} ({text['sections'][0]['title']})",
        "lead": " ".join(lead),
        "sentences": [short(each) for each in lead[:1]],
    }


def symptom(url, name, domain):
    """The finder's section on one symptom."""
    causes = [each["cause"].astext() for each in domain.causes(name)]
    words = next(each["words"] for _, each in domain.said("sections") if each["name"] == name)
    return {
        "url": f"{url}#{nodes.make_id(name)}",
        "kind": "symptom",
        "title": name[0].upper() + name[1:],
        "words": words,
        "body": " ".join(causes),
        "sentences": [short(each) for each in causes[:SENTENCES]],
    }


def explained(url, told):
    """A name of the package, as its reference explains it."""
    return {
        "url": f"{url}#{told['name']}",
        "kind": "name",
        "title": told["name"],
        "lead": told["text"],
        "sentences": [short(each) for each in sentences([told["text"]])[:1]],
    }


def names_of_symptoms(domain):
    """All symptoms of the finder."""
    return [each["name"] for _, each in domain.said("sections")]


def symptoms_of_pages(domain):
    """Of each page, the symptoms whose causes it shows: name, words, and the causes."""
    found = {}
    for _, section in domain.said("sections"):
        for cause in domain.causes(section["name"]):
            for docname in cause["pages"]:
                told = [section["name"], section["words"], cause["cause"].astext()]
                found.setdefault(docname, []).extend(told)
    return {docname: " ".join(dict.fromkeys(told)) for docname, told in found.items()}


def sentences(paragraphs):
    """The sentences of paragraphs, each once, that are long enough to tell something."""
    found = [each for paragraph in paragraphs for each in SENTENCE_ENDS.split(paragraph)]
    return [each for each in dict.fromkeys(found) if len(each) > 25]


def first_sentences(paragraphs):
    """The first sentence of each paragraph, which says what it is about."""
    return [found[0] for each in paragraphs if (found := sentences([each]))]


def short(sentence):
    """A sentence as it is shown: what is longer than a line or two ends in an ellipsis."""
    return textwrap.shorten(sentence, 105, placeholder=" …")
