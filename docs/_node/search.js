/* The search itself: what is loaded when somebody begins to type. */
import MiniSearch from "minisearch";
import SearchableMap from "minisearch/SearchableMap";
import { fromColumns } from "./columns.js";
import { FIELDS, options, spellings, termsOf } from "./terms.js";

// Pages that answer come first: a list, a symptom of the finder or a name leads on to such a page.
const KINDS = { page: 1, report: 0.7, symptom: 0.6, list: 0.6, section: 0.5, name: 0.5 };

/** Read an index that `build.js` wrote; what comes back finds. */
export function load({ words, index, known }) {
  const spelled = new SearchableMap();
  for (const word of [...known, ...index.index.terms]) spelled.set(word, true);
  const terms = termsOf(words);
  const search = MiniSearch.loadJS({ ...index, index: fromColumns(index.index) }, options(terms));
  const boostDocument = (id, term, stored) => KINDS[stored.kind];

  /** The best places for what was typed, each with the sentence that fits best. */
  return function find(typed, most = 8) {
    const places = new Map(); // the best of each page: of its sections one
    for (const each of search.search(asked(typed, spelled), { boostDocument })) {
      const page = each.kind === "section" ? each.url.split("#")[0] : each.url;
      if (!places.has(page)) places.set(page, each);
    }
    return [...places.values()].slice(0, most).map((each) => shown(each, terms));
  };
}

/** A result as it is shown. */
function shown(result, terms) {
  const matched = new Set(result.terms);
  const fitting = (each) => new Set(terms(each).map(({ term }) => term).filter((term) => matched.has(term))).size;
  const [sentence = ""] = [...result.sentences].sort((a, b) => fitting(b) - fitting(a));
  const words = terms(sentence).filter((each) => matched.has(each.term)).map((each) => each.word);
  return { url: result.url, title: result.title, kind: result.kind, sentence, marked: [...new Set(words)] };
}

/** A query: what was typed and, for less, what words that the site has not may have been meant to be. */
function asked(typed, spelled) {
  const meant = spellings(typed).map((word) => nearest(word, spelled)).filter(Boolean);
  if (!meant.length) return typed;
  const boost = Object.fromEntries(Object.entries(FIELDS).map(([field, weight]) => [field, weight / 3]));
  return { combineWith: "OR", queries: [typed, { queries: [meant.join(" ")], boost }] };
}

/** The nearest word that the site has, one letter off or two; null for a word that it has. */
function nearest(word, spelled) {
  if (word.length < 5 || spelled.has(word)) return null;
  let found = null;
  let least = Infinity;
  for (const [each, [, distance]] of spelled.fuzzyGet(word, word.length < 9 ? 1 : 2)) {
    if (distance < least) [found, least] = [each, distance];
  }
  return found;
}
