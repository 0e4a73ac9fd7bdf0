/* As-you-type results below every search field. The search itself is loaded at the first letter. */
(function () {
  "use strict";
  const root = document.documentElement.dataset.content_root || "./";
  const onSearchPage = /\/search(\.html)?$/.test(location.pathname);
  const WHERE = { symptom: "all causes of a symptom", report: "report", section: "section", name: "reference" };
  let loading; // a promise of the function that finds, once somebody types

  function loaded() {
    loading ||= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${root}_static/search.js`;
      script.onload = () => resolve(window.bnrefSearch);
      script.onerror = () => reject(new Error("the search could not be loaded"));
      document.head.append(script);
    });
    return loading;
  }

  const escaped = (text) =>
    text.replace(/[&<>"]/g, (each) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[each]);

  /** A sentence with the words that matched in <mark>. */
  function marked(sentence, words) {
    if (!words.length) return escaped(sentence);
    const longest = [...words].sort((a, b) => b.length - a.length);
    const literal = longest.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    const any = new RegExp(`(?<![\\w.])(?:${literal.join("|")})(?!\\w)`, "g");
    let html = "";
    let at = 0;
    for (const match of sentence.matchAll(any)) {
      html += `${escaped(sentence.slice(at, match.index))}<mark>${escaped(match[0])}</mark>`;
      at = match.index + match[0].length;
    }
    return html + escaped(sentence.slice(at));
  }

  function enhance(form, number) {
    const field = form.querySelector("input[name=q]");
    const list = document.createElement("ul");
    const status = document.createElement("p");
    list.id = `search-results-${number}`;
    list.className = "search-results";
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Results");
    list.hidden = true;
    status.className = "search-status";
    status.setAttribute("role", "status");
    form.append(status, list);
    for (const [name, value] of [
      ["role", "combobox"], ["aria-autocomplete", "list"], ["aria-controls", list.id],
      ["aria-expanded", "false"], ["autocomplete", "off"],
    ]) field.setAttribute(name, value);
    let active = -1;

    function show(results, typed) {
      active = -1;
      list.innerHTML = results
        .map(({ url, title, kind, sentence, marked: words }, i) => {
          const where = WHERE[kind] ? ` <small>${WHERE[kind]}</small>` : "";
          return (
            `<li role="option" id="${list.id}-${i}" aria-selected="false">` +
            `<a href="${escaped(root + url)}" tabindex="-1"><b>${escaped(title)}</b>${where}` +
            `<span>${marked(sentence, words)}</span></a></li>`
          );
        })
        .join("");
      list.hidden = results.length === 0;
      field.setAttribute("aria-expanded", String(results.length > 0));
      field.removeAttribute("aria-activedescendant");
      const many = `${results.length} result${results.length === 1 ? "" : "s"}`;
      status.textContent = !typed ? "" : results.length ? many : "Nothing has any of these words.";
    }

    async function update() {
      const typed = field.value.trim();
      if (!typed) return show([], "");
      try {
        const find = await loaded();
        if (field.value.trim() === typed) show(find(typed), typed);
      } catch (error) {
        status.textContent = `Sorry: ${error.message}.`;
      }
    }

    function choose(next) {
      const options = [...list.children];
      if (!options.length) return;
      active = (next + options.length) % options.length;
      options.forEach((each, i) => each.setAttribute("aria-selected", String(i === active)));
      field.setAttribute("aria-activedescendant", options[active].id);
      options[active].scrollIntoView({ block: "nearest" });
    }

    field.addEventListener("input", update);
    field.addEventListener("focus", () => loaded().catch(() => {}), { once: true });
    field.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") choose(active + 1);
      else if (event.key === "ArrowUp") choose(active - 1);
      else if (event.key === "Enter" && active >= 0) list.children[active].querySelector("a").click();
      else if (event.key === "Escape" && !list.hidden) show([], "");
      else return;
      event.preventDefault();
    });
    form.addEventListener("submit", (event) => {
      if (onSearchPage) event.preventDefault(); // the results are there already
    });
    if (onSearchPage && form.closest("main")) {
      field.value = new URLSearchParams(location.search).get("q") || "";
      if (field.value) update();
    }
  }

  const forms = document.querySelectorAll("form.site-search, form.bd-search");
  forms.forEach((form, number) => enhance(form, number));
})();
