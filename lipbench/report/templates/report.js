"use strict";
(() => {
  const board = document.getElementById("board");
  const body = board.tBodies[0];
  const rows = [...body.rows];
  const heads = [...board.querySelectorAll("th[aria-sort]")];
  // The two headings that span both rows come first in the document, and so do their columns.
  const compare = new Intl.Collator("en", { numeric: true }).compare;

  function sort(position, descending) {
    const isNumber = heads[position].classList.contains("number");
    const key = (row) => row.cells[position].dataset.value;
    const sign = descending ? -1 : 1;
    const sorted = [...rows].sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      // Rows without a value are last in both directions.
      if (left === "" || right === "") return (left === "") - (right === "");
      return sign * (isNumber ? Number(left) - Number(right) : compare(left, right));
    });
    body.append(...sorted);
    heads.forEach((head, i) => {
      head.setAttribute("aria-sort", i !== position ? "none" : descending ? "descending" : "ascending");
    });
  }

  heads.forEach((head, position) => {
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      // Of numbers the largest are asked for first.
      const first = head.classList.contains("number");
      sort(position, now === "none" ? first : now === "ascending");
    });
  });

  const words = document.getElementById("words");
  const dataset = document.getElementById("dataset");

  function filter() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = [row.cells[0], row.cells[1]].map((cell) => cell.dataset.value).join(" ").toLowerCase();
      const fits = (!dataset.value || row.dataset.dataset === dataset.value) && wanted.every((word) => text.includes(word));
      row.hidden = !fits;
      count += fits;
    }
    document.getElementById("count").textContent = `${count} of ${rows.length}`;
    document.getElementById("nothing").hidden = count > 0;
  }

  words.addEventListener("input", filter);
  dataset.addEventListener("change", filter);
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("reset").addEventListener("click", () => {
    words.value = dataset.value = "";
    filter();
    words.focus();
  });
  filter(); // A browser may have kept what was typed before.

  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code); // No right to write there: at least it is selected.
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
  }
})();
