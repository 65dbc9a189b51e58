// The open sample: options, clip, the trace that is kept, the replies of teachers and merger, and verdicts.

const titleOf = (item) => `${item.kept ? "kept" : `rejected: ${item.reason.name}`} · `;

function drawDetails(item, details) {
  const badges = (letter) => index.stages.flatMap((stage, number) => (item.letters[number] === letter
    ? [make("span", { class: `badge ${colorOf(number)}` }, stage)] : []));
  const facts = [["Split", item.split], ["Question type", item.type], ["Modality", item.modality],
    ["Clip", details.source]].filter(([, value]) => value);
  const merge = merging ? details.calls.at(-1) : null;
  const teachers = merging ? details.calls.slice(0, -1) : details.calls;
  return [
    drawOptions(item, details.options, badges),
    make("p", { class: "categories" },
      make("span", { class: `chip verdict-${kindOf(item)}` }, item.reason.meaning || item.reason.name),
      ...facts.map(([name, value]) => drawChip(name, value))),
    ...drawClip(details.clip),
    make("div", { class: "replies" }, ...teachers.map((call, number) => drawCall(item, call, number))),
    ...(merge ? [make("div", { class: "replies" }, drawCall(item, merge, teachers.length))] : []),
    drawTarget(details),
    ...drawVerdicts(details),
  ];
}

const colorOf = (number) => `series-${"abcdef"[number % 6]}`;

/** How many of a teacher's several samples agree, and how many are right; empty for one sample. */
function drawCertainty(item, { replies }) {
  if (replies.length < 2) return "";
  const letters = replies.map((reply) => reply?.letter ?? null).filter((letter) => letter !== null);
  const most = Math.max(0, ...letters.map((letter) => letters.filter((other) => other === letter).length));
  const right = letters.filter((letter) => letter === item.gold).length;
  return `${most} of ${replies.length} agree, ${right} right`;
}

function drawCall(item, call, number) {
  const outcome = call.meaning ? `${call.outcome}: ${call.meaning}` : call.outcome;
  const kind = ["right", "transcribed"].includes(call.outcome) ? "kept" : ["missing", "no_stream", "not_needed"].includes(call.outcome) ? "missing" : "rejected";
  return make("section", {},
    make("h3", {}, make("span", { class: `badge ${colorOf(number)}` }, call.stage), call.model),
    drawFacts([["Outcome", outcome], ["Samples", drawCertainty(item, call)]], { Outcome: `verdict-${kind}` }),
    drawFolded("Prompt", call.prompt),
    ...call.replies.flatMap((reply, place) =>
      drawReply(reply, call.stage, call.replies.length > 1 ? `Sample ${place + 1} of ${call.replies.length}` : "")));
}

function drawReply(reply, stage, title) {
  const heading = title ? [make("h4", {}, title)] : [];
  if (!reply) return [...heading, make("p", { class: "note" }, "No call is recorded.")];
  const [asked, generated] = reply.tokens;
  const facts = [
    ["Answer", reply.letter ?? "none"],
    ["Ended by", reply.finish || reply.status],
    ["Tokens", generated === null ? "" : `${asked ?? "?"} + ${generated}`],
    ["Seconds", reply.seconds.toFixed(1)],
    ["Attempts", reply.attempts > 1 ? reply.attempts : ""],
    ["Error", reply.error],
  ];
  return [...heading, drawFacts(facts),
    drawFolded(`Thinking (${plural(reply.thinking.length, "character")})`, reply.thinking),
    reply.text ? drawTrace(reply.text, `Reply of ${stage}`) : make("p", { class: "note" }, "No text outside the thinking."),
  ].filter((element) => element !== null);
}

/** The text that fine-tuning would read. */
function drawTarget(details) {
  return make("section", { class: "target" }, make("h3", {}, "Target of fine-tuning"),
    details.trace ? drawTrace(details.trace, "Target of fine-tuning") : make("p", { class: "note" }, "None: the sample is rejected."));
}

function drawVerdicts(details) {
  if (details.verdicts === null) return [];
  const drawn = details.verdicts.map((verdict) => make("section", {},
    make("h3", {}, [verdict.mode.replaceAll("_", " "), verdict.against ? `${verdict.set} (A) against ${verdict.against} (B)` : verdict.set].join(": ")),
    verdict.problem ? fold(make("p", { class: "problem" }), verdict.problem) : null,
    drawFacts(verdict.facts.map(([name, value]) => [name.replaceAll("_", " "), value])),
    verdict.claims.length
      ? make("ul", { class: "claims" }, ...verdict.claims.map(([claim, source]) =>
        make("li", {}, source ? make("span", { class: "chip" }, short(source)) : null, " ", fold(make("span"), claim))))
      : null,
    verdict.explanation ? fold(make("p"), verdict.explanation) : null));
  return [make("h3", {}, "Verdicts of the judge"),
    drawn.length ? make("div", { class: "replies" }, ...drawn)
      : make("p", { class: "note" }, details.trace ? "The judge has not read this trace." : "A rejected sample has no trace to judge.")];
}
