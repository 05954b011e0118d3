// Draws the figures of a report and runs its explorer of budgets. Text is only ever set as text.
(() => {
  'use strict';
  const host = [...document.querySelectorAll('[id^="plop-"]')].find((one) => !one.dataset.drawn);
  if (!host) return;
  host.dataset.drawn = 'yes';
  const root = host.shadowRoot ?? attach(host);
  const data = JSON.parse(host.querySelector('script[type="application/json"]').textContent);
  const number = new Intl.NumberFormat(host.lang);

  // A notebook inserts markup in a way that leaves the template where it is.
  function attach(element) {
    const template = element.querySelector('template');
    const made = element.attachShadow({mode: 'open'});
    made.append(template.content.cloneNode(true));
    template.remove();
    return made;
  }

  // ------------------------------------------------------------------------------ figures

  const CONFIG = {
    background: 'transparent',
    font: 'system-ui, sans-serif',
    padding: 4,
    axis: {
      domainColor: 'var(--line)', gridColor: 'var(--line)', tickColor: 'var(--line)',
      labelColor: 'var(--text)', titleColor: 'var(--text)', labelFontSize: 12, titleFontSize: 12,
      titleFontWeight: 'normal',
    },
    legend: {labelColor: 'var(--text)', titleColor: 'var(--text)', labelFontSize: 12,
             titleFontSize: 12, titleFontWeight: 'normal', titleLimit: 480},
    view: {stroke: null},
  };

  function expanded(spec) {
    const {matrix, lines} = spec.data ?? {};
    if (lines) {
      const values = lines.lines.flatMap(({panel, name, points}) => points.map(([at, value]) =>
        ({panel: lines.panels[panel], order: panel, name, at, value})));
      return {...spec, data: {values}};
    }
    if (!matrix) return spec;
    const values = [];
    matrix.layers.forEach((layer, row) => matrix.types.forEach((type, column) => {
      const value = matrix.values[row][column];
      if (value !== null) values.push({layer, type, value});
    }));
    return {...spec, data: {values}};
  }

  // A canvas does not know the variables of a style, so their present values are put in.
  function resolved(value) {
    if (typeof value === 'string') {
      const style = getComputedStyle(root.querySelector('main'));
      return value.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
    }
    if (Array.isArray(value)) return value.map(resolved);
    if (value === null || typeof value !== 'object') return value;
    return Object.fromEntries(Object.entries(value).map(([key, entry]) =>
      [key, key === 'data' ? entry : resolved(entry)]));
  }

  const tip = document.createElement('div');
  tip.className = 'tip';
  tip.hidden = true;
  root.querySelector('main').append(tip);

  function tooltip(_, event, __, value) {
    tip.hidden = value === null || value === undefined || value === '';
    if (tip.hidden) return;
    const lines = typeof value === 'object' ? Object.entries(value) : [['', value]];
    tip.replaceChildren(...lines.map(([key, entry]) => {
      const line = document.createElement('div');
      line.textContent = key ? `${key}: ${entry}` : String(entry);
      return line;
    }));
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, room))}px`;
    tip.style.top = `${event.clientY + 14}px`;
  }

  const views = new Map();

  const [AXIS, SPACE] = [50, 24];  // pixels before the first small drawing, and beside each

  function columnsOf(place, spec) {
    return Math.max(1, Math.floor((place.clientWidth - AXIS) / (spec.spec.width + SPACE)));
  }

  async function draw(place) {
    const {spec, canvas} = data.figures[place.dataset.figure];
    const fit = spec.width === 'container' ? {autosize: {type: 'fit-x', contains: 'padding'}} : {};
    const side = spec.facet ? {columns: columnsOf(place, spec)} : {};
    const full = {...expanded(spec), ...fit, ...side, config: CONFIG};
    if (spec.facet) place.dataset.columns = side.columns;
    views.get(place)?.finalize();
    place.replaceChildren();
    const renderer = canvas ? 'canvas' : 'svg';
    views.set(place, await plopVega.draw(place, canvas ? resolved(full) : full, renderer, tooltip));
  }

  const places = [...root.querySelectorAll('.plot')];

  // One after the other, so that the page can be read and scrolled meanwhile.
  async function drawAll() {
    for (const place of places) {
      await new Promise((next) => { setTimeout(next); });
      await draw(place);
    }
    host.dataset.drawn = 'done';
  }

  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => places
    .filter((place) => data.figures[place.dataset.figure].canvas).forEach(draw));
  addEventListener('resize', () => views.forEach((view, place) => {
    const {spec} = data.figures[place.dataset.figure];
    if (spec.width === 'container') {
      view.width(view.container().clientWidth).runAsync();
    } else if (spec.facet && columnsOf(place, spec) !== Number(place.dataset.columns)) {
      draw(place);
    }
  }));
  addEventListener('beforeprint', () => root.querySelectorAll('figure details, .fold')
    .forEach((details) => { details.open = true; }));
  root.querySelectorAll('nav a').forEach((link) => link.addEventListener('click', (event) => {
    event.preventDefault();
    const title = root.getElementById(`${link.dataset.section}-title`);
    title.scrollIntoView();
    title.focus({preventScroll: true});
  }));

  // ------------------------------------------------------------------------------ budgets

  const STEPS = 1000;

  function explore(place) {
    const held = data.explorers[place.dataset.explorer];
    const weights = held.weights.flatMap((runs, group) =>
      runs.flatMap(([price, most, count]) => Array.from({length: count}, () => ({price, most, group}))));
    const [slider, field] = place.querySelectorAll('input');
    const [output, code] = [place.querySelector('output'), place.querySelector('code')];
    const body = place.querySelector('tbody');
    const ratio = held.largest / held.smallest;
    const budgetAt = (step) => Math.round(held.smallest * ratio ** (step / STEPS));
    const stepAt = (budget) => Math.round(ratio > 1
      ? STEPS * Math.log(budget / held.smallest) / Math.log(ratio) : STEPS);

    function show(budget) {
      const ranks = Number.isSafeInteger(budget) ? plopAllocate(weights, budget) : null;
      slider.setAttribute('aria-valuetext', number.format(budget));
      field.setAttribute('aria-invalid', String(ranks === null));
      body.replaceChildren();
      if (ranks === null) {
        output.textContent = Number.isSafeInteger(budget)
          ? `${data.words.small} ${number.format(held.smallest)}` : data.words.whole;
        return;
      }
      const used = (index) => weights[index].price * ranks[index];
      const every = [...weights.keys()];
      held.types.forEach((type, group) => {
        const mine = every.filter((index) => weights[index].group === group);
        const found = mine.map((index) => ranks[index]);
        const [low, high] = [Math.min(...found), Math.max(...found)];
        const sum = mine.reduce((total, index) => total + used(index), 0);
        body.append(row(type, low === high ? `${low}` : `${low}–${high}`, number.format(sum)));
      });
      output.textContent = number.format(every.reduce((total, index) => total + used(index), 0));
      code.textContent = `${code.dataset.command} --budget ${budget}`;
    }

    function row(name, ...values) {
      const line = document.createElement('tr');
      const head = document.createElement('th');
      head.scope = 'row';
      head.textContent = name;
      line.append(head, ...values.map((value) => {
        const cell = document.createElement('td');
        cell.className = 'number';
        cell.textContent = value;
        return cell;
      }));
      return line;
    }

    slider.addEventListener('input', () => {
      field.value = String(budgetAt(Number(slider.value)));
      show(Number(field.value));
    });
    field.addEventListener('input', () => {
      const typed = field.value.replace(/[,_\s]/g, '');
      const budget = /^\d+$/.test(typed) ? Number(typed) : NaN;
      if (budget >= held.smallest) slider.value = String(Math.min(STEPS, stepAt(budget)));
      show(budget);
    });
    slider.value = String(stepAt(held.start));
    place.querySelectorAll('[hidden]').forEach((element) => { element.hidden = false; });
    show(held.start);
  }

  root.querySelectorAll('.explorer').forEach(explore);
  root.querySelectorAll('.static').forEach((element) => element.remove());
  drawAll();
})();
