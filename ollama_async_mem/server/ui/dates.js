/** Times in words. Their full form is always in reach, as the title. */
import { el } from "./dom.js";

const UNITS = [["year", 31557600], ["month", 2629800], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const full = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "short" });
const short = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const RECENT_MS = 14 * 86400 * 1000;

/** @param {Date} when @param {Date} [now] */
function ago(when, now = new Date()) {
  const seconds = (when.getTime() - now.getTime()) / 1000;
  const [unit, size] = UNITS.find(([, each]) => Math.abs(seconds) >= each) ?? ["second", 0];
  return size ? relative.format(Math.trunc(seconds / size), unit) : "just now";
}

/** What people say of a time: "yesterday", and the date of what is long ago. @param {string} iso */
function spoken(iso) {
  const when = new Date(iso);
  return Math.abs(Date.now() - when.getTime()) < RECENT_MS ? ago(when) : short.format(when);
}

/** An element for a time. @param {string} iso @param {string} [text] */
export function timeOf(iso, text = spoken(iso)) {
  return el("time", { dateTime: iso, title: full.format(new Date(iso)) }, text);
}

/** @param {string} iso */
export const clockOf = (iso) => timeOf(iso, clock.format(new Date(iso)));

/** The name of a day, as a heading in a conversation. @param {Date} when */
export function dayName(when) {
  const days = Math.round((midnight(new Date()) - midnight(when)) / 86400000);
  return days === 0 ? "Today" : days === 1 ? "Yesterday" : short.format(when);
}

/** Renew what is said relative to now. */
export function keepFresh() {
  setInterval(() => {
    for (const time of document.querySelectorAll("time.ago")) time.textContent = spoken(time.dateTime);
  }, 30_000);
}

/** An element for a time that is kept up to date. @param {string} iso */
export function agoOf(iso) {
  const time = timeOf(iso);
  time.className = "ago";
  return time;
}

/** @param {Date} when */
function midnight(when) {
  return new Date(when.getFullYear(), when.getMonth(), when.getDate()).getTime();
}
