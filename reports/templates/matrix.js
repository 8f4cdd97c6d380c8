"use strict";
// The page is whole without this: it adds the filter and the folding of rows.
(() => {
  const form = document.querySelector(".filter");
  const table = document.querySelector("table");
  const rows = [...table.querySelectorAll("tr.req")];
  const nothing = document.querySelector(".nothing");

  const open = (row, on) => {
    row.querySelector(".open").setAttribute("aria-expanded", String(on));
    row.nextElementSibling.hidden = !on;
  };
  for (const row of rows) {
    row.text = row.querySelector("th").textContent.toLowerCase();
    open(row, false);
    row.querySelector(".open").addEventListener("click", () => open(row, row.nextElementSibling.hidden));
  }

  const filter = () => {
    const { q, verdict, area, level, shown } = form.elements;
    const words = q.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const body of table.tBodies) {
      let here = 0;
      for (const row of body.querySelectorAll("tr.req")) {
        const fits =
          (!area.value || body.dataset.area === area.value) &&
          (!level.value || row.dataset.level === level.value) &&
          (!verdict.value || row.dataset.verdicts.split(" ").includes(verdict.value)) &&
          words.every((word) => row.text.includes(word));
        row.hidden = !fits;
        if (!fits) open(row, false);
        here += fits;
      }
      body.hidden = !here;
      count += here;
    }
    shown.value = count === rows.length ? `${count} shown` : `${count} of ${rows.length}`;
    nothing.hidden = count > 0;
  };
  const clear = () => {
    form.reset();
    filter();
  };

  // A link to a cell opens its row; one that the filter hides clears the filter first.
  const follow = () => {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!place) return;
    const row = place.closest("tr.detail") ? place.closest("tr.detail").previousElementSibling : place.closest("tr.req");
    if (!row) return;
    if (row.hidden) clear();
    open(row, true);
    if (place.matches("details")) place.open = true;
    place.scrollIntoView({ block: "center" });
    (place.querySelector("summary") || row.querySelector(".open")).focus({ preventScroll: true });
  };

  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#c--"]');
    if (link && link.hash === location.hash) follow(); // the same link again
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, select")) {
      event.preventDefault();
      form.elements.q.focus();
    }
    if (event.key === "Escape" && event.target === form.elements.q) clear();
  });
  addEventListener("hashchange", follow);
  filter();
  follow();
})();
