// The list of items, in pages, and the mark of the open item.

function drawList(filters, item) {
  const place = item ? filtered.indexOf(item) : -1;
  if (place >= 0) page = Math.floor(place / PAGE_ITEMS);
  const start = page * PAGE_ITEMS;
  const shown = filtered.slice(start, start + PAGE_ITEMS);
  rows.replaceChildren(...shown.map((entry) => make("li", {}, drawRow(entry, filters))));
  rows.setAttribute("start", start + 1);
  document.getElementById("page").textContent =
    filtered.length ? `${start + 1}–${start + shown.length} of ${filtered.length.toLocaleString("en")}` : "no items";
  document.getElementById("previous-page").disabled = page === 0;
  document.getElementById("next-page").disabled = start + PAGE_ITEMS >= filtered.length;
}

function markCurrent(item) {
  document.getElementById("items").classList.toggle("open", item !== null);
  for (const link of rows.querySelectorAll("a")) {
    const here = item !== null && link.dataset.item === item.path;
    setCurrent(link, here);
    if (here) link.scrollIntoView({ block: "nearest" });
  }
}
