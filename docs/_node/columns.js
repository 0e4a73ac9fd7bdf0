/* The index of MiniSearch, written so that it compresses to half: its own form repeats the number of
   each field and document as a key, of which no two are alike. Here documents are told by their
   distance from the one before, and how often they have the term stands by itself: nearly always once. */

/** From `[[term, {field: {document: times}}]]` to three columns. */
export function toColumns(index) {
  const times = [];
  const places = index.map(([, fields]) =>
    Object.entries(fields).map(([field, documents]) => {
      const numbers = Object.keys(documents).map(Number); // in order, as the keys of all objects
      times.push(...numbers.map((number) => documents[number]));
      const distances = numbers.map((number, i) => number - (numbers[i - 1] ?? 0));
      return `${field}:${distances}`;
    }),
  );
  return {
    terms: index.map(([term]) => term),
    places: places.map((each) => each.join(";")).join("\n"),
    times,
  };
}

/** What `toColumns` was given. */
export function fromColumns({ terms, places, times }) {
  let at = 0;
  return places.split("\n").map((line, i) => {
    const fields = line.split(";").map((each) => {
      const [field, distances] = each.split(":");
      let number = 0;
      const documents = distances.split(",").map((distance) => {
        number += Number(distance);
        return [number, times[at++]];
      });
      return [field, Object.fromEntries(documents)];
    });
    return [terms[i], Object.fromEntries(fields)];
  });
}
