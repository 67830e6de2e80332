"use strict";
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  document.body.append(tip);
  let lit = null;

  const hide = () => {
    tip.classList.remove("shown");
    if (lit) lit.classList.remove("on");
    lit = null;
  };

  const show = (mark) => {
    hide();
    lit = mark;
    mark.classList.add("on");
    tip.textContent = mark.dataset.tip;
    place();
    tip.classList.add("shown");
  };

  const place = () => {
    const at = lit.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const left = at.left + at.width / 2 - size.width / 2;
    const above = at.top - size.height - 8;
    tip.style.left = `${Math.max(4, Math.min(left, innerWidth - size.width - 4))}px`;
    tip.style.top = `${above > 4 ? above : at.bottom + 8}px`;
  };

  // A pointer stays where it was; a mark that the keys chose takes its words along.
  const scrolled = () => {
    if (lit && document.activeElement.contains(lit) && document.activeElement !== document.body) place();
    else hide();
  };

  const marksOf = (plot) =>
    [...plot.querySelectorAll("svg .role-mark [data-tip]")]
      .map((mark) => ({ mark, box: mark.getBoundingClientRect() }))
      .filter(({ box }) => box.width || box.height)
      .sort((one, two) => one.box.left - two.box.left || one.box.top - two.box.top);

  const distance = (box, x, y) =>
    Math.hypot(Math.max(box.left - x, 0, x - box.right), Math.max(box.top - y, 0, y - box.bottom));

  for (const plot of document.querySelectorAll(".plot")) {
    plot.addEventListener("pointermove", (event) => {
      let best = null;
      let least = 20;
      for (const { mark, box } of marksOf(plot)) {
        // Of marks that lie over one another, the one whose centre is nearest.
        const centre = Math.hypot(box.left + box.width / 2 - event.clientX, box.top + box.height / 2 - event.clientY);
        const away = distance(box, event.clientX, event.clientY) + centre / 1000;
        if (away < least) [best, least] = [mark, away];
      }
      if (best && best !== lit) show(best);
      else if (!best) hide();
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      if (event.key === "Escape") hide();
      if (step === undefined) return;
      event.preventDefault();
      const marks = marksOf(plot).map(({ mark }) => mark);
      if (!marks.length) return;
      const here = marks.indexOf(lit);
      const next = here < 0 ? (step > 0 && step < Infinity ? 0 : step < 0 && step > -Infinity ? marks.length - 1 : step > 0 ? marks.length - 1 : 0) : here + step;
      show(marks[Math.max(0, Math.min(marks.length - 1, next))]);
    });
  }
  addEventListener("scroll", scrolled, { passive: true, capture: true });

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      const figure = button.closest("figure");
      for (const marks of figure.querySelectorAll(`svg [class*=" ${button.dataset.series}_"]`)) {
        marks.style.display = on ? "" : "none";
      }
    });
  }

  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
})();
