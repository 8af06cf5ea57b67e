"use strict";
// Sorts and filters the table. What is asked for stands in the address after "#" (sort, order, filter) and nowhere else,
// so that a link shares the view.
(() => {
  const table = document.getElementById("board");
  const form = document.getElementById("filter");
  const words = document.getElementById("words");
  const count = document.getElementById("count");
  const headings = [...table.tHead.rows[0].cells];
  const groups = [...table.tBodies].map((body) => ({
    body,
    title: body.querySelector("tr.data"),
    rows: [...body.querySelectorAll("tr[data-words]")],
  }));
  const total = groups.reduce((sum, group) => sum + group.rows.length, 0);
  let asked = {};

  // One cell of a failed row spans all metrics: what the row lacks sorts last.
  const valueOf = (row, column) => {
    const failed = row.querySelector("td.failed");
    return (failed && column >= failed.cellIndex ? "" : row.cells[column].dataset.value) || null;
  };

  const compare = (column, numeric, sign) => (a, b) => {
    const [left, right] = [valueOf(a, column), valueOf(b, column)];
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (numeric ? Number(left) - Number(right) : left.localeCompare(right, "en", {numeric: true}));
  };

  const show = () => {
    const column = headings.findIndex((th) => th.dataset.key !== undefined && th.dataset.key === asked.sort);
    const order = column < 0 ? "" : asked.order || headings[column].dataset.order;
    headings.forEach((th, place) => {
      if (place === column) th.setAttribute("aria-sort", order === "asc" ? "ascending" : "descending");
      else th.removeAttribute("aria-sort");
    });
    const wanted = (asked.filter || "").toLowerCase().split(/\s+/).filter(Boolean);
    let visible = 0;
    for (const {body, title, rows} of groups) {
      const numeric = column >= 0 && "number" in headings[column].dataset;
      const sorted = column < 0 ? rows : [...rows].sort(compare(column, numeric, order === "asc" ? 1 : -1));
      body.append(...sorted);
      for (const row of rows) row.hidden = !wanted.every((word) => row.dataset.words.includes(word));
      const left = rows.filter((row) => !row.hidden).length;
      if (title) title.hidden = left === 0;
      visible += left;
    }
    if (words.value !== (asked.filter || "")) words.value = asked.filter || "";
    count.textContent = visible < total ? `${visible} of ${total} rows` : "";
  };

  const read = () => {
    const found = new URLSearchParams(location.hash.slice(1));
    if (location.hash && !found.has("sort") && !found.has("filter")) return; // a link to a section
    asked = Object.fromEntries(["sort", "order", "filter"].filter((key) => found.get(key)).map((key) => [key, found.get(key)]));
    show();
  };

  const ask = (changes) => {
    const next = new URLSearchParams(Object.entries({...asked, ...changes}).filter(([, value]) => value));
    location.replace(`#${next.toString() || "sort="}`);
  };

  headings.forEach((th) => {
    const button = th.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const again = th.hasAttribute("aria-sort");
      const flipped = th.getAttribute("aria-sort") === "ascending" ? "desc" : "asc";
      ask({sort: th.dataset.key, order: again ? flipped : th.dataset.order});
    });
  });
  words.addEventListener("input", () => ask({filter: words.value}));
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", read);
  form.hidden = false;
  show();
  read();
})();
