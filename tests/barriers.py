"""What axe finds on a page that is open in a browser, in light and in dark."""

import pytest

# axe reads style sheets a second time through XMLHttpRequest, which files refuse; and to describe
# all that is in order takes it as long as to look for what is not.
OPTIONS = {"preload": False, "resultTypes": ["violations"]}
WITHOUT_CONTRAST = {"rules": {"color-contrast": {"enabled": False}}}
OF_COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
RUN = "options => axe.run(options).then(results => results.violations)"

# Each element notes the colours of its words and of all that is behind them, once in each scheme.
NOTE_COLOURS = """() => {
  const backgrounds = new Map();
  const behind = element => {
    if (!element) return "";
    if (!backgrounds.has(element)) {
      const style = getComputedStyle(element);
      const own = [style.backgroundColor, style.backgroundImage, style.opacity].join();
      const clear = own === "rgba(0, 0, 0, 0),none,1";
      backgrounds.set(element, (clear ? "" : own) + behind(element.parentElement));
    }
    return backgrounds.get(element);
  };
  for (const element of document.body.querySelectorAll("*")) {
    const { color, fontSize, fontWeight } = getComputedStyle(element);
    element.colours = [element.colours, color, fontSize, fontWeight, behind(element)].join();
  }
}"""

# One word of each pair of colours is enough: a page of code has thousands, and axe looks at each.
# What has to do with links stays, because axe compares a link with the words around it.
KEEP_ONE_OF_EACH = """() => {
  const seen = new Set(), superfluous = [];
  for (const element of document.body.querySelectorAll("*")) {
    const words = [...element.childNodes].filter(
      each => each.nodeType === Node.TEXT_NODE && each.data.trim());
    const links = element.closest("a") || element.querySelector("a");
    if (!words.length || links || element.offsetParent === null) continue;
    if (!seen.has(element.colours)) seen.add(element.colours);
    else superfluous.push(...(element.childElementCount ? words : [element]));
  }
  superfluous.forEach(each => each.remove());
}"""


def barriers(page):
    """What axe finds, a line a place: every rule in light, those of colours in dark too.

    Most of the page's words are gone afterwards.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    use(page, "light")
    page.evaluate(axe.axe_script)
    found = violations(page, "light", WITHOUT_CONTRAST)
    page.evaluate(NOTE_COLOURS)
    use(page, "dark")
    page.evaluate(NOTE_COLOURS)
    page.evaluate(KEEP_ONE_OF_EACH)
    found += violations(page, "dark", OF_COLOURS)
    use(page, "light")
    return found + violations(page, "light", OF_COLOURS)


def use(page, scheme):
    """Change to light or dark, and wait until the page has."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'")


def violations(page, scheme, rules):
    """What some of axe's rules find."""
    return [
        f"{scheme}: {each['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for each in page.evaluate(RUN, {**OPTIONS, **rules})
        for node in each["nodes"]
    ]
