// One answer as the page shows it: text nodes only, with the searched text marked.
"use strict";

/** Make an element with a class and text. */
function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** Return a pattern that matches the searched text literally, or null for no text. */
function patternOf(text, flags) {
  return text ? new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), flags) : null;
}

/** Return functions that show the answers of the data; `searched` returns the searched text. */
function answersOf(data, searched) {
  const ID = 10;  // characters of an answer's address
  const columns = data.columns;
  const address = (row) => data.ids.slice(row * ID, row * ID + ID);

  /** Put text into a node and mark the searched text. */
  function fill(node, text) {
    const wanted = patternOf(searched(), "giu");
    let from = 0;
    for (const match of wanted ? text.matchAll(wanted) : []) {
      node.append(text.slice(from, match.index), make("mark", "", match[0]));
      from = match.index + match[0].length;
    }
    node.append(text.slice(from));
    return node;
  }

  async function transcript(row) {
    const block = await blocks.read(Math.floor(row / data.block), true);
    const [answer, finish, tokens, judged] = block.items[row % data.block];
    const value = (name) => data[name + "s"][columns[name][row]];
    const article = make("article", "transcript");
    const heading = make("h3");
    const link = make("a", "permalink", "link");
    link.href = "#answer-" + address(row);
    link.title = "Address of this answer";
    const kinds = [...new Set(data.sayings[columns.said[row]].map(([, kind]) => kind))].sort((a, b) => a - b);
    heading.append(make("span", "", value("model")), ...kinds.map(badge), link);
    const where = make("p", "where-line dots");
    const words = ["stage " + value("stage"), value("condition"), value("set"), value("question")[1]];
    words.push("sample " + columns.sample[row]);
    if (finish !== null) words.push("finish reason: " + (finish || "unknown"));
    if (tokens !== null) words.push(tokens + (tokens === 1 ? " token" : " tokens"));
    where.append(...words.map((word) => make("span", "", word)));
    article.append(heading, where, turns(block.texts[columns.text[row]], answer));
    for (const [judge, rows] of judged) article.append(verdicts(data.judges[judge], rows));
    return article;
  }

  function badge(place) {
    return make("span", "badge class-" + data.classes[place].replace(/[^a-z]+/g, "-"), data.classes[place]);
  }

  function turns(question, answer) {
    const turns = make("dl", "turns");
    for (const [name, text] of [["Question", question], ["Answer", answer]]) {
      const row = make("div");
      const said = fill(make("dd", "said " + name.toLowerCase()), text);
      said.dir = "auto";
      if (!text) said.append(make("span", "empty", "(empty)"));
      row.append(make("dt", "", name), said);
      turns.append(row);
    }
    return turns;
  }

  /** Make the table of one judge's verdicts: a value or a label, else the status word, never a zero. */
  function verdicts(judge, rows) {
    const box = make("div", "scroll");
    box.dataset.name = "Verdicts of " + judge;
    const table = make("table", "verdicts");
    table.append(make("caption", "", "Judge " + judge));
    const head = document.createElement("tr");
    for (const name of ["Rubric", "Verdict", "Status", "Judge’s reply"]) {
      const cell = make("th", "", name);
      cell.scope = "col";
      head.append(cell);
    }
    table.createTHead().append(head);
    const body = table.createTBody();
    for (const [name, value, label, status, raw] of rows) {
      const row = body.insertRow();
      const header = make("th", "", name);
      header.scope = "row";
      const verdict = value !== null ? String(Math.round(value * 100) / 100) : label !== null ? label : status;
      const reply = fill(make("div", "said raw"), raw);
      reply.dir = "auto";
      reply.dataset.name = "Reply of " + judge + ": " + name;
      const cell = make("td");
      cell.append(reply);
      const none = value === null && label === null ? "none" : "";
      row.append(header, make("td", none, verdict), make("td", "", status), cell);
    }
    box.append(table);
    return box;
  }

  /** Make boxes that scroll reachable by keyboard, and only these. */
  function reach(list) {
    for (const box of list.querySelectorAll(".scroll, .raw")) {
      const scrolls = box.scrollHeight > box.clientHeight + 1 || box.scrollWidth > box.clientWidth + 1;
      for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", box.dataset.name]]) {
        if (scrolls) box.setAttribute(name, value);
        else box.removeAttribute(name);
      }
    }
  }

  return { address, transcript, reach };
}
