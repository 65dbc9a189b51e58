// The open item: question, options, clip and replies.

const MASKS = {
  A: "got black frames (mask A: audio only)",
  V: "got silent audio (mask V: frames only)",
};
const RULES = new Map([[1, "right"], [0, "wrong"], [null, "not counted"]]);

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
  const categories = item.benchmark.categories.flatMap((category, number) =>
    number in item.categories ? [[category.title, category.values[item.categories[number]]]] : []);
  article.replaceChildren(
    make("p", { class: "tools" },
      make("span", {}, `${item.benchmark.title} · item ${item.place + 1} · `, make("code", {}, short(item.id))),
      button("Previous", () => step(-1)), button("Next", () => step(1)), button("Close", close)),
    fold(make("h2"), item.question.trim() || "(no question text)"),
    drawOptions(item, details),
    make("p", { class: "categories" },
      ...(flipOf(item) ? [make("span", { class: `chip ${flipOf(item)}` }, flips(1)[flipOf(item)])] : []),
      ...categories.map(([name, value]) => make("span", { class: "chip" }, `${short(name)}: ${short(value)}`))),
    ...drawClip(item, details.clip),
    make("div", { class: "replies" }, ...details.replies.map((reply, number) => drawReply(item, details, number))),
  );
  article.scrollTop = 0;
  if (focusItem) article.focus();
  focusItem = false;
}

function drawOptions(item, details) {
  return make("ul", { class: "options" }, ...details.options.map((text, number) => {
    const letter = String.fromCharCode(65 + number);
    const gold = letter === item.gold;
    const chosen = item.outcomes.flatMap((outcome, run) => (outcome?.answer === letter
      ? [make("span", { class: `badge ${seriesOf(run)}` }, several ? `run ${runName(run)}` : "answered")] : []));
    return make("li", { class: gold ? "gold" : null },
      make("span", { class: "letter" }, letter),
      text.trim() ? fold(make("span", { class: "option" }), text) : make("span", { class: "note" }, "(blank)"),
      gold ? make("span", { class: "badge badge-gold" }, "gold") : null, ...chosen);
  }));
}

function drawClip(item, clip) {
  const notes = index.runs.flatMap(({ modalities }, number) => {
    const mask = MASKS[modalities[item.benchmark.name]];
    return mask ? [make("p", { class: "note" }, `${several ? `Run ${runName(number)}` : "The model"} ${mask}.`)] : [];
  });
  if (clip.problem) {
    return [make("p", { class: "problem" }, `No frames and no audio: ${short(clip.problem)}`), ...notes];
  }
  const audio = clip.audio
    ? make("audio", { controls: true, preload: "none", src: clip.audio, "aria-label": "Audio of the clip" }) : null;
  const frames = (clip.frames ?? []).map((source, number) => drawFrame(clip, source, number, audio));
  const silent = make("p", { class: "note" }, "The clip has no audio.");
  return [
    make("div", { class: clip.is_image ? "frames image" : "frames" }, ...frames),
    make("div", { class: "audio" }, audio ?? silent,
      make("span", { class: "note" }, drawLength(clip))),
    ...notes,
  ];
}

function drawLength(clip) {
  if (!clip.seconds) return "";
  const length = `clip of ${clip.seconds.toFixed(1)} s`;
  const cut = clip.audio && clip.audio_seconds && clip.audio_seconds < clip.seconds - 0.2;
  return cut ? `${length}; audio of its first ${clip.audio_seconds.toFixed(1)} s` : length;
}

/** A thumbnail; a click plays the audio from its time, if there is any. */
function drawFrame(clip, source, number, audio) {
  const time = clip.times?.[number] ?? 0;
  const name = clip.is_image ? "Image" : `Frame ${number + 1} at ${time.toFixed(1)} s`;
  const image = make("img", { src: source, loading: "lazy", decoding: "async", alt: name });
  // Thumbnails are resized to whole patches, like the model's frames, but shown with the source's aspect ratio.
  image.style.aspectRatio = `${clip.width} / ${clip.height}`;
  const label = make("span", {}, clip.is_image ? "" : `${time.toFixed(1)} s`);
  if (!audio || clip.is_image || (clip.audio_seconds && time >= clip.audio_seconds)) return make("span", { class: "frame" }, image, label);
  const player = make("button", { type: "button", class: "frame", title: "play from here" }, image, label);
  player.addEventListener("click", () => {
    audio.currentTime = time;
    audio.play();
  });
  return player;
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
  const list = make("dl", {}, ...facts.filter(([, value]) => value !== "").map(([name, value]) =>
    make("div", {}, make("dt", {}, name),
      fold(make("dd", { class: name === "Strict" ? `verdict-${outcome.error.name}` : null }), String(value)))));
  const draw = (text) => text.split(/(<\/?(?:think|answer)>)/).map((part) =>
    (/^<\/?(?:think|answer)>$/.test(part) ? make("span", { class: "tag" }, part) : part));
  return make("section", {}, heading, list, drawPrompt(details.prompts[reply.prompt]),
    reply.text
      ? fold(make("pre", { class: "trace", tabindex: "0", "aria-label": `Reply of ${run}` }), reply.text, draw)
      : make("p", { class: "note" }, "No text."));
}

/** What the model was asked, folded; null where it was not recorded. */
function drawPrompt(prompt) {
  if (!prompt) return null;
  return make("details", { class: "prompt" }, make("summary", {}, "Prompt"), fold(make("pre", { class: "trace" }), prompt));
}
