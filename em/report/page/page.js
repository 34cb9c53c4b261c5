// The transcripts: filters, search, pages of 25. Answers are hostile text: no data ever becomes markup, an active
// attribute, or code.
"use strict";
(() => {
  const PAGE = 25;
  const form = document.getElementById("filters");
  const matches = document.getElementById("matches");
  const progress = document.getElementById("progress");
  // Deferred, so that the tables appear at once.
  if (form) setTimeout(() => guard(blocks.index().then(start)));

  /** Show a message if the answers cannot be read. */
  function guard(work) {
    return work.catch((error) => {
      progress.textContent = "";
      matches.textContent = "The answers can’t be read (" + error.message + "): use a browser from 2023 or later, "
        + "or read answers.jsonl and verdicts.jsonl in the run folders.";
    });
  }

  /** Show the transcripts. */
  function start(data) {
    const list = document.getElementById("list");
    const pageNumber = document.getElementById("page-number");
    const [search, low, high, rubric, beside] =
      ["filter-search", "filter-low", "filter-high", "filter-rubric", "beside"].map((id) => document.getElementById(id));
    const columns = data.columns;
    const { address, transcript, reach } = answersOf(data, () => search.value.trim());
    const count = columns.model.length;
    const everything = Array.from({ length: count }, (_, row) => row);
    const names = {
      model: data.models, stage: data.stages, condition: data.conditions, set: data.sets,
      question: data.questions.map((pair) => pair[1]), judge: data.judges, class: data.classes, status: data.statuses,
    };
    const selects = {};
    for (const name of Object.keys(names)) selects[name] = document.getElementById("filter-" + name);
    let matching = everything;
    let page = 1;
    let searches = 0;  // a new search cancels the previous one
    let drawings = 0;

    const chosen = (name) => (selects[name].value === "" ? null : Number(selects[name].value));

    function option(value, text) {
      const node = make("option", "", text);
      node.value = value;
      return node;
    }

    /** Fill a select with the values that occur and their counts. */
    function offer(name) {
      const counts = tally(data, name);
      selects[name].replaceChildren(option("", "any"));
      names[name].forEach((text, place) => {
        if (counts.has(place)) selects[name].append(option(place, text + " (" + counts.get(place) + ")"));
      });
    }

    /** Offer the questions of the chosen set, or of all sets, grouped by set. */
    function offerQuestions() {
      const set = chosen("set");
      const before = selects.question.value;
      selects.question.replaceChildren(option("", "any"));
      data.sets.forEach((name, place) => {
        if (set !== null && set !== place) return;
        const group = document.createElement("optgroup");
        group.label = name;
        data.questions.forEach((pair, index) => {
          if (pair[0] === place) group.append(option(index, pair[1]));
        });
        selects.question.append(group);
      });
      choose(selects.question, before);
    }

    /** Select a value if it is an option, else the first option. */
    function choose(select, value) {
      select.value = value;
      if (select.selectedIndex < 0) select.selectedIndex = 0;
    }

    /** Return the rows that match all filters but the text search. */
    function filtered() {
      const wanted = Object.keys(selects).filter((name) => !OF_JUDGES.includes(name) && chosen(name) !== null)
        .map((name) => [columns[name], chosen(name)]);
      const [judge, kind, status] = OF_JUDGES.map(chosen);
      const by = ([j, k, s]) =>
        (judge === null || j === judge) && (kind === null || k === kind) && (status === null || s.includes(status));
      const fit = data.sayings.map((saying) => saying.some(by));
      const from = low.value === "" ? -Infinity : Number(low.value);
      const to = high.value === "" ? Infinity : Number(high.value);
      const scored = low.value !== "" || high.value !== "";
      const scores = data.scores[rubric.value] || [];
      /** Return whether a matching judge gave a score within the limits. */
      const within = (row) => {
        const values = Array.isArray(scores[row]) ? scores[row] : [scores[row]];
        return data.sayings[columns.said[row]].some((verdict, place) => {
          const value = values[place];
          return by(verdict) && value !== null && value !== undefined && from <= value && value <= to;
        });
      };
      return everything.filter((row) => wanted.every(([column, value]) => column[row] === value)
        && fit[columns.said[row]] && (!scored || within(row)));
    }

    /** Find the answers that match the filters and show the first page; the text search goes block by block. */
    async function apply() {
      const mine = ++searches;
      const rows = filtered();
      const wanted = patternOf(search.value.trim(), "iu");
      remember();
      progress.textContent = "";
      matching = wanted ? [] : rows;
      if (!wanted) return turnTo(1);
      list.setAttribute("aria-busy", "true");
      for (let at = 0, shown = false; at < rows.length;) {
        const number = Math.floor(rows[at] / data.block);
        const block = await blocks.read(number, false);
        if (mine !== searches) return undefined;
        for (; at < rows.length && Math.floor(rows[at] / data.block) === number; at++) {
          if (texts(block, rows[at]).some((text) => wanted.test(text))) matching.push(rows[at]);
        }
        if (at < rows.length) progress.textContent = "searched " + at + " of " + rows.length + " …";
        if (!shown && matching.length >= PAGE) {
          await turnTo(1);  // show the first page before the search ends
          shown = true;
        }
      }
      progress.textContent = "";
      return turnTo(page);
    }

    /** Return the searched texts of an answer: the question, the answer, the judges' replies. */
    function texts(block, row) {
      const [answer, , , judged] = block.items[row % data.block];
      return [block.texts[columns.text[row]], answer, ...judged.flatMap(([, rows]) => rows.map((verdict) => verdict[4]))];
    }

    /** Put the filters into the address, so that a view can be shared. */
    function remember() {
      const words = new URLSearchParams();
      for (const name of Object.keys(selects)) {
        if (chosen(name) !== null) words.set(name, names[name][chosen(name)]);
      }
      if (beside.value !== "") words.set("beside", data.models[Number(beside.value)]);
      for (const [name, field] of [["from", low], ["to", high], ["text", search]]) {
        if (field.value !== "") words.set(name, field.value);
      }
      if (words.has("from") || words.has("to")) words.set("score", rubric.value);
      const text = words.toString();
      try {
        history.replaceState(null, "", text ? "#show?" + text : location.pathname + location.search);
      } catch { /* some file viewers do not allow changes of the address */ }
    }

    /** Show the content of the address: one answer (#answer-…), or a filtered view (#show?…). */
    function recall() {
      const one = /^#answer-(.*)$/.exec(location.hash);
      if (one) {
        searches += 1;
        matching = everything.filter((row) => address(row) === one[1]);
        guard(turnTo(1, "This answer is not in this report: it belongs to other runs or other settings."));
        form.nextElementSibling.scrollIntoView();
        return true;
      }
      if (!location.hash.startsWith("#show?")) return false;
      const words = new URLSearchParams(location.hash.slice("#show?".length));
      set(Object.fromEntries(words));
      const other = data.models.indexOf(words.get("beside"));
      choose(beside, other < 0 ? "" : String(other));
      if (words.has("score")) choose(rubric, words.get("score"));
      low.value = words.get("from") || "";
      high.value = words.get("to") || "";
      search.value = words.get("text") || "";
      guard(apply());
      form.scrollIntoView();
      return true;
    }

    /** Set the filters to these names, and all others to any. */
    function set(wanted) {
      for (const name of Object.keys(selects)) {
        if (name === "question") continue;
        const place = names[name].indexOf(wanted[name]);
        choose(selects[name], place < 0 ? "" : String(place));
      }
      offerQuestions();
      const within = chosen("set");
      const place = data.questions.findIndex(
        (pair) => (within === null || pair[0] === within) && pair[1] === wanted.question);
      choose(selects.question, wanted.question && place >= 0 ? String(place) : "");
      search.value = low.value = high.value = "";
    }

    /** Show the answers of a count in a table, whatever the filters were before. */
    function follow(link) {
      set(link.dataset);
      guard(apply());
    }

    /** Return the key that pairs the answers of two models. */
    const twinKey = (row) => ["set", "question", "text", "condition", "sample"].map((name) => columns[name][row]).join(" ");

    /** Return the answers of the compared model by their keys. */
    function findTwins() {
      const model = beside.value === "" ? -1 : Number(beside.value);
      return new Map(everything.filter((row) => columns.model[row] === model).map((row) => [twinKey(row), row]));
    }

    /** Show a page of the matching answers, or the text `nothing` if there are none. */
    async function turnTo(wanted, nothing) {
      const mine = ++drawings;
      const pages = Math.max(1, Math.ceil(matching.length / PAGE));
      page = Math.min(pages, Math.max(1, Math.trunc(wanted) || 1));
      const from = (page - 1) * PAGE;
      matches.textContent = (matching.length === count ? "" : matching.length + " of ")
        + count + (count === 1 ? " answer" : " answers")
        + (matching.length > PAGE ? ", " + (from + 1) + " to " + Math.min(from + PAGE, matching.length) + " shown" : "");
      document.getElementById("page-count").textContent = pages;
      pageNumber.value = page;
      pageNumber.max = pages;
      for (const button of document.querySelectorAll(".previous")) button.disabled = page === 1;
      for (const button of document.querySelectorAll(".next")) button.disabled = page === pages;
      list.setAttribute("aria-busy", "true");
      const twins = findTwins();
      const nodes = await Promise.all(matching.slice(from, from + PAGE).map((row) => shown(row, twins.get(twinKey(row)))));
      if (mine !== drawings) return;
      list.replaceChildren(...nodes);
      if (!nodes.length) list.append(make("p", "empty", nothing || "No answer matches these filters."));
      list.removeAttribute("aria-busy");
      reach(list);
    }

    /** Turn to a page and scroll to its top. */
    function leaf(wanted) {
      guard(turnTo(wanted));
      list.focus({ preventScroll: true });
      form.nextElementSibling.scrollIntoView();
    }

    /** Make an answer, beside that of the compared model if there is one. */
    async function shown(row, twin) {
      if (twin === undefined || twin === row) return transcript(row);
      const pair = make("div", "pair");
      pair.append(...await Promise.all([transcript(row), transcript(twin)]));
      return pair;
    }

    for (const name of Object.keys(selects)) {
      if (name !== "question") offer(name);
    }
    document.getElementById("judge-field").hidden = data.judges.length < 2;
    beside.append(option("", "no other model"), ...data.models.map((name, place) => option(place, name)));
    rubric.append(...Object.keys(data.scores).map((name) => option(name, name)));
    offerQuestions();
    let timer = 0;
    for (const field of [search, low, high]) {
      field.addEventListener("input", () => {
        clearTimeout(timer);
        timer = setTimeout(() => guard(apply()), 150);
      });
    }
    rubric.addEventListener("change", () => guard(apply()));
    beside.addEventListener("change", () => { guard(turnTo(page)); remember(); });
    window.addEventListener("hashchange", recall);
    window.addEventListener("resize", () => reach(list));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => { offerQuestions(); guard(apply()); }));
    for (const name of Object.keys(selects)) {
      selects[name].addEventListener("change", () => {
        if (name === "set") offerQuestions();
        guard(apply());
      });
    }
    for (const button of document.querySelectorAll(".previous")) button.addEventListener("click", () => leaf(page - 1));
    for (const button of document.querySelectorAll(".next")) button.addEventListener("click", () => leaf(page + 1));
    pageNumber.addEventListener("change", () => guard(turnTo(Number(pageNumber.value))));
    for (const link of document.querySelectorAll("a[data-class]")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();  // the address belongs to the filters
        follow(link);
        document.getElementById("transcripts").scrollIntoView();
      });
    }
    if (!recall()) return turnTo(1);
    return undefined;
  }
})();
