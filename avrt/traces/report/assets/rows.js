// The list: its status line and its rows.

function drawStatus() {
  const kept = filtered.filter((item) => item.kept).length;
  const chosen = index.reasons.find(({ name }) => name === form.elements.reason.value);
  const all = chosen ? `, chosen at random from ${chosen.all.toLocaleString("en")} with this reason` : "";
  statusLine.textContent =
    `${filtered.length.toLocaleString("en")} of ${plural(items.length, "sample")}${all} · ${kept.toLocaleString("en")} kept`;
}

const kindOf = (item) => (item.kept ? "kept" : item.missing ? "missing" : "rejected");

function drawRow(item, filters) {
  const title = item.kept ? "kept" : item.reason.name;
  const sign = { kept: "✓", rejected: "✗", missing: "∅" }[kindOf(item)];
  return make("a", { href: address(filters, item), "data-item": item.path },
    make("span", { class: `mark mark-${kindOf(item)}`, role: "img", "aria-label": title, title }, sign),
    make("span", { class: "question" }, short(item.question.trim()) || "(no question text)"),
    make("span", { class: "answers" }, item.letters.map((letter) => letter ?? "–").join(" "), ` (${item.gold})`));
}
