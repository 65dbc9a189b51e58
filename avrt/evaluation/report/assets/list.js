// The list of items: its status line, its rows, and the mark of the open item.

function drawStatus() {
  const parts = [`${filtered.length.toLocaleString("en")} of ${plural(items.length, "item")}`];
  for (const number of index.runs.keys()) {
    const right = filtered.filter((item) => item.outcomes[number]?.right).length;
    parts.push(`${runName(number)} right in ${right.toLocaleString("en")}`.trim());
  }
  if (two) {
    const flipped = filtered.map(flipOf);
    for (const kind of ["won", "lost"]) {
      parts.push(`${flipped.filter((flip) => flip === kind).length.toLocaleString("en")} ${kind} by B`);
    }
  }
  statusLine.textContent = parts.join(" · ");
}

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

function drawRow(item, filters) {
  return make("a", { href: address(filters, item), "data-item": item.path, class: flipOf(item) },
    ...item.outcomes.map((outcome, number) => drawMark(outcome, runName(number))),
    make("span", { class: "question" }, short(item.question.trim()) || "(no question text)"),
    make("span", { class: "answers" }, item.outcomes.map((outcome) => outcome?.answer ?? "–").join(" "), ` (${item.gold})`));
}

function drawMark(outcome, run) {
  const kind = !outcome ? "absent" : outcome.error.name;
  const sign = { none: "✓", logic: "✗", instruction_format: "!", no_reply: "∅", absent: " " }[kind];
  const title = `${run} ${outcome ? outcome.error.title : "not in this run"}`.trim();
  return make("span", { class: `mark mark-${kind}`, role: "img", "aria-label": title, title }, sign);
}

function markCurrent(item) {
  document.getElementById("items").classList.toggle("open", item !== null);
  for (const link of rows.querySelectorAll("a")) {
    const here = item !== null && link.dataset.item === item.path;
    setCurrent(link, here);
    if (here) link.scrollIntoView({ block: "nearest" });
  }
}
