// Sorting and filtering. Without this script the page shows the same rows, in the order of the report.
"use strict";
(() => {
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const tables = [...document.querySelectorAll("table.sheet")];

  // Numbers before words, words by their letters, empty cells last whichever way it is sorted.
  const compare = (one, other, sign) => {
    const [a, b] = [one.dataset.key, other.dataset.key];
    if (a !== undefined && b !== undefined) return sign * (Number(a) - Number(b));
    if (a !== undefined || b !== undefined) return a !== undefined ? -1 : 1;
    return sign * collator.compare(one.textContent, other.textContent);
  };

  const sort = (table, column, order) => {
    const sign = { ascending: 1, descending: -1, none: 0 }[order];
    table.querySelectorAll("thead th").forEach((head, place) =>
      head.setAttribute("aria-sort", place === column ? order : "none"));
    table.classList.toggle("sorted", sign !== 0);
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("heading"));
      rows.sort((a, b) => (sign && compare(a.cells[column], b.cells[column], sign)) || a.dataset.place - b.dataset.place);
      body.append(...rows);
    }
  };

  for (const table of tables) {
    for (const body of table.tBodies) [...body.rows].forEach((row, place) => { row.dataset.place = place; });
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      const next = { none: "ascending", ascending: "descending", descending: "none" };
      button.addEventListener("click", () => sort(table, column, next[head.getAttribute("aria-sort")]));
    });
  }

  const form = document.getElementById("filter");
  const find = document.getElementById("find");
  const shown = document.getElementById("shown");
  const selects = [...form.querySelectorAll("select")];
  const filtered = tables.filter((table) => !table.closest("#answer, #origin"));
  const entries = filtered.flatMap((table) => [...table.tBodies].flatMap((body) => [...body.rows]
    .filter((row) => !row.classList.contains("heading"))
    .map((row) => ({ row, text: row.textContent.toLowerCase() }))));

  // A row that does not say its attention, mode or dtype stays, whichever is chosen.
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = selects.filter((select) => select.value).map((select) => [select.dataset.facet, select.value]);
    let count = 0;
    for (const { row, text } of entries) {
      const fits = words.every((word) => text.includes(word)) &&
        wanted.every(([facet, value]) => row.dataset[facet] === undefined || row.dataset[facet] === value);
      row.hidden = !fits;
      count += fits;
    }
    for (const table of filtered) {
      for (const body of table.tBodies) {
        const rows = [...body.rows];
        const heading = rows.find((row) => row.classList.contains("heading"));
        if (heading) heading.hidden = rows.every((row) => row === heading || row.hidden);
      }
      const empty = [...table.tBodies].every((body) => [...body.rows].every((row) => row.hidden));
      let remark = table.nextElementSibling;
      if (empty && !remark) {
        remark = document.createElement("p");
        remark.className = "empty";
        remark.textContent = "No row of this table fits.";
        table.after(remark);
      } else if (!empty && remark) remark.remove();
    }
    shown.textContent = `${count.toLocaleString("en")} of ${entries.length.toLocaleString("en")} rows`;
  };

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  form.hidden = entries.length === 0;
  filter();
})();
