// Filters: which items are listed, the form that sets them, and the address that contains them.

const RESULTS = [["none", "right"], ["wrong", "wrong, for any reason"], ["logic", "logic error"],
  ["instruction_format", "format error"], ["no_reply", "no reply"], ["rules", "strict and official differ"]];
const CHANGES = [["both_right", "right in both"], ["both_wrong", "wrong in both"], ["answers", "answers differ"],
  ["one", "in one run only"]];
/** The run that a filter is of, by the filter's name. */
const RUN_OF = new Map([...index.runs.keys()].flatMap((number) => [
  ...["result", "reason"].map((name) => [`${name}${suffixOf(number)}`, number]),
  ...(number ? [[changeName(number), number]] : []),
]));

function resultMatches(outcome, wanted) {
  if (!outcome) return false;
  if (wanted === "wrong") return !outcome.right;
  if (wanted === "rules") return outcome.official !== null && outcome.official !== Number(outcome.right);
  return outcome.error.name === wanted;
}

function changeMatches([a, b], wanted) {
  if (wanted === "one") return !a !== !b;
  if (!a || !b) return false;
  switch (wanted) {
    case "won": return !a.right && b.right;
    case "lost": return a.right && !b.right;
    case "both_right": return a.right && b.right;
    case "both_wrong": return !a.right && !b.right;
    case "answers": return a.answer !== b.answer;
    default: return false;
  }
}

/** One test per filter that is set; an item is listed if it passes all. */
function tests(filters) {
  const found = [];
  for (const [name, value] of filters) {
    const run = RUN_OF.get(name);
    if (name === "benchmark") {
      found.push((item) => item.benchmark.name === value);
    } else if (run !== undefined && name.startsWith("result")) {
      found.push((item) => resultMatches(item.outcomes[run], value));
    } else if (run !== undefined && name.startsWith("reason")) {
      found.push((item) => item.outcomes[run]?.reason.name === value);
    } else if (run !== undefined && name.startsWith("change")) {
      found.push((item) => changeMatches([item.outcomes[0], item.outcomes[run]], value));
    } else if (name.startsWith("c.")) {
      const places = new Map(index.benchmarks.map((benchmark) => {
        const category = benchmark.categories.findIndex((entry) => entry.name === name.slice(2));
        return [benchmark, [category, benchmark.categories[category]?.values.indexOf(value)]];
      }));
      found.push((item) => {
        const [category, number] = places.get(item.benchmark);
        return number !== undefined && item.categories[category] === number;
      });
    } else if (name === "q") {
      const text = value.toLowerCase();
      const everywhere = filters.has("replies");
      found.push((item) => (everywhere ? item.text : `${item.id}\n${item.question}`.toLowerCase()).includes(text));
    }
  }
  return found;
}

function select(name, title, choices) {
  const options = choices.map(([value, text]) => make("option", { value }, short(text)));
  return make("label", {}, `${short(title)} `, make("select", { name }, make("option", { value: "" }, "any"), ...options));
}

function buildFilters() {
  form.elements.benchmark.append(
    make("option", { value: "" }, "all"),
    ...index.benchmarks.map(({ name, title }) => make("option", { value: name }, title)),
  );
  const reasons = index.reasons.map(({ name }) => [name, name]).sort();
  const outcomes = document.getElementById("outcomes");
  for (const number of index.runs.keys()) {
    const suffix = suffixOf(number);
    const of = several ? ` of ${runName(number)}` : "";
    outcomes.append(
      select(`result${suffix}`, `Result${of}`, RESULTS),
      select(`reason${suffix}`, `Reason${of}`, reasons),
    );
  }
  for (const number of [...index.runs.keys()].slice(1)) {
    const choices = [...Object.entries(flips(number)), ...CHANGES];
    outcomes.append(select(changeName(number), two ? "Change" : `Change from A to ${runName(number)}`, choices));
  }
  const letters = several ? index.runs.map((_, number) => runName(number)) : [];
  document.getElementById("heads").replaceChildren(
    ...letters.map((run) => make("span", { class: "run" }, run)),
    make("span", { class: "question" }, "question"),
    make("span", {}, several ? `answers ${letters.join(" ")} (gold)` : "answer (gold)"));
  document.getElementById("flips").hidden = !two;
}

/** The categories of the chosen benchmark; those of all benchmarks would fill the page. */
function buildCategories(name) {
  const holder = document.getElementById("categories");
  const chosen = index.benchmarks.length === 1 ? index.benchmarks[0] : index.benchmarks.find((b) => b.name === name);
  if (holder.dataset.of === (chosen?.name ?? "")) return;
  holder.dataset.of = chosen?.name ?? "";
  holder.replaceChildren(...(chosen?.categories ?? []).map((category) =>
    select(`c.${category.name}`, category.title, category.values.toSorted().map((value) => [value, value]))));
}

function address(filters, item) {
  const all = new URLSearchParams(filters);
  if (item) all.set("item", item.path);
  const text = String(all);
  return text ? `#items?${text}` : "#items";
}

function readForm() {
  const filters = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (value) filters.append(name, value);
  }
  return filters;
}

function fillForm(filters) {
  buildCategories(filters.get("benchmark"));
  for (const field of form.elements) {
    if (field.type === "checkbox") field.checked = filters.has(field.name);
    // An unchanged search field is not written: the cursor would jump.
    else if (field.name && field.value !== (filters.get(field.name) ?? "")) field.value = filters.get(field.name) ?? "";
  }
}

const go = (filters, item) => location.replace(address(filters, item));
