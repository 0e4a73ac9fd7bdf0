/* Filters the symptom finder. Without it the page is a list of links and plain tables. */
(function () {
  "use strict";
  const picks = document.querySelector(".symptom-picks");
  if (!picks) return;

  const normal = (text) => text.toLowerCase().replace(/[\s\u00a0]+/g, " ").trim();

  // A symptom is a section: its words belong to every row, a row's own text to that row alone.
  const symptoms = [...document.querySelectorAll(".finder")].map((box) => {
    const section = box.closest("section");
    const words = section.querySelector(".finder-words").textContent;
    const rows = [...box.querySelectorAll("tbody tr")].map((row) => ({
      row,
      text: normal(`${words} ${row.textContent}`),
    }));
    const pick = picks.querySelector(`a[href$="#${section.id}"]`).closest("li");
    return { section, rows, pick };
  });

  const form = document.createElement("form");
  form.className = "finder-form";
  form.setAttribute("role", "search");
  form.innerHTML =
    '<label for="finder-field">Type what you see</label>' +
    '<input id="finder-field" name="q" type="search" autocomplete="off" ' +
    'aria-describedby="finder-count" placeholder="nan, two gpus, frozen, …">' +
    '<p id="finder-count" role="status"></p>';
  picks.before(form);
  const field = form.querySelector("input");
  const count = form.querySelector("p");

  function filter() {
    const asked = normal(field.value).split(" ").filter(Boolean);
    let causes = 0;
    let shown = 0;
    for (const { section, rows, pick } of symptoms) {
      let here = 0;
      for (const { row, text } of rows) {
        const fits = asked.every((word) => text.includes(word));
        row.hidden = !fits;
        here += fits;
      }
      section.hidden = pick.hidden = here === 0;
      causes += here;
      shown += here > 0;
    }
    const s = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
    count.textContent = causes
      ? `${s(causes, "cause")} of ${s(shown, "symptom")}`
      : "Nothing has all of these words: take some away.";
  }

  field.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  // A pick must be visible to be gone to.
  window.addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.closest("[hidden]")) {
      field.value = "";
      filter();
      target.scrollIntoView();
    }
  });
  field.value = new URLSearchParams(location.search).get("q") || "";
  filter();
})();
