"""The two pages with scripts of their own, in headless Chromium: used by typing and by keyboard."""

import pytest
from test_browser import SITE, browser, opened, pytestmark  # noqa: F401  (a fixture, and marks)

from bnref import moving_average

SYMPTOMS = (SITE.parents[1] / "symptoms.md").read_text().count("```{causes}")
VISIBLE = "elements => elements.filter(e => e.offsetParent !== null).length"


def shown(page, selector):
    return page.eval_on_selector_all(selector, VISIBLE)


def test_every_symptom_is_one_click_from_home_and_every_cause_two(browser):  # noqa: F811
    home = opened(browser, "index.html")
    symptoms = home.locator(".symptom-groups li a:first-child").all()
    assert len(symptoms) == SYMPTOMS >= 15
    for link in symptoms:
        address = link.get_attribute("href")
        assert address.startswith("symptoms.html#")
    finder = opened(browser, "symptoms.html")
    sections = {f"symptoms.html#{each}" for each in finder.locator("section section").evaluate_all(
        "sections => sections.map(each => each.id)")}  # fmt: skip
    assert {link.get_attribute("href") for link in symptoms} == sections
    rows = finder.locator("table.causes tbody tr").all()
    assert len(rows) >= 40
    for row in rows:
        links = row.locator("td:last-child a").all()
        assert links
        for link in links:
            assert (SITE / link.get_attribute("href")).is_file()
        assert row.locator("td:nth-child(2)").inner_text().strip()


def test_what_is_typed_on_the_home_page_can_be_gone_to_by_its_address(browser):  # noqa: F811
    page = opened(browser, "index.html")
    page.locator("main input[name=q]").fill("validation loss jumps")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=validation+loss+jumps")
    page.locator("main .search-results a").first.wait_for()
    assert page.locator("main input[name=q]").input_value() == "validation loss jumps"


def test_the_dialog_of_every_page_finds_from_where_it_stands(browser):  # noqa: F811
    page = opened(browser, "gallery/pitfalls/index.html")
    page.keyboard.press("Control+k")
    page.locator("dialog input[name=q]").fill("nan on two gpus")
    first = page.locator("dialog .search-results a").first
    first.wait_for()
    first.click()
    page.wait_for_url("**/*.html")
    assert page.complaints == []
    assert page.locator("h1").is_visible()


def test_without_a_script_the_finder_is_plain_tables_with_links(browser):  # noqa: F811
    with_script = shown(opened(browser, "symptoms.html"), "table.causes tbody tr")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((SITE / "symptoms.html").as_uri())
    assert page.locator("table.causes tbody tr").count() == with_script
    assert page.locator("table.causes tbody tr").last.is_visible()
    assert page.locator(".symptom-picks a").count() == SYMPTOMS
    assert page.locator("main input[name=q]").is_hidden()
    page.goto((SITE / "explorer.html").as_uri())
    assert page.get_by_text("The sliders need JavaScript").is_visible()
    context.close()


CONTROLS = {
    "momentum": [0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999],
    "steps": [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000],
    "origin": [-2, -1, -0.5, 0, 0.5, 1, 2, 5, 10],
    "batch": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
    "within": [0, 0.01, 0.03, 0.1, 0.3, 0.55, 0.8, 1],
    "correlation": [0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99],
    "drift": [0, 0.1, 0.2, 0.5, 1, 2, 5],
}


def move(page, **values):
    for name, value in values.items():
        page.locator(f"#explorer-{name}").fill(str(CONTROLS[name].index(value)))


def number(page, name):
    return float(page.locator(f"dd#explorer-{name}").inner_text().split()[0])


@pytest.mark.parametrize(
    "setting",
    [
        {"momentum": 0.99, "steps": 100, "origin": 2, "batch": 64, "correlation": 0, "drift": 0},
        {"momentum": 0.9, "steps": 50, "origin": -1, "batch": 4, "correlation": 0.9, "drift": 0},
        {"momentum": 0.999, "steps": 1000, "origin": 5, "batch": 1, "correlation": 0.5, "drift": 2},
        {"momentum": 0.5, "steps": 10, "origin": 0, "batch": 1024, "correlation": 0.99, "drift": 5},
        {"momentum": 0, "steps": 20, "origin": 1, "batch": 16, "correlation": 0.3, "drift": 1},
        {"momentum": 0.9, "steps": 50, "batch": 128, "within": 0.55, "correlation": 0.9},
        {"momentum": 0.99, "steps": 100, "batch": 32, "within": 1},
        {"momentum": 0.99, "steps": 100, "batch": 1, "within": 0.8},
    ],
)
def test_the_explorer_says_what_the_package_computes(browser, setting):  # noqa: F811
    page = opened(browser, "explorer.html")
    setting = {"origin": 0, "within": 0, "correlation": 0, "drift": 0, **setting}
    move(page, **setting)
    rho, steps, phi = setting["momentum"], setting["steps"], setting["correlation"]
    expected = setting["origin"]
    for step in range(1, steps + 1):
        expected = rho * expected + (1 - rho) * setting["drift"] * step / steps
    # The variance of a mean of N values, whose correlation with each other is c: (1 + (N − 1)c)/N.
    worth = setting["batch"] / (1 + (setting["batch"] - 1) * setting["within"])
    noise = moving_average.fluctuation(rho, phi, steps) / worth**0.5
    close = {"rel": 6e-3, "abs": 1e-9}
    assert number(page, "worth") == pytest.approx(worth, **close)
    assert number(page, "error") == pytest.approx(expected - setting["drift"], **close)
    assert number(page, "noise") == pytest.approx(noise, **close)
    assert number(page, "lag") == pytest.approx(moving_average.lag(rho), **close)
    many = moving_average.fluctuation(rho, phi)
    assert number(page, "fluctuation") == pytest.approx(100 * many, **close)
    assert number(page, "independent") == pytest.approx(many**-2, **close)
    start = page.locator("#explorer-start").inner_text()
    kept = 100 * moving_average.start_weight(rho, steps)
    assert start.startswith("less than") if 0 < kept < 5e-3 else number(page, "start") == (
        pytest.approx(kept, **close)
    )  # fmt: skip


def test_the_explorer_is_used_by_keyboard_and_draws_again(browser):  # noqa: F811
    page = opened(browser, "explorer.html")
    slider, path = page.get_by_label("Momentum ρ"), page.locator("#explorer path.expected")
    before, fact = path.get_attribute("d"), page.locator("#explorer-lag").inner_text()
    assert fact == "99 steps"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "0.995"
    assert page.locator("#explorer-lag").inner_text() == "199 steps"
    assert path.get_attribute("d") != before
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0"
    for name in ("run", "band", "truth", "expected"):
        drawn = page.locator(f"#explorer path.{name}").get_attribute("d")
        assert "NaN" not in drawn and "Infinity" not in drawn and drawn.startswith("M")
    title = page.locator("#explorer title").text_content()
    assert "momentum 0," in title


def test_no_setting_of_the_explorer_draws_nonsense(browser):  # noqa: F811
    page = opened(browser, "explorer.html")
    for name, values in CONTROLS.items():
        for value in (values[0], values[-1]):
            move(page, **{name: value})
            drawn = (
                page.locator("#explorer svg").inner_html()
                + page.locator(".explorer-facts").inner_text()
            )
            assert "NaN" not in drawn and "Infinity" not in drawn, (name, value)
    assert page.complaints == []
