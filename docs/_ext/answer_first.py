"""What a reader of a gallery page sees first: the answer, its figure, what it looks like, a check.

The main figure moves up to the answer, so that it is on the page once. Below it stand one line, how
long the page took, where and when, and what the reader of such a page sees. The section Check
begins with the doctor's check of the cause, and with the checks by hand. Code that draws is folded
away, and so are the assertions at the end.
"""

import ast
import json

from docutils import nodes
from foot import FOLDER
from project import depend_on, first_section

PROOFS = {"Proof", "Conclusion"}


def arrange(app, doctree):
    """Put a gallery page into its order."""
    docname = app.env.docname
    if not docname.startswith("gallery/") or docname.endswith("/index"):
        return
    section = first_section(doctree)
    answer = next((node for node in section or () if isinstance(node, nodes.paragraph)), None)
    if answer is None:
        return
    for image in figures(doctree):
        image["class"] = [" ".join(image["class"])]  # sphinx-gallery writes the first alone
    place = section.index(answer) + 1
    check = titled(doctree, {"Check"})
    if check:
        section[place:place] = seen_and_checked(section, check[0])
    known = FOLDER / f"{docname.rpartition('/')[2]}.json"
    if known.exists():
        depend_on(app.env, known)
        section.insert(place, made(json.loads(known.read_text())))
    figure = next(figures(doctree, "sphx-glr-single-img"), None)
    if figure is not None:
        figure.parent.remove(figure)
        section.insert(place, figure)
    for each in titled(doctree, {"Check", "Experiment"}) if check else []:
        fold_code(each, {"The imports of this page": only_imports, "The code of the figure": draws})
    for each in check:
        fold_code(each, {"The network that is examined": makes_a_network})
    for each in titled(doctree, PROOFS):
        fold_code(each, {"": lambda code: True})


def titled(doctree, titles):
    """The sections with one of these titles."""
    return [each for each in doctree.findall(nodes.section) if each[0].astext() in titles]


def seen_and_checked(section, check):
    """Move the symptoms: what is seen to the line that is returned, checks to their section."""
    symptoms = [node for node in section if "symptom" in node.get("classes", [])]
    line = nodes.paragraph("", "", nodes.strong(text="You see: "), classes=["page-seen"])
    doctors, by_hand, seen = [], {}, {}
    for each in symptoms:
        section.remove(each)
        seen.setdefault(each[0][1].astext(), each[0][1])
        doctors += [each["doctor"]] if each["doctor"] and each["doctor"] not in doctors else []
        by_hand.setdefault(each["by_hand"].astext(), each["by_hand"])
    for number, link in enumerate(seen.values()):
        line += [nodes.Text("; ")] if number else []
        line += link
    begin = call_of_the_doctor(doctors) if doctors else []
    begin.append(nodes.paragraph(text="Or by hand:" if doctors else "By hand:"))
    begin.append(nodes.bullet_list("", *(nodes.list_item("", each) for each in by_hand.values())))
    check[1:1] = begin if by_hand else []
    return [line] if seen else []


def call_of_the_doctor(names):
    """How these checks are made on a model of the reader's own."""
    only = ", ".join(f'"{name}"' for name in names)
    call = f"print(doctor.examine(model, (x, y), only=[{only}]))"
    if len(call) > 88:
        call = f"causes = [{only}]\nprint(doctor.examine(model, (x, y), only=causes))"
    code = f"from bnref import doctor\n\n{call}"
    told = "For a Keras model of yours and some of its batches, as arrays or a "
    text = nodes.paragraph("", told, nodes.literal(text="tf.data.Dataset"), nodes.Text(":"))
    return [text, nodes.literal_block(code, code, language="python")]


def figures(doctree, kind="sphx-glr-"):
    """The figures of this kind."""
    for node in doctree.findall(nodes.Element):
        if any(each.startswith(kind) for each in node.get("class") or []):
            yield node


def made(facts):
    """One line: seconds, device, scale, date."""
    told = [f"{facts['seconds']:.0f} s", facts["devices"], f"scale {facts['scale']}"]
    told += [facts["date"]] if "date" in facts else []
    return nodes.paragraph(text=f"Made in {'; '.join(told)}.", classes=["page-made"])


def fold_code(section, kinds):
    """Fold away the code of a section that is of one of these kinds, and what a proof printed.

    ``kinds`` has a title for each, "" for that of a proof, with a function that knows it.
    """
    for code in [node for node in section if isinstance(node, nodes.literal_block)]:
        if is_output(code):
            continue
        title = next((name for name, known in kinds.items() if known(code.astext())), None)
        if title is None:
            continue
        start = section.index(code)
        end = start + 1
        while not title and end < len(section) and is_output(section[end]):
            end += 1
        folded = section[start:end]
        del section[start:end]
        summary = title or count_of_claims(code.astext())
        opening = nodes.raw("", f"<details><summary>{summary}</summary>", format="html")
        closing = nodes.raw("", "</details>", format="html")
        section.insert(start, nodes.container("", opening, *folded, closing, classes=["proof"]))


def count_of_claims(code):
    """How many assertions a proof has."""
    claims = code.count("assert ") + code.count("claim(")
    return f"{claims} assertions that this build holds" if claims > 1 else "The code"


def draws(code):
    """Whether a cell draws a figure, and is there for that."""
    return "plt.subplots(" in code or "plt.subplot_mosaic(" in code


def makes_a_network(code):
    """Whether a cell makes the network that the section is about."""
    return "\ndef network(" in code


def only_imports(code):
    """Whether a cell imports, names what it imported, and does nothing else."""
    try:
        statements = ast.parse(code).body
    except SyntaxError:  # a command, or what one prints
        return False
    return all(
        isinstance(each, ast.Import | ast.ImportFrom)
        or (isinstance(each, ast.Assign) and isinstance(each.value, ast.Attribute))
        for each in statements
    )


def is_output(node):
    """Whether sphinx-gallery wrote down here what a cell printed."""
    return "sphx-glr-script-out" in node.get("classes", [])


def setup(app):
    """Arrange once the page is read."""
    app.connect("doctree-read", arrange, priority=800)
    return {"version": "3", "parallel_read_safe": True, "parallel_write_safe": True}
