/**
 * The little Markdown that models write, as elements: paragraphs, headings, lists, code, bold and italics.
 * Everything else stays text. There are no links and no images: what a model writes can lead nowhere.
 */
import { el } from "./dom.js";

const FENCE = /^\s*(```|~~~)\s*([\w+#.-]*)/;
const HEADING = /^(#{1,6})\s+(.*)/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)/;
const INLINE = /`([^`\n]+)`|\*\*(\S(?:[^\n]*?\S)??)\*\*|(?<![*\w])\*(?![\s*])([^*\n]*[^*\s])\*(?![*\w])/;

/** @param {string} text @returns {Node[]} */
export function rendered(text) {
  const rows = text.split("\n");
  const blocks = [];
  while (rows.length) {
    if (!rows[0].trim()) rows.shift();
    else blocks.push(block(rows));
  }
  return blocks;
}

/** Take the rows of the next block, and make it. */
function block(rows) {
  const fence = FENCE.exec(rows[0]);
  if (fence) return code(rows, fence);
  const heading = HEADING.exec(rows[0]);
  if (heading) {
    rows.shift();
    return el("p", { className: "heading" }, ...inline(heading[2]));
  }
  return ITEM.test(rows[0]) ? list(rows) : paragraph(rows);
}

function code(rows, [, mark, language]) {
  rows.shift();
  const end = rows.findIndex((row) => row.trim().startsWith(mark));
  const inside = rows.splice(0, end < 0 ? rows.length : end);
  rows.shift();
  return el("pre", { tabIndex: 0 }, el("code", { "aria-label": `code ${language}`.trim() }, inside.join("\n")));
}

function list(rows) {
  const [, , mark] = ITEM.exec(rows[0]);
  const made = /\d/.test(mark) ? el("ol", { start: parseInt(mark, 10) }) : el("ul");
  while (rows.length && ITEM.test(rows[0])) {
    const [, indent, , text] = ITEM.exec(rows.shift());
    const item = el("li", { className: indent.length > 1 ? "deeper" : "" }, ...inline(text));
    while (rows.length && /^\s{2,}\S/.test(rows[0]) && !ITEM.test(rows[0]) && !FENCE.test(rows[0])) {
      item.append("\n", ...inline(rows.shift().trim()));
    }
    made.append(item);
  }
  return made;
}

function paragraph(rows) {
  const inside = [rows.shift()];
  while (rows.length && rows[0].trim() && !FENCE.test(rows[0]) && !ITEM.test(rows[0]) && !HEADING.test(rows[0])) {
    inside.push(rows.shift());
  }
  return el("p", {}, ...inline(inside.join("\n")));
}

/** @param {string} text @returns {(Node|string)[]} */
function inline(text) {
  const made = [];
  for (let left = text; left; ) {
    const found = INLINE.exec(left);
    if (!found) return [...made, left];
    const [all, codeText, bold, italic] = found;
    made.push(left.slice(0, found.index));
    made.push(codeText ? el("code", {}, codeText) : el(bold ? "strong" : "em", {}, ...inline(bold ?? italic)));
    left = left.slice(found.index + all.length);
  }
  return made;
}
