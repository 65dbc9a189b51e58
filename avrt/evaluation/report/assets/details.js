// The open item: options, categories, clip and replies.

const MASKS = {
  A: "got black frames (mask A: audio only)",
  V: "got silent audio (mask V: frames only)",
};
const RULES = new Map([[1, "right"], [0, "wrong"], [null, "not counted"]]);

const titleOf = (item) => `${item.benchmark.title} · item ${item.place + 1} · `;

function drawDetails(item, details) {
  const categories = item.benchmark.categories.flatMap((category, number) =>
    number in item.categories ? [[category.title, category.values[item.categories[number]]]] : []);
  const badges = (letter) => item.outcomes.flatMap((outcome, run) => (outcome?.answer === letter
    ? [make("span", { class: `badge ${seriesOf(run)}` }, several ? `run ${runName(run)}` : "answered")] : []));
  return [
    drawOptions(item, details.options, badges),
    make("p", { class: "categories" },
      ...(flipOf(item) ? [make("span", { class: `chip ${flipOf(item)}` }, flips(1)[flipOf(item)])] : []),
      ...categories.map(([name, value]) => drawChip(name, value))),
    ...drawClip(details.clip),
    ...drawMasks(item),
    make("div", { class: "replies" }, ...details.replies.map((reply, number) => drawReply(item, details, number))),
  ];
}

/** The runs that got the clip without its frames or audio. */
function drawMasks(item) {
  return index.runs.flatMap(({ modalities }, number) => {
    const mask = MASKS[modalities[item.benchmark.name]];
    return mask ? [make("p", { class: "note" }, `${several ? `Run ${runName(number)}` : "The model"} ${mask}.`)] : [];
  });
}

function drawReply(item, details, number) {
  const outcome = item.outcomes[number];
  const reply = details.replies[number];
  const run = index.runs[number].name;
  const heading = make("h3", {}, several ? make("span", { class: `badge ${seriesOf(number)}` }, runName(number)) : null, run);
  if (!outcome) return make("section", {}, heading, make("p", { class: "note" }, "This run does not have the item."));
  const facts = [
    ["Answer", outcome.answer ?? "none"],
    ["Strict", outcome.error.title],
    ["Official", RULES.get(outcome.official)],
    ["Official on answer", outcome.onAnswer === outcome.official ? "" : RULES.get(outcome.onAnswer)],
    ["Reason", outcome.reason.name + (outcome.reason.meaning ? `: ${outcome.reason.meaning}` : "")],
    ["Ended by", reply.finish],
    ["Tokens", reply.tokens === null ? "" : `${reply.promptTokens ?? "?"} + ${reply.tokens}`],
    ["Seconds", reply.seconds === null ? "" : reply.seconds.toFixed(1)],
    ["Failure", reply.failure ?? ""],
  ];
  const list = drawFacts(facts, { Strict: `verdict-${outcome.error.name}` });
  return make("section", {}, heading, list, drawFolded("Prompt", details.prompts[reply.prompt]),
    reply.text ? drawTrace(reply.text, `Reply of ${run}`) : make("p", { class: "note" }, "No text."));
}
