// The list: its status line and its rows.

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
