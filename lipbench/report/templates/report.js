"use strict";
(() => {
  const panels = [...document.querySelectorAll(".panel")];
  const tabs = [...document.querySelectorAll("#tabs a")];
  const open = (panel) => panels.forEach((other) => {
    other.hidden = other !== panel && other.dataset.with !== panel.id;
  });

  // The address names a tab, or a place inside of one: its panel and everything folded around it are opened.
  function go() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1))) ??
      document.getElementById(location.hash.slice(1));
    let panel = target?.closest(".panel") ?? (tabs.length ? document.querySelector(".panel") : null);
    if (panel?.dataset.with) panel = document.getElementById(panel.dataset.with);
    if (!panel) return;
    open(panel);
    tabs.forEach((tab) => {
      if (tab.hash === `#${panel.id}`) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    });
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    if (target && target !== panel) target.scrollIntoView();
    else if (target) scrollTo(0, 0);
  }
  addEventListener("hashchange", go);
  go();

  for (const board of document.querySelectorAll(".board")) {
    const heads = [...board.querySelectorAll("th[aria-sort]")];
    const groups = [...board.tBodies];
    const compare = new Intl.Collator("en", { numeric: true }).compare;
    const key = (body, position) => {
      const cell = body.rows[0].cells[position];
      return position === 0 ? cell.textContent.trim() : (cell?.dataset.value ?? "");
    };
    heads.forEach((head, position) => head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      // Of numbers the largest are asked for first.
      const descending = now === "none" ? position > 0 : now === "ascending";
      const sign = descending ? -1 : 1;
      const sorted = [...groups].sort((a, b) => {
        const [left, right] = [key(a, position), key(b, position)];
        // Rows without a value are last in both directions.
        if (left === "" || right === "") return (left === "") - (right === "");
        return sign * (position > 0 ? Number(left) - Number(right) : compare(left, right));
      });
      board.append(...sorted);
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    }));
    for (const button of board.querySelectorAll("button.more")) {
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-expanded") === "false";
        button.setAttribute("aria-expanded", String(shown));
        for (const row of button.closest("tbody").querySelectorAll("tr.variant")) row.hidden = !shown;
      });
    }
  }

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
