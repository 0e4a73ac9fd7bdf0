"""Pages as Markdown: what a page says, and nothing that only a browser needs."""

import as_markdown
import pytest

PAGE = """<html><body><article class="bd-article">
<div class="sphx-glr-download-link-note"><p>Go to the end</p></div>
<section><h1>A <code>title</code><a class="headerlink" href="#a">#</a></h1>
<p>The answer is <b>0.9</b>; see <a href="../b.html#there">there</a> and
<a href="https://example.org/c.html">elsewhere</a>.</p>
<img alt="Loss by step" src="a.png"/>
<p>With <math alttext="x^2 &lt; 1"><mi>x</mi></math> and
<math alttext="\\sum_i x_i" display="block"><mi>x</mi></math></p>
<div class="highlight-Python notranslate"><div class="highlight"><pre>a = 1


b = 2</pre></div></div>
<div class="highlight-none"><div class="highlight"><pre>printed</pre></div></div>
<details><summary>2 assertions</summary><pre>assert a</pre></details>
<table><thead><tr><th>x</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>
<form><input name="q"/></form><div class="sphx-glr-footer">Download</div>
</section></article><footer>Copyright</footer></body></html>"""


def test_a_page_says_in_markdown_what_it_shows():
    text = as_markdown.markdown(PAGE)
    assert text.startswith("# A `title`\n\nThe answer is **0.9**; see [there](../b.md#there)")
    assert "[elsewhere](https://example.org/c.html)" in text
    assert "[Figure: Loss by step]" in text
    assert "$x^2 < 1$" in text and r"$$\sum_i x_i$$" in text
    assert "```python\na = 1\n\n\nb = 2\n```" in text
    assert "```\nprinted\n```" in text
    assert "**2 assertions**" in text and "| x |" in text
    for absent in ("#a", "Go to the end", "Download", "Copyright", "<", "input"):
        assert absent not in text.replace("x^2 < 1", "")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(as_markdown, "CACHE", tmp_path / "cache")
    site = tmp_path / "site"
    (site / "gallery/pitfalls").mkdir(parents=True)
    (site / "index.html").write_text("<article><h1>Home</h1><p>What it is.</p></article>")
    (site / "gallery/pitfalls/plot_it.html").write_text(PAGE)
    (site / "search.html").write_text("<article><h1>Search</h1></article>")
    return site


def test_each_page_has_its_markdown_beside_it_and_two_files_have_all(site):
    as_markdown.write(site)
    told = (site / "gallery/pitfalls/plot_it.md").read_text()
    assert told == as_markdown.markdown(PAGE)
    assert not (site / "search.md").exists()
    whole = (site / "llms-full.txt").read_text()
    assert told in whole and "What it is." in whole
    contents = (site / "llms.txt").read_text()
    assert contents.startswith("# bnref\n\n> What it is.\n")
    line = next(each for each in contents.splitlines() if "plot_it" in each)
    assert line.startswith("- [A `title`](gallery/pitfalls/plot_it.md): The answer is **0.9**; see")
    assert "](../" not in line


def test_a_page_is_converted_once_for_what_it_is(site, monkeypatch):
    as_markdown.write(site)
    (site / "index.html").write_text("<article><h1>Home</h1><p>Another.</p></article>")
    made = []
    original = as_markdown.markdown
    monkeypatch.setattr(as_markdown, "markdown", lambda page: made.append(page) or original(page))
    as_markdown.write(site)
    assert len(made) == 1 and "Another." in (site / "index.md").read_text()
