"use strict";
// The list of items: filters, pages, and one item opened beside it.
//
// The address after # is the whole state (#items?benchmark=mmau&result=wrong&item=mmau/3f), so that every view can be
// linked to; route() draws what it says. Data reach the page as text nodes and attributes only, never as HTML.
const avrtReport = (() => {
  const PAGE_ITEMS = 100;
  const MASKS = {
    A: "was shown blank frames (mask A: sound only)",
    V: "heard silence (mask V: frames only)",
  };
  const RULES = new Map([[1, "right"], [0, "wrong"], [null, "left out"]]);

  const index = JSON.parse(document.getElementById("index").textContent);
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
    }),
  }));
  const byPath = new Map(items.map((item) => [item.path, item]));

  const form = document.getElementById("filters");
  const rows = document.getElementById("rows");
  const article = document.getElementById("item");
  const statusLine = document.getElementById("status");

  let filtered = items; // the items that the filters leave, in order
  let drawn = null; // the filters that `filtered` was made with, as text
  let page = 0;
  let current = null; // the item that is open
  let focusItem = false; // the item was opened by hand: the keyboard follows

  // ---- elements

  /** A new element; attributes that are null or false are left out, true stands without a value. */
  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== false && value !== undefined) {
        element.setAttribute(key, value === true ? "" : value);
      }
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  function button(text, action) {
    const element = make("button", { type: "button" }, text);
    element.addEventListener("click", action);
    return element;
  }

  function setCurrent(link, current) {
    if (current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }

  const runName = (number) => (two ? "AB"[number] : "");
  const FLIPS = { won: "won by B: A wrong, B right", lost: "lost by B: A right, B wrong" };
  /** Whether the second run has won or lost the item; null where nothing flipped. */
  const flipOf = (item) => Object.keys(FLIPS).find((kind) => two && changeMatches(item.outcomes, kind)) ?? null;
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

  // ---- data of single items, loaded in chunks on demand

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
          reject(new Error(`${source} is missing beside the page: was the page moved without its folders?`));
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

  // ---- filters

  const CHOICES = {
    result: [["none", "right"], ["wrong", "wrong, for any reason"], ["logic", "logic error"],
      ["instruction_format", "format error"], ["no_reply", "no reply"], ["rules", "strict and official differ"]],
    change: [...Object.entries(FLIPS), ["both_right", "right in both"],
      ["both_wrong", "wrong in both"], ["answers", "answers differ"], ["one", "in one run only"]],
  };

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
      const run = name.endsWith("b") ? 1 : 0;
      if (name === "benchmark") {
        found.push((item) => item.benchmark.name === value);
      } else if (name === "result" || name === "resultb") {
        found.push((item) => resultMatches(item.outcomes[run], value));
      } else if (name === "reason" || name === "reasonb") {
        found.push((item) => item.outcomes[run]?.reason.name === value);
      } else if (name === "change") {
        found.push((item) => two && changeMatches(item.outcomes, value));
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
    const options = choices.map(([value, text]) => make("option", { value }, text));
    return make("label", {}, `${title} `, make("select", { name }, make("option", { value: "" }, "any"), ...options));
  }

  function buildFilters() {
    form.elements.benchmark.append(
      make("option", { value: "" }, "all"),
      ...index.benchmarks.map(({ name, title }) => make("option", { value: name }, title)),
    );
    const reasons = index.reasons.map(({ name }) => [name, name]).sort();
    const outcomes = document.getElementById("outcomes");
    for (const number of index.runs.keys()) {
      const suffix = number ? "b" : "";
      outcomes.append(
        select(`result${suffix}`, `${runName(number)} Result`.trim(), CHOICES.result),
        select(`reason${suffix}`, `${runName(number)} Reason`.trim(), reasons),
      );
    }
    if (two) outcomes.append(select("change", "Change", CHOICES.change));
    document.getElementById("heads").replaceChildren(
      ...(two ? ["A", "B"].map((run) => make("span", { class: "run" }, run)) : []),
      make("span", { class: "question" }, "question"), make("span", {}, two ? "answers A B (gold)" : "answer (gold)"));
    document.getElementById("flips").hidden = !two;
  }

  /** The categories of the chosen benchmark; those of all together would fill the page. */
  function buildCategories(name) {
    const holder = document.getElementById("categories");
    const chosen = index.benchmarks.length === 1 ? index.benchmarks[0] : index.benchmarks.find((b) => b.name === name);
    if (holder.dataset.of === (chosen?.name ?? "")) return;
    holder.dataset.of = chosen?.name ?? "";
    holder.replaceChildren(...(chosen?.categories ?? []).map((category) =>
      select(`c.${category.name}`, category.name, category.values.toSorted().map((value) => [value, value]))));
  }

  // ---- the address

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
      // A search field is left alone while it says the same: the cursor would jump.
      else if (field.name && field.value !== (filters.get(field.name) ?? "")) field.value = filters.get(field.name) ?? "";
    }
  }

  const go = (filters, item) => location.replace(address(filters, item));

  // ---- drawing

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
        if (drawn !== String(filters)) return; // something else was asked for in the meantime
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

  function drawStatus() {
    const parts = [`${filtered.length.toLocaleString("en")} of ${plural(items.length, "item")}`];
    for (const number of index.runs.keys()) {
      const right = filtered.filter((item) => item.outcomes[number]?.right).length;
      parts.push(`${runName(number)} right in ${right.toLocaleString("en")}`.trim());
    }
    if (two) {
      const flipped = filtered.map(flipOf);
      for (const kind of Object.keys(FLIPS)) {
        parts.push(`${flipped.filter((flip) => flip === kind).length.toLocaleString("en")} ${kind} by B`);
      }
    }
    statusLine.textContent = parts.join(" · ");
  }

  function drawList(filters, item) {
    const place = item ? filtered.indexOf(item) : -1;
    if (place >= 0) page = Math.floor(place / PAGE_ITEMS);
    const start = page * PAGE_ITEMS;
    const shown = filtered.slice(start, start + PAGE_ITEMS);
    rows.replaceChildren(...shown.map((entry) => make("li", {}, drawRow(entry, filters))));
    rows.setAttribute("start", start + 1);
    document.getElementById("page").textContent =
      filtered.length ? `${start + 1}–${start + shown.length} of ${filtered.length.toLocaleString("en")}` : "no items";
    document.getElementById("previous-page").disabled = page === 0;
    document.getElementById("next-page").disabled = start + PAGE_ITEMS >= filtered.length;
  }

  function drawRow(item, filters) {
    return make("a", { href: address(filters, item), "data-item": item.path, class: flipOf(item) },
      ...item.outcomes.map((outcome, number) => drawMark(outcome, runName(number))),
      make("span", { class: "question" }, item.question.trim() || "(no question text)"),
      make("span", { class: "said" }, item.outcomes.map((outcome) => outcome?.answer ?? "–").join(" "), ` (${item.gold})`));
  }

  function drawMark(outcome, run) {
    const kind = !outcome ? "absent" : outcome.error.name;
    const sign = { none: "✓", logic: "✗", instruction_format: "!", no_reply: "∅", absent: " " }[kind];
    const title = `${run} ${outcome ? outcome.error.title : "not in this run"}`.trim();
    return make("span", { class: `mark mark-${kind}`, role: "img", "aria-label": title, title }, sign);
  }

  function markCurrent(item) {
    document.getElementById("items").classList.toggle("open", item !== null);
    for (const link of rows.querySelectorAll("a")) {
      const here = item !== null && link.dataset.item === item.path;
      setCurrent(link, here);
      if (here) link.scrollIntoView({ block: "nearest" });
    }
  }

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
    if (item !== current) return; // another one was opened in the meantime
    const categories = item.benchmark.categories.flatMap((category, number) =>
      number in item.categories ? [[category.name, category.values[item.categories[number]]]] : []);
    article.replaceChildren(
      make("p", { class: "tools" },
        make("span", {}, `${item.benchmark.title} · item ${item.place + 1} · `, make("code", {}, item.id)),
        button("Previous", () => step(-1)), button("Next", () => step(1)), button("Close", close)),
      make("h2", {}, item.question.trim() || "(no question text)"),
      drawOptions(item, details),
      make("p", { class: "categories" },
        ...(flipOf(item) ? [make("span", { class: `chip ${flipOf(item)}` }, FLIPS[flipOf(item)])] : []),
        ...categories.map(([name, value]) => make("span", { class: "chip" }, `${name}: ${value}`))),
      ...drawClip(item, details.clip),
      make("div", { class: "replies" }, ...details.replies.map((reply, number) => drawReply(item, reply, number))),
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
        ? [make("span", { class: `badge series-${"ab"[run]}` }, two ? `run ${runName(run)}` : "answered")] : []));
      return make("li", { class: gold ? "gold" : null },
        make("span", { class: "letter" }, letter),
        text.trim() ? make("span", { class: "option" }, text) : make("span", { class: "note" }, "(blank)"),
        gold ? make("span", { class: "badge badge-gold" }, "gold") : null, ...chosen);
    }));
  }

  function drawClip(item, clip) {
    const notes = index.runs.flatMap(({ modalities }, number) => {
      const mask = MASKS[modalities[item.benchmark.name]];
      return mask ? [make("p", { class: "note" }, `${two ? `Run ${runName(number)}` : "The model"} ${mask}.`)] : [];
    });
    if (clip.problem) {
      return [make("p", { class: "problem" }, `No frames and no sound here: ${clip.problem}`), ...notes];
    }
    const audio = clip.sound
      ? make("audio", { controls: true, preload: "none", src: clip.sound, "aria-label": "Sound of the clip" }) : null;
    const frames = (clip.frames ?? []).map((source, number) => drawFrame(clip, source, number, audio));
    const silent = make("p", { class: "note" }, "The clip has no sound.");
    return [
      make("div", { class: clip.is_image ? "frames picture" : "frames" }, ...frames),
      make("div", { class: "sound" }, audio ?? silent,
        make("span", { class: "note" }, drawLength(clip))),
      ...notes,
    ];
  }

  function drawLength(clip) {
    if (!clip.seconds) return "";
    const length = `clip of ${clip.seconds.toFixed(1)} s`;
    const cut = clip.sound && clip.sound_seconds && clip.sound_seconds < clip.seconds - 0.2;
    return cut ? `${length}; the sound is that of its first ${clip.sound_seconds.toFixed(1)} s` : length;
  }

  /** A thumbnail; where there is sound at its time, a click plays it from there. */
  function drawFrame(clip, source, number, audio) {
    const time = clip.times?.[number] ?? 0;
    const name = clip.is_image ? "Picture" : `Frame ${number + 1} at ${time.toFixed(1)} s`;
    const picture = make("img", { src: source, loading: "lazy", decoding: "async", alt: name });
    // Thumbnails are resized as the model's frames are, to whole patches: shown in the source's own shape.
    picture.style.aspectRatio = `${clip.width} / ${clip.height}`;
    const label = make("span", {}, clip.is_image ? "" : `${time.toFixed(1)} s`);
    if (!audio || clip.is_image || (clip.sound_seconds && time >= clip.sound_seconds)) return make("span", { class: "frame" }, picture, label);
    const player = make("button", { type: "button", class: "frame", title: "play from here" }, picture, label);
    player.addEventListener("click", () => {
      audio.currentTime = time;
      audio.play();
    });
    return player;
  }

  function drawReply(item, reply, number) {
    const outcome = item.outcomes[number];
    const run = index.runs[number].name;
    const heading = make("h3", {}, two ? make("span", { class: `badge series-${"ab"[number]}` }, runName(number)) : null, run);
    if (!outcome) return make("section", {}, heading, make("p", { class: "note" }, "This run does not have the item."));
    const facts = [
      ["Answer", outcome.answer ?? "none"],
      ["Strict", outcome.error.title],
      ["Official", RULES.get(outcome.official)],
      ["Reason", outcome.reason.name + (outcome.reason.meaning ? `: ${outcome.reason.meaning}` : "")],
      ["Ended by", reply.finish],
      ["Tokens", reply.tokens === null ? "" : `${reply.promptTokens ?? "?"} + ${reply.tokens}`],
      ["Seconds", reply.seconds === null ? "" : reply.seconds.toFixed(1)],
      ["Failure", reply.failure ?? ""],
    ];
    const list = make("dl", {}, ...facts.filter(([, value]) => value !== "").map(([name, value]) =>
      make("div", {}, make("dt", {}, name),
        make("dd", { class: name === "Strict" ? `verdict-${outcome.error.name}` : null }, value))));
    const text = reply.text.split(/(<\/?(?:think|answer)>)/).map((part) =>
      (/^<\/?(?:think|answer)>$/.test(part) ? make("span", { class: "tag" }, part) : part));
    return make("section", {}, heading, list,
      reply.text ? make("pre", { class: "trace", tabindex: "0", "aria-label": `Reply of ${run}` }, ...text)
        : make("p", { class: "note" }, "There is no text."));
  }

  // ---- the reader's hands

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
      if (audio?.paused) audio.play();
      else audio?.pause();
    }
  }

  buildFilters();
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    buildCategories(form.elements.benchmark.value);
    go(readForm(), current);
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
  current = undefined; // nothing is drawn yet, not even the invitation to choose
  route();

  return { receive };
})();
