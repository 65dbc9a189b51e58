// The items of the page, and the data of single items, which are loaded in chunks on demand.

const index = JSON.parse(document.getElementById("index").textContent);
const several = index.runs.length > 1;
const two = index.runs.length === 2;
const items = index.items.map(([benchmark, id, place, question, gold, categories, outcomes], number) => ({
  number, id, place, question, gold, categories,
  benchmark: index.benchmarks[benchmark],
  path: `${index.benchmarks[benchmark].name}/${id}`,
  outcomes: outcomes.map((outcome) => outcome && {
    answer: outcome[0],
    reason: index.reasons[outcome[1]],
    error: index.errors[outcome[2]],
    right: index.errors[outcome[2]].name === "none",
    official: outcome[3],
    onAnswer: outcome[4],
  }),
}));
const byPath = new Map(items.map((item) => [item.path, item]));

/** A run's letter, empty for one run alone; its suffix in names of filters; the class of its color. */
const runName = (number) => (several ? index.runs[number].letter : "");
const suffixOf = (number) => (number ? index.runs[number].letter.toLowerCase() : "");
const seriesOf = (number) => `series-${index.runs[number].series}`;
/** The filter of changes from run A to a further run. */
const changeName = (number) => (number === 1 ? "change" : `change${suffixOf(number)}`);
const flips = (number) => ({
  won: `won by ${runName(number)}: A wrong, ${runName(number)} right`,
  lost: `lost by ${runName(number)}: A right, ${runName(number)} wrong`,
});
/** `won` or `lost` if the item differs between two runs in B's favor or A's; else null. */
const flipOf = (item) => ["won", "lost"].find((kind) => two && changeMatches(item.outcomes, kind)) ?? null;
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

const chunks = new Map();
const waiting = new Map();

function receive(number, details) {
  waiting.get(number)?.(details);
}

function loadChunk(number) {
  if (!chunks.has(number)) {
    chunks.set(number, new Promise((resolve, reject) => {
      const source = `data/items-${String(number).padStart(4, "0")}.js`;
      const script = make("script", { src: source });
      waiting.set(number, resolve);
      script.addEventListener("load", () => script.remove());
      script.addEventListener("error", () => {
        chunks.delete(number);
        script.remove();
        reject(new Error(`${source} is missing beside the page; move the page together with its folders`));
      });
      document.head.append(script);
    }));
  }
  return chunks.get(number);
}

const loadDetails = async (item) =>
  (await loadChunk(Math.floor(item.number / index.chunk)))[item.number % index.chunk];

/** Everything that can be searched, in lower case, kept on the items. */
async function loadTexts() {
  const count = Math.ceil(items.length / index.chunk);
  const parts = await Promise.all(Array.from({ length: count }, (_, number) => loadChunk(number)));
  for (const item of items) {
    const details = parts[Math.floor(item.number / index.chunk)][item.number % index.chunk];
    item.text ??= [item.id, item.question, ...details.options, ...details.replies.map((reply) => reply?.text ?? "")]
      .join("\n").toLowerCase();
  }
}
