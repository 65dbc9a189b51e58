// Filters: which items are listed, and the fields that set them.

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
      found.push(searchTest(filters));
    }
  }
  return found;
}

function buildFilters() {
  choices.append(
    make("label", {}, "Benchmark ", make("select", { name: "benchmark" }, make("option", { value: "" }, "all"),
      ...index.benchmarks.map(({ name, title }) => make("option", { value: name }, title)))),
    make("span", { id: "categories" }),
  );
  const reasons = index.reasons.map(({ name }) => [name, name]).sort();
  for (const number of index.runs.keys()) {
    const suffix = suffixOf(number);
    const of = several ? ` of ${runName(number)}` : "";
    choices.append(
      select(`result${suffix}`, `Result${of}`, RESULTS),
      select(`reason${suffix}`, `Reason${of}`, reasons),
    );
  }
  for (const number of [...index.runs.keys()].slice(1)) {
    const changes = [...Object.entries(flips(number)), ...CHANGES];
    choices.append(select(changeName(number), two ? "Change" : `Change from A to ${runName(number)}`, changes));
  }
  const letters = several ? index.runs.map((_, number) => runName(number)) : [];
  document.getElementById("heads").replaceChildren(
    ...letters.map((run) => make("span", { class: "run" }, run)),
    make("span", { class: "question" }, "question"),
    make("span", {}, several ? `answers ${letters.join(" ")} (gold)` : "answer (gold)"));
  document.getElementById("flips").hidden = !two;
}

/** The categories of the chosen benchmark; those of all benchmarks would fill the page. */
function updateFilters(filters) {
  const name = filters.get("benchmark");
  const holder = document.getElementById("categories");
  const chosen = index.benchmarks.length === 1 ? index.benchmarks[0] : index.benchmarks.find((b) => b.name === name);
  if (holder.dataset.of === (chosen?.name ?? "")) return;
  holder.dataset.of = chosen?.name ?? "";
  holder.replaceChildren(...(chosen?.categories ?? []).map((category) =>
    select(`c.${category.name}`, category.title, category.values.toSorted().map((value) => [value, value]))));
}
