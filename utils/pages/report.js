"use strict";
(() => {
  const root = document.documentElement;

  // Sorting: a click on a heading sorts up, the next one down; rows without a figure are last either way.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return null;
    const number = cell.dataset.kind === "number";
    return number ? Number(cell.dataset.value) : cell.dataset.value;
  };
  const compare = (one, other) => typeof one === "number" && typeof other === "number"
    ? one - other : String(one).localeCompare(String(other), undefined, { numeric: true, sensitivity: "base" });

  const sortBy = (table, column) => {
    const headings = [...table.tHead.rows[0].cells];
    const down = headings[column].getAttribute("aria-sort") === "ascending";
    headings.forEach((heading, index) =>
      heading.setAttribute("aria-sort", index !== column ? "none" : down ? "descending" : "ascending"));
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
    rows.sort(([one], [other]) => one === null || other === null
      ? (one === null) - (other === null) : (down ? -1 : 1) * compare(one, other));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    const announcement = document.getElementById("announcement");
    announcement.textContent = announcement.dataset[down ? "descending" : "ascending"]
      .replace("{column}", () => headings[column].dataset.name);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) =>
      heading.querySelector("button").addEventListener("click", () => sortBy(table, column)));
  }

  // The theme follows the system until the reader chooses; if nothing can be stored, the choice lasts as long as the page.
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("comparison-theme"); } catch { return null; } };
  const store = (theme) => { try { localStorage.setItem("comparison-theme", theme); } catch { /* a page from a file may not */ } };
  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const updateButton = () => { button.textContent = isDark() ? button.dataset.light : button.dataset.dark; };
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    store(root.dataset.theme);
    updateButton();
  });
  system.addEventListener("change", updateButton);
  updateButton();
  button.hidden = false;
  root.dataset.ready = "";
})();
