// The form of the filters, and the address that contains them.

function select(name, title, choices) {
  const options = choices.map(([value, text]) => make("option", { value }, short(text)));
  return make("label", {}, `${short(title)} `, make("select", { name }, make("option", { value: "" }, "any"), ...options));
}

/** The test of the search field: in ids and questions, or in all texts. */
function searchTest(filters) {
  const text = filters.get("q").toLowerCase();
  const everywhere = filters.has("replies");
  return (item) => (everywhere ? item.text : `${item.id}\n${item.question}`.toLowerCase()).includes(text);
}

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
  updateFilters(filters);
  for (const field of form.elements) {
    if (field.type === "checkbox") field.checked = filters.has(field.name);
    // An unchanged search field is not written: the cursor would jump.
    else if (field.name && field.value !== (filters.get(field.name) ?? "")) field.value = filters.get(field.name) ?? "";
  }
}

const go = (filters, item) => location.replace(address(filters, item));
