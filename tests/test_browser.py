"""The built pages in headless Chromium, opened as files: light, dark and as narrow as a phone."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import addresses
import pytest
from barriers import barriers

SITE = Path(__file__).resolve().parents[1] / "docs" / "_build" / "html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
PAGES = sorted(
    str(path.relative_to(SITE))
    for path in SITE.rglob("*.html")
    if path.name not in {"404.html", "genindex.html", "py-modindex.html"}
    and "_static" not in path.parts
)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's chromium"),
    pytest.mark.skipif(not PAGES, reason="the site is not built: make html"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        # --no-sandbox: Chromium's sandbox refuses to start for root, which CI machines often are.
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(browser, name, **options):
    """A page, with what it asked for and what it complained about."""
    # Without transitions: axe would read a colour half way from light to dark.
    context = browser.new_context(reduced_motion="reduce", **options)
    context.add_init_script(SHIFTS)
    page = context.new_page()
    page.requests, page.complaints = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("requestfailed", lambda request: page.complaints.append(f"failed: {request.url}"))
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto((SITE / name).as_uri())  # until all that it asks for is there
    return page


# How much of what is seen moves while the page is loaded, as the browser counts it.
SHIFTS = """window.shifted = 0; new PerformanceObserver(list => {
    for (const each of list.getEntries()) window.shifted += each.value;
}).observe({ type: "layout-shift", buffered: true });"""
MOST_TABS = """() => Math.max(0, ...[...document.querySelectorAll(".sd-tab-set")].map(
    each => each.querySelectorAll("input").length))"""
CHOOSE_TAB = """tab => document.querySelectorAll(".sd-tab-set").forEach(each => {
    const inputs = each.querySelectorAll("input"); if (inputs[tab]) inputs[tab].click(); })"""
TOP_OF_FIX = "() => document.querySelector('#fix')?.getBoundingClientRect().top ?? 0"
TWO_SCREENS = 1650  # of 800, and a line more, should another font break the text otherwise
CODE_CUT_OFF = """blocks => blocks.filter(
    each => each.offsetParent && each.scrollWidth > each.clientWidth + 1
).map(each => each.textContent.slice(0, 60))"""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_keeps_to_itself_fits_a_phone_and_shows_no_barrier(browser, name):
    page = opened(browser, name, color_scheme="light", viewport={"width": 1280, "height": 900})
    inside = (SITE.as_uri(), "data:", "blob:")
    assert [url for url in page.requests if not url.startswith(inside)] == []
    assert page.complaints == []
    assert weight(page) <= (350_000 if name == "index.html" or "/plot_" in name else 700_000)
    assert page.evaluate("window.shifted") <= 0.05
    assert page.evaluate(TOP_OF_FIX) <= TWO_SCREENS
    # What is folded is opened, and each tab chosen, in turn.
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    for tab in range(max(1, page.evaluate(MOST_TABS))):
        page.evaluate(CHOOSE_TAB, tab)
        assert page.eval_on_selector_all(".highlight-Python pre", CODE_CUT_OFF) == []
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
    assert barriers(page) == []
    page.context.close()


WORDS = """<!doctype html><html lang="en" data-theme="light"><title>t</title><style>
body {{ background: white; color: black }} a {{ color: #00d }}
[data-theme=dark] body {{ background: black; color: white }} [data-theme=dark] a {{ color: #7af }}
{style}</style><script>
const set = each => document.documentElement.dataset.theme = each.matches ? "dark" : "light";
const dark = matchMedia("(prefers-color-scheme: dark)"); set(dark); dark.onchange = set;
</script><body><main><h1>t</h1><p>{words}</p><p>word <a href="#">link</a> word</p></main></body>"""


def weight(page):
    """Bytes of all files that a page has asked for."""
    paths = {unquote(urlsplit(url).path) for url in page.requests if url.startswith("file:")}
    return sum(Path(path).stat().st_size for path in paths)


LINKS = {"light: link-in-text-block", "dark: link-in-text-block"}


@pytest.mark.parametrize(
    "style, found",
    [
        ("", set()),
        (".b { color: #999 }", {"light: color-contrast"}),
        (".b { color: #555 }", {"dark: color-contrast"}),
        ("[data-theme=light] .b { color: #999 }", {"light: color-contrast"}),
        ("[data-theme=dark] .b { color: #555 }", {"dark: color-contrast"}),
        (".c { background: #888 }", {"dark: color-contrast"}),
        ("a { color: #333; text-decoration: none }", LINKS),
        ("h1 { display: none }", {"light: page-has-heading-one"}),
    ],
)
def test_one_word_of_each_pair_of_colours_is_looked_at_in_both_schemes(browser, style, found):
    """The words of other colours are the last of many; those of .c fit what is behind in light."""
    many = '<span class="a">word</span> ' * 5
    words = many + '<span class="b">word</span> <span class="c">word</span>'
    page = browser.new_page()
    page.set_content(WORDS.format(style=style, words=words))
    assert {": ".join(each.split(": ")[:2]) for each in barriers(page)} == found
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_menu_of_light_and_dark_opens_and_chooses(browser, width):
    page = opened(
        browser, "index.html", color_scheme="light", viewport={"width": width, "height": 800}
    )
    button = page.locator(".theme-switch-button:visible")
    if not button.count():  # on a phone it is in the menu at the side
        page.locator(".pst-navbar-icon.primary-toggle:visible").click()
    button.first.click()
    page.locator(".dropdown-menu.show button", has_text="Dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.context.close()


def test_the_menu_at_the_side_closes_and_says_how_to_open_it_again(browser):
    page = opened(browser, "gallery/pitfalls/index.html", viewport={"width": 1280, "height": 800})
    button = page.locator("#pst-collapse-sidebar-button")
    button.click()
    assert button.get_attribute("aria-expanded") == "false"
    button.hover()
    page.mouse.move(0, 0)
    assert not button.get_attribute("title")
    button.hover()
    assert "sidebar" in button.get_attribute("title").lower()
    button.click()
    assert button.get_attribute("aria-expanded") == "true" and page.complaints == []
    page.context.close()


def test_the_page_for_lost_links_works_at_any_depth_on_a_server(browser):
    prefix = urlsplit(addresses.site() or "/").path

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return super().translate_path("/" + path.removeprefix(prefix))

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page, complaints = browser.new_page(), []
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.on("response", lambda each: complaints.append(each.url) if not each.ok else None)
        page.goto(f"http://127.0.0.1:{server.server_port}{prefix}404.html")
        assert complaints == []
        assert page.locator("h1").inner_text().startswith("This page is not here")
        page.locator("article a", has_text="symptoms").click()
        assert page.url.endswith("/symptoms.html")
        page.close()
        server.shutdown()
