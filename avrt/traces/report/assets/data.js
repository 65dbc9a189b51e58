// The samples of the page.

const merging = index.stages.includes("merge");
const items = index.items.map(([id, question, gold, reason, split, type, modality, letters, verdict], number) => ({
  number, id, question, gold, letters,
  path: id,
  reason: index.reasons[reason],
  kept: index.reasons[reason].name === "kept",
  missing: index.reasons[reason].name.endsWith("_missing"),
  split: index.splits[split],
  type: index.types[type],
  modality: index.modalities[modality],
  verdict: verdict === null ? "" : index.verdicts[verdict],
}));
const byPath = new Map(items.map((item) => [item.path, item]));

/** The texts of an item's details that can be searched. */
const textsOf = (details) => [
  ...details.options, details.trace,
  ...details.calls.flatMap((call) => call.replies.flatMap((reply) => (reply ? [reply.thinking, reply.text] : []))),
];
