// The transcripts: filters, pages of 25, and the answers as text nodes. Answers are hostile text: nothing of the
// data ever becomes markup, an attribute with a meaning, or code.
"use strict";
(() => {
  const PAGE = 25;
  const block = document.getElementById("data");
  if (block.type === "application/json") start(JSON.parse(block.textContent));
  else setTimeout(() => unpack(block.textContent).then(start));  // later, so that the tables are there at once

  /** The data of gzip in base64. */
  function unpack(text) {
    const letters = atob(text);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  /** Show the transcripts. */
  function start(data) {
    const form = document.getElementById("filters");
    if (!form) return;
    const list = document.getElementById("list");
    const pageNumber = document.getElementById("page-number");
    const search = document.getElementById("filter-search");
    const names = {
      model: data.models, stage: data.stages, condition: data.conditions, set: data.sets,
      question: data.questions.map((pair) => pair[1]), class: data.classes,
    };
    const selects = {};
    for (const name of Object.keys(names)) selects[name] = document.getElementById("filter-" + name);
    const haystacks = [];
    let found = data.items;
    let page = 1;

    /** A new element with a class and text. */
    function make(tag, className, text) {
      const node = document.createElement(tag);
      if (className) node.className = className;
      if (text !== undefined) node.textContent = text;
      return node;
    }

    /** Put text into a node, with what is searched for marked. */
    function fill(node, text, needle) {
      const lower = text.toLowerCase();
      if (!needle || lower.length !== text.length) {
        node.textContent = text;
        return node;
      }
      let from = 0;
      for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, from)) {
        node.append(text.slice(from, at), make("mark", "", text.slice(at, at + needle.length)));
        from = at + needle.length;
      }
      node.append(text.slice(from));
      return node;
    }

    /** How many items have each value of a field. */
    function tally(name) {
      const counts = new Map();
      for (const item of data.items) {
        const values = item[name];
        if (!Array.isArray(values)) counts.set(values, (counts.get(values) || 0) + 1);
        else for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
      }
      return counts;
    }

    function option(value, text) {
      const node = make("option", "", text);
      node.value = value;
      return node;
    }

    /** The choices of a select: those that occur, with their counts. */
    function offer(name) {
      const counts = tally(name);
      const places = names[name].map((_, place) => place).filter((place) => counts.has(place));
      selects[name].replaceChildren(option("", "any"));
      for (const place of places) {
        selects[name].append(option(place, names[name][place] + " (" + counts.get(place) + ")"));
      }
    }

    /** The questions of the chosen set, or of all sets, each set under its name. */
    function offerQuestions() {
      const set = selects.set.value;
      const before = selects.question.value;
      selects.question.replaceChildren(option("", "any"));
      data.sets.forEach((name, place) => {
        if (set !== "" && Number(set) !== place) return;
        const group = document.createElement("optgroup");
        group.label = name;
        data.questions.forEach((pair, index) => {
          if (pair[0] === place) group.append(option(index, pair[1]));
        });
        selects.question.append(group);
      });
      selects.question.value = before;
      if (selects.question.selectedIndex < 0) selects.question.value = "";
    }

    function haystack(index) {
      if (haystacks[index] === undefined) {
        const item = data.items[index];
        const raws = item.judged.flatMap((judged) => judged[2].map((verdict) => verdict[4]));
        haystacks[index] = [data.texts[item.text], item.answer, ...raws].join("\n").toLowerCase();
      }
      return haystacks[index];
    }

    const needle = () => search.value.trim().toLowerCase();

    /** Find what the filters let through, and show its first page. */
    function apply() {
      const chosen = Object.keys(selects).filter((name) => selects[name].value !== "");
      const wanted = chosen.map((name) => [name, Number(selects[name].value)]);
      const text = needle();
      found = data.items.filter((item, index) =>
        wanted.every(([name, value]) => (name === "class" ? item.class.includes(value) : item[name] === value))
        && (!text || haystack(index).includes(text)));
      turnTo(1);
    }

    function turnTo(wanted) {
      const pages = Math.max(1, Math.ceil(found.length / PAGE));
      page = Math.min(pages, Math.max(1, Math.trunc(wanted) || 1));
      const from = (page - 1) * PAGE;
      list.replaceChildren(...found.slice(from, from + PAGE).map(transcript));
      if (!found.length) list.append(make("p", "empty", "No answer matches these filters."));
      document.getElementById("matches").textContent =
        (found.length === data.items.length ? "" : found.length + " of ")
        + data.items.length + (data.items.length === 1 ? " answer" : " answers")
        + (found.length > PAGE ? ", " + (from + 1) + " to " + Math.min(from + PAGE, found.length) + " shown" : "");
      document.getElementById("page-count").textContent = pages;
      pageNumber.value = page;
      pageNumber.max = pages;
      for (const button of document.querySelectorAll(".previous")) button.disabled = page === 1;
      for (const button of document.querySelectorAll(".next")) button.disabled = page === pages;
    }

    /** Turn to a page and take the reader to its top. */
    function leaf(wanted) {
      turnTo(wanted);
      list.focus({ preventScroll: true });
      form.nextElementSibling.scrollIntoView();
    }

    function badge(place) {
      return make("span", "badge class-" + data.classes[place].replace(/[^a-z]+/g, "-"), data.classes[place]);
    }

    function transcript(item) {
      const article = make("article", "transcript");
      const heading = make("h3");
      heading.append(make("span", "", data.models[item.model]), ...item.class.map(badge));
      article.append(heading);
      const where = make("p", "where-line dots");
      const [, question] = data.questions[item.question];
      const words = [
        "stage " + data.stages[item.stage], data.conditions[item.condition], data.sets[item.set], question,
        "sample " + item.sample,
      ];
      if (item.finish !== null) words.push("finished: " + (item.finish || "unknown"));
      if (item.tokens !== null) words.push(item.tokens + (item.tokens === 1 ? " token" : " tokens"));
      where.append(...words.map((word) => make("span", "", word)));
      article.append(where, turns(item));
      for (const judged of item.judged) article.append(verdicts(judged));
      return article;
    }

    function turns(item) {
      const turns = make("dl", "turns");
      for (const [name, text] of [["Question", data.texts[item.text]], ["Answer", item.answer]]) {
        const row = make("div");
        const said = fill(make("dd", "said " + name.toLowerCase()), text, needle());
        said.dir = "auto";
        if (!text) said.append(make("span", "empty", "(empty)"));
        row.append(make("dt", "", name), said);
        turns.append(row);
      }
      return turns;
    }

    /** What one judge said: a value or a label where there is one, else the status word, never a zero. */
    function verdicts([judge, , rows]) {
      const box = make("div", "scroll");
      const table = make("table", "verdicts");
      table.append(make("caption", "", "Judge " + data.judges[judge]));
      const head = document.createElement("tr");
      for (const name of ["Rubric", "Verdict", "Status", "Judge’s reply"]) {
        const cell = make("th", "", name);
        cell.scope = "col";
        head.append(cell);
      }
      table.createTHead().append(head);
      const body = table.createTBody();
      for (const [rubric, value, label, status, raw] of rows) {
        const row = body.insertRow();
        const name = make("th", "", rubric);
        name.scope = "row";
        const verdict = value !== null ? String(Math.round(value * 100) / 100) : label !== null ? label : status;
        const reply = fill(make("div", "said raw"), raw, needle());
        reply.dir = "auto";
        const cell = make("td");
        cell.append(reply);
        const none = value === null && label === null ? "none" : "";
        row.append(name, make("td", none, verdict), make("td", "", status), cell);
      }
      box.append(table);
      return box;
    }

    /** The counts in the tables lead to their answers. */
    function follow(link) {
      search.value = "";
      for (const name of ["model", "condition", "set", "class"]) {
        const place = names[name].indexOf(link.dataset[name]);
        selects[name].value = place < 0 ? "" : String(place);
        if (selects[name].selectedIndex < 0) selects[name].value = "";
      }
      offerQuestions();
      const set = Number(selects.set.value);
      const question = data.questions.findIndex((pair) => pair[0] === set && pair[1] === link.dataset.question);
      selects.question.value = link.dataset.question && question >= 0 ? String(question) : "";
      apply();
    }

    for (const name of Object.keys(selects)) {
      if (name !== "question") offer(name);
    }
    offerQuestions();
    let timer = 0;
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(apply, 150);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => { offerQuestions(); apply(); }));
    for (const name of Object.keys(selects)) {
      selects[name].addEventListener("change", () => {
        if (name === "set") offerQuestions();
        apply();
      });
    }
    for (const button of document.querySelectorAll(".previous")) button.addEventListener("click", () => leaf(page - 1));
    for (const button of document.querySelectorAll(".next")) button.addEventListener("click", () => leaf(page + 1));
    pageNumber.addEventListener("change", () => turnTo(Number(pageNumber.value)));
    for (const link of document.querySelectorAll("a[data-class]")) link.addEventListener("click", () => follow(link));
    turnTo(1);
  }
})();
