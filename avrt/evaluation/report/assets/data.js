// The items of the page.

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

/** The texts of an item's details that can be searched. */
const textsOf = (details) => [...details.options, ...details.replies.map((reply) => reply?.text ?? "")];
