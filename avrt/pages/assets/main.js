// The state of the view, and what changes it: the address, buttons and keys.
//
// The address after # is the whole state (#items?benchmark=mmau&result=wrong&item=mmau/3f), so every view can be linked
// to; route() draws the view of the address.
//
// A page's own parts define: items (each with number, id, question, gold, path) and byPath; textsOf(details) for the
// search; buildFilters(), updateFilters(filters) and tests(filters); drawStatus() and drawRow(item, filters) for the
// list; titleOf(item) and drawDetails(item, details) for the open item.

const PAGE_ITEMS = 100;

const form = document.getElementById("filters");
const rows = document.getElementById("rows");
const article = document.getElementById("item");
const statusLine = document.getElementById("status");
const choices = document.getElementById("choices");

let filtered = items; // the items that pass the filters, in order
let drawn = null; // the filters of `filtered`, as text
let page = 0;
let current = null; // the item that is open
let focusItem = false; // the item was opened by a click: it gets the keyboard focus

async function route() {
  const [view, query] = [location.hash.split("?")[0], location.hash.slice(location.hash.indexOf("?"))];
  const onItems = view === "#items";
  document.getElementById("items").hidden = !onItems;
  document.getElementById("summary").hidden = onItems;
  setCurrent(document.getElementById("to-items"), onItems);
  setCurrent(document.getElementById("to-summary"), !onItems);
  if (!onItems) return;
  const filters = new URLSearchParams(query.startsWith("?") ? query : "");
  const item = byPath.get(filters.get("item")) ?? null;
  filters.delete("item");
  if (drawn !== String(filters)) {
    drawn = String(filters);
    page = 0;
    fillForm(filters);
    if (filters.has("q") && filters.has("replies") && !items.every((entry) => "text" in entry)) {
      statusLine.textContent = "Loading all replies …";
      try {
        await loadTexts();
      } catch (error) {
        statusLine.textContent = error.message;
        return;
      }
      if (drawn !== String(filters)) return; // the filters have changed in the meantime
    }
    const all = tests(filters);
    filtered = items.filter((entry) => all.every((test) => test(entry)));
    drawStatus();
    drawList(filters, item);
  } else if (item && item !== current) {
    drawList(filters, item);
  }
  markCurrent(item);
  if (item !== current) {
    current = item;
    await drawItem(item);
  }
}

function step(by) {
  const place = filtered.indexOf(current) + by;
  const next = current && filtered.includes(current) ? filtered[place] : filtered[0];
  if (next) go(readForm(), next);
}

function turnPage(by) {
  page += by;
  drawList(readForm(), null);
  markCurrent(current);
  rows.parentElement.scrollTop = 0;
}

function close() {
  const link = current && rows.querySelector("[aria-current]");
  go(readForm(), null);
  link?.focus();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("items").hidden) return;
  const typing = event.target.closest?.("input, select");
  if (event.key === "Escape") {
    if (typing) typing.blur();
    else close();
  } else if (typing) {
    return;
  } else if (event.key === "j" || event.key === "k") {
    step(event.key === "j" ? 1 : -1);
  } else if (event.key === "/") {
    event.preventDefault();
    form.elements.q.select();
  } else if (event.key === "p") {
    const audio = article.querySelector("audio");
    if (audio?.paused) audio.play().catch(() => {});  // likewise
    else audio?.pause();
  }
}

buildFilters();
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => {
  const filters = readForm();
  updateFilters(filters);
  go(filters, current);
});
form.addEventListener("reset", (event) => {
  event.preventDefault();
  go(new URLSearchParams(), current);
});
rows.addEventListener("click", () => { focusItem = true; });
document.getElementById("previous-page").addEventListener("click", () => turnPage(-1));
document.getElementById("next-page").addEventListener("click", () => turnPage(1));
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", route);
current = undefined; // nothing is drawn yet
route();
