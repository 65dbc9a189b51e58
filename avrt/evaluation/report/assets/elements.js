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

function setCurrent(link, current) {
  if (current) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
}
