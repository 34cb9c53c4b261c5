// The data of the page: an index, which loads at once, and blocks of answers, each decompressed when it is needed.
"use strict";
const blocks = (() => {
  const KEPT = 32;  // decompressed blocks in the cache, so that paging back and forth is fast
  const kept = new Map();

  /** Parse the JSON of an element, which is plain or gzip in base64. */
  async function unpack(id) {
    const element = document.getElementById(id);
    if (element.type === "application/json") return JSON.parse(element.textContent);
    if (typeof DecompressionStream === "undefined") throw new Error("the browser has no DecompressionStream");
    const letters = atob(element.textContent);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  /** Read a block; keep it in the cache if it will be shown. */
  function read(number, keep) {
    const block = kept.get(number) || unpack("block-" + number);
    if (keep) {
      kept.delete(number);
      kept.set(number, block);
      if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    }
    return block;
  }

  return { index: () => unpack("data"), read };
})();

const OF_JUDGES = ["judge", "class", "status"];  // fields with a value for each judge

/** Count the answers with each value of a field. */
function tally(data, name) {
  const counts = new Map();
  const add = (value, by) => counts.set(value, (counts.get(value) || 0) + by);
  if (!OF_JUDGES.includes(name)) {
    for (const value of data.columns[name]) add(value, 1);
    return counts;
  }
  const answers = new Array(data.sayings.length).fill(0);
  for (const saying of data.columns.said) answers[saying] += 1;
  data.sayings.forEach((saying, place) => {
    const values = saying.flatMap(([judge, kind, statuses]) => ({ judge, class: kind, status: statuses })[name]);
    for (const value of new Set(values)) add(value, answers[place]);
  });
  return counts;
}
