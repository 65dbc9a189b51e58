// The open item; a page's own `drawDetails` fills it.

async function drawItem(item) {
  if (!item) {
    article.replaceChildren(make("p", { class: "note" }, "Choose an item, or press j."));
    return;
  }
  let details;
  try {
    details = await loadDetails(item);
  } catch (error) {
    if (item === current) article.replaceChildren(make("p", { class: "problem" }, error.message));
    return;
  }
  if (item !== current) return; // another item was opened in the meantime
  article.replaceChildren(
    make("p", { class: "tools" },
      make("span", {}, titleOf(item), make("code", {}, short(item.id))),
      button("Previous", () => step(-1)), button("Next", () => step(1)), button("Close", close)),
    fold(make("h2"), item.question.trim() || "(no question text)"),
    ...drawDetails(item, details),
  );
  article.scrollTop = 0;
  if (focusItem) article.focus();
  focusItem = false;
}

/** The options; `badges` gives the marks behind a letter. */
function drawOptions(item, options, badges) {
  return make("ul", { class: "options" }, ...options.map((text, number) => {
    const letter = String.fromCharCode(65 + number);
    const gold = letter === item.gold;
    return make("li", { class: gold ? "gold" : null },
      make("span", { class: "letter" }, letter),
      text.trim() ? fold(make("span", { class: "option" }), text) : make("span", { class: "note" }, "(blank)"),
      gold ? make("span", { class: "badge badge-gold" }, "gold") : null, ...badges(letter));
  }));
}

const drawChip = (name, value) => make("span", { class: "chip" }, `${short(name)}: ${short(value)}`);

/** A list of names and values; a value that is empty is left out. `classes` are those of values, by name. */
function drawFacts(facts, classes = {}) {
  return make("dl", {}, ...facts.filter(([, value]) => value !== "").map(([name, value]) =>
    make("div", {}, make("dt", {}, name), fold(make("dd", { class: classes[name] }), String(value)))));
}

/** A reply with its tags set apart. */
function drawTrace(text, label) {
  const draw = (part) => part.split(/(<\/?(?:think|answer)>)/).map((piece) =>
    (/^<\/?(?:think|answer)>$/.test(piece) ? make("span", { class: "tag" }, piece) : piece));
  return fold(make("pre", { class: "trace", tabindex: "0", "aria-label": label }), text, draw);
}

/** A long text behind its title; null where there is none. */
function drawFolded(title, text) {
  if (!text) return null;
  return make("details", { class: "prompt" }, make("summary", {}, title), fold(make("pre", { class: "trace" }), text));
}
