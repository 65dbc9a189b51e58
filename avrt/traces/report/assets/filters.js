// Filters: which samples are listed, and the fields that set them.

/** The fields of an item that a filter compares, by the filter's name, with its title and values. */
const FIELDS = [
  ["reason", "Reason", index.reasons.map(({ name }) => name), (item) => item.reason.name],
  ["split", "Split", index.splits, (item) => item.split],
  ["type", "Question type", index.types, (item) => item.type],
  ["modality", "Modality", index.modalities, (item) => item.modality],
  ["verdict", "Verdict", index.verdicts, (item) => item.verdict],
];
const ANSWERS = [["right", "right"], ["wrong", "another option"], ["none", "no answer"]];

function answerMatches(letter, gold, wanted) {
  if (wanted === "none") return letter === null;
  return letter !== null && (letter === gold) === (wanted === "right");
}

/** One test per filter that is set; a sample is listed if it passes all. */
function tests(filters) {
  const found = [];
  for (const [name, value] of filters) {
    const field = FIELDS.find(([known]) => known === name);
    const stage = name.startsWith("a.") ? index.stages.indexOf(name.slice(2)) : -1;
    if (field) found.push((item) => field[3](item) === value);
    else if (stage >= 0) found.push((item) => answerMatches(item.letters[stage], item.gold, value));
    else if (name === "q") found.push(searchTest(filters));
  }
  return found;
}

function buildFilters() {
  for (const [name, title, values] of FIELDS) {
    if (values.length > 1 || name === "reason") choices.append(select(name, title, values.map((value) => [value, value])));
  }
  for (const stage of index.stages) choices.append(select(`a.${stage}`, stage, ANSWERS));
  document.getElementById("heads").replaceChildren(
    make("span", { class: "run" }, ""),
    make("span", { class: "question" }, "question"),
    make("span", {}, `answers of ${index.stages.join(", ")} (gold)`));
}

/** No field depends on another one. */
function updateFilters() {}
