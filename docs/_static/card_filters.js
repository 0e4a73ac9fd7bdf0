/* Fields that show some of a section's pages: by question, symptom and library. What is chosen stands in
   the address, so that it can be linked to. */
(function () {
  "use strict";
  const form = document.querySelector(".card-filters");
  if (!form) return;
  const cards = [...document.querySelectorAll(".sphx-glr-thumbcontainer")];
  const valuesOf = (card, name) => (card.dataset[name] || "").split("|").filter(Boolean);
  const address = new URLSearchParams(location.search);
  const fields = [...form.querySelectorAll("select")];

  for (const field of fields) {
    const values = new Set(cards.flatMap((card) => valuesOf(card, field.name)));
    for (const value of [...values].sort()) field.add(new Option(value, value));
    field.parentElement.hidden = values.size < 2;
    if (values.has(address.get(field.name))) field.value = address.get(field.name);
    field.addEventListener("change", show);
  }

  function show() {
    const chosen = fields.filter((field) => field.value);
    for (const card of cards) {
      card.hidden = !chosen.every((field) => valuesOf(card, field.name).includes(field.value));
    }
    for (const group of document.querySelectorAll(".sphx-glr-thumbnails")) {
      const empty = !group.querySelector(".sphx-glr-thumbcontainer:not([hidden])");
      group.hidden = empty;
      const title = group.previousElementSibling;
      if (title && title.tagName === "H2") title.hidden = empty;
    }
    const seen = cards.filter((card) => !card.hidden).length;
    form.querySelector("output").textContent = chosen.length ? `${seen} of ${cards.length} pages` : "";
    const query = new URLSearchParams(chosen.map((field) => [field.name, field.value])).toString();
    history.replaceState({}, "", query ? `?${query}` : location.pathname.split("/").pop() || "index.html");
  }

  show();
})();
