/*! Menus of Bootstrap v5.3.3, copyright 2011-2024 The Bootstrap Authors, placed by Popper v2.11.8, copyright 2019
    Federico Zivolo; both of the MIT licence: https://github.com/twbs/bootstrap https://popper.js.org */
/* What the pages use of Bootstrap, which the theme brings whole: a menu that opens, and hints. */
import Dropdown from "bootstrap/js/src/dropdown.js";

/** The hint of the button for the menu at the side: as a title, which a browser shows by itself. */
class Tooltip {
  constructor(element, { title }) {
    this.element = element;
    this.title = title.trim();
  }

  show() {
    this.element.title = this.title;
  }

  hide() {
    this.element.removeAttribute("title");
  }
}

globalThis.bootstrap = { Dropdown, Tooltip };
