// The data of the page: an index, which opens at once, and blocks of answers, each unpacked when it is wanted.
"use strict";
const blocks = (() => {
  const KEPT = 32;  // blocks stay unpacked, so that turning a page back and forth is quick
  const kept = new Map();

  /** The JSON of an element: as it stands, or gzip in base64. */
  async function unpack(id) {
    const element = document.getElementById(id);
    if (element.type === "application/json") return JSON.parse(element.textContent);
    if (typeof DecompressionStream === "undefined") throw new Error("the browser has no DecompressionStream");
    const letters = atob(element.textContent);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  /** A block, for good if it is to be shown. */
  function read(number, keep) {
    const known = kept.get(number);
    const block = known || unpack("block-" + number);
    if (keep) {
      kept.delete(number);
      kept.set(number, block);
      if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    }
    return block;
  }

  return { index: () => unpack("data"), read };
})();

const OF_JUDGES = ["judge", "class", "status"];  // what an answer has by judge

/** How many answers have each value of a field. */
function tally(data, name) {
  const counts = new Map();
  const add = (value, by) => counts.set(value, (counts.get(value) || 0) + by);
  if (!OF_JUDGES.includes(name)) {
    for (const value of data.columns[name]) add(value, 1);
    return counts;
  }
  const said = new Array(data.sayings.length).fill(0);
  for (const saying of data.columns.said) said[saying] += 1;
  data.sayings.forEach((saying, place) => {
    const values = saying.flatMap(([judge, kind, statuses]) => ({ judge, class: kind, status: statuses })[name]);
    for (const value of new Set(values)) add(value, said[place]);
  });
  return counts;
}
