/* From text to the terms that are searched: the index and what a reader types go through this alike. */
import { stemmer } from "stemmer";

// A name of code, whole: keras.layers.BatchNormalization, val_loss, model.eval(); or Chinese characters.
const PIECES = /[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*|\d+(?:\.\d+)?%?|[\u4e00-\u9fff]+/gi;
const NUMBER = /^\d/; // of numbers only those that a concept names
const CHINESE = /^[\u4e00-\u9fff]/;

/**
 * Make the function that takes a text to pieces.
 *
 * `words.concepts` has, of each concept, the spellings that mean it, of one word or several;
 * `words.silent` has the words that tell nothing on this site.
 */
export function termsOf(words) {
  const silent = new Set(words.silent);
  const meanings = new Map(); // of a spelling, its words joined by spaces: the concepts
  let longest = 1;
  for (const [concept, spellings] of Object.entries(words.concepts)) {
    for (const spelling of spellings) {
      const key = plain(spelling);
      longest = Math.max(longest, key.split(" ").length);
      meanings.set(key, [...(meanings.get(key) ?? []), `=${concept}`]);
    }
  }

  /** The terms of a text, each with the word of the text that it stands for. */
  return function terms(text) {
    const found = [];
    const run = []; // stems of the words so far, for spellings of several words
    for (const [piece] of text.normalize("NFKC").matchAll(PIECES)) {
      if (CHINESE.test(piece)) {
        for (const term of chinese(piece, meanings)) found.push({ term, word: piece });
        continue;
      }
      const parts = partsOf(piece);
      if (parts.length > 1) found.push({ term: piece.toLowerCase(), word: piece });
      for (const part of parts) {
        const stem = stemmer(part);
        run.push(stem);
        if (part.length > 1 && !NUMBER.test(part) && !silent.has(part) && !silent.has(stem)) found.push({ term: stem, word: piece });
        for (let length = 1; length <= Math.min(longest, run.length); length++) {
          for (const term of meanings.get(run.slice(-length).join(" ")) ?? []) found.push({ term, word: piece });
        }
      }
    }
    return found;
  };
}

/** The words of a text as they are written, in small letters: what a typed word may have been meant to be. */
export function spellings(text) {
  const pieces = [...text.normalize("NFKC").matchAll(PIECES)].map(([piece]) => piece);
  return pieces.filter((piece) => !CHINESE.test(piece) && !NUMBER.test(piece)).flatMap(partsOf);
}

/** A spelling as the words of a text are: stems, joined by spaces; Chinese as it is. */
function plain(spelling) {
  const pieces = [...spelling.normalize("NFKC").matchAll(PIECES)].map(([piece]) => piece);
  return pieces.flatMap((piece) => (CHINESE.test(piece) ? [piece] : partsOf(piece).map((part) => stemmer(part)))).join(" ");
}

/** A name taken apart at dots, underscores and capitals, in small letters. */
function partsOf(piece) {
  return piece
    .replace(/([a-z0-9])([A-Z][a-z]{2,})/g, "$1 $2") // BatchNorm2d; NaN and GPUs stay whole
    .replace(/([A-Z]{2,})([A-Z][a-z]{2,})/g, "$1 $2") // TPUStrategy
    .replace(/([a-z]{2,})([A-Z]{2,})/g, "$1 $2") // SyncBN
    .toLowerCase()
    .split(/[\s._]+/)
    .filter(Boolean)
    .map((part) => part.replace(/is(e|ed|es|er|ing|ation|ations)$/, "iz$1")); // British as American
}

/** Chinese is written without spaces: the longest known words, and pairs of characters between them. */
function chinese(piece, meanings) {
  const found = [];
  for (let at = 0; at < piece.length; ) {
    let length = Math.min(8, piece.length - at);
    while (length > 1 && !meanings.has(piece.slice(at, at + length))) length--;
    const word = piece.slice(at, at + length);
    found.push(...(meanings.get(word) ?? (at + 1 < piece.length ? [piece.slice(at, at + 2)] : [])));
    at += length;
  }
  return found;
}

// What counts how much: what a reader sees is said in titles, of threads too, and in symptoms; a body
// mentions much.
export const FIELDS = { title: 4, threads: 3, symptoms: 1.5, words: 6, lead: 2, headings: 2, names: 1.5, body: 1 };

/** How MiniSearch is to index and to search: the same in both. */
export function options(terms) {
  return {
    fields: Object.keys(FIELDS),
    storeFields: ["url", "title", "kind", "sentences"],
    tokenize: (text) => terms(text).map((each) => each.term),
    processTerm: (term) => term,
    searchOptions: {
      boost: FIELDS,
      combineWith: "OR",
      prefix: (term) => term.length > 3 && !term.startsWith("="),
      weights: { prefix: 0.4 },
    },
  };
}
