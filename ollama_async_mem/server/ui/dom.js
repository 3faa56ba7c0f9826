/**
 * Small helpers to build elements. Text goes in as text alone: nothing here, or anywhere on the page, reads HTML.
 */

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} id @returns {any} the element of the page with this id */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element. `props` are its properties; those with a dash, and `role`, are attributes.
 * @param {string} tag
 * @param {Object<string, any>} [props]
 * @param {...(Node|string|null|undefined|false)} children texts stay texts
 * @returns {any}
 */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child || child === ""));
  return made;
}

/** @param {string} tag @param {Object<string, any>} attributes @param {...(Node|string)} children */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** @param {string} name one of the symbols in index.html */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

/**
 * A button that shows an icon alone.
 * @param {string} name @param {string} label what it does @param {() => void} onClick
 */
export function iconButton(name, label, onClick) {
  const button = el("button", { type: "button", className: "round small", title: label, "aria-label": label }, icon(name));
  button.addEventListener("click", onClick);
  return button;
}

/** @param {string} text @param {() => void} onClick @param {string} [className] */
export function textButton(text, onClick, className = "button") {
  const button = el("button", { type: "button", className }, text);
  button.addEventListener("click", onClick);
  return button;
}

/** Whether somebody writes or chooses there. @param {any} node */
export function isField(node) {
  return node instanceof HTMLElement && (node.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName));
}

/** @param {number} number @param {string} one @param {string} [many] */
export function counted(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** Wait until nothing was asked for so long. @param {(...args: any[]) => void} work @param {number} waitMs */
export function settled(work, waitMs) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), waitMs);
  };
}
