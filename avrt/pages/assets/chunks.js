// Data of single items, which are loaded in chunks on demand.

const index = JSON.parse(document.getElementById("index").textContent);
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
    item.text ??= [item.id, item.question, ...textsOf(details)].join("\n").toLowerCase();
  }
}
