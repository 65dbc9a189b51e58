// Elements of the document. Texts become text nodes and attributes, never HTML.

/** A new element; attributes that are null or false are omitted, true is written without a value. */
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

// A line of a hundred thousand characters takes a browser half a minute to lay out, so long texts are cut.
const SHORT = 300;
const LONG = 4_000;

/** The beginning of a text, for a place that has one line. */
const short = (text) => (text.length > SHORT ? `${text.slice(0, SHORT)} …` : text);

/** Fill an element with a text; of a long one with its beginning and a button for the rest. */
function fold(element, text, draw = (part) => [part]) {
  if (text.length <= LONG) element.append(...draw(text));
  else {
    const more = button(`Show all ${text.length.toLocaleString("en")} characters`, () => element.replaceChildren(...draw(text)));
    element.append(...draw(text.slice(0, LONG)), " … ", more);
  }
  return element;
}

function setCurrent(link, current) {
  if (current) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
}
