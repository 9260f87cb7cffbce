// An hour of figures as charts.

import { ask, h, look } from '/assets/kit.js';

const titles = {
  requests: 'Requests', failures: 'Failures', answer_time: 'Time to answer', in_flight: 'Requests in flight', connections: 'Connections', csrs: 'CSRs made',
  signatures: 'Signatures', refused_logins: 'Refused logins', keys_ready: 'Keys ready', key_wait: 'Wait for a key', commit_time: 'Time of a commit', memory: 'Memory',
};
const units = { 'per second': 'a second', 'in 10 s': 'in 10 s', s: '', bytes: '', '': '' };

/** write writes a figure with its unit. */
function write(value, unit) {
  if (value === null || value === undefined) return '–';
  const number = (n) => Number(n.toPrecision(3)).toLocaleString('en-GB');
  if (unit === 's') return value < 1 ? `${number(value * 1000)} ms` : `${number(value)} s`;
  if (unit === 'bytes') return `${number(Math.round(value / 1048576))} MB`;
  return `${number(value)} ${units[unit]}`.trim();
}

/** loadLibrary brings uPlot, which is a script of the old kind. */
function loadLibrary() {
  return new Promise((resolve, reject) => {
    if (globalThis.uPlot) {
      resolve(globalThis.uPlot);
      return;
    }
    document.head.append(h('script', { src: '/assets/uPlot.iife.min.js', onload: () => resolve(globalThis.uPlot), onerror: () => reject(new Error('The charts cannot be loaded. Load the page again.')) }));
  });
}

/** load shows the view. The library for charts comes with it. */
export function load(place) {
  let timer = 0;
  let ended = false;
  const charts = new Map();
  const grid = h('div', { class: 'charts' });
  const status = h('p', { class: 'muted', role: 'status' });
  place.replaceChildren(h('section', { class: 'card wide' }, h('header', null, h('h1', null, 'Load'), h('span', { class: 'muted' }, 'The last hour of this process, every 10 seconds. Gaps are times without it.')), status, grid));
  const style = h('link', { rel: 'stylesheet', href: '/assets/uPlot.min.css' });
  document.head.append(style);
  const library = loadLibrary();
  const scheme = matchMedia('(prefers-color-scheme: dark)');
  const sized = new ResizeObserver(() => { for (const c of charts.values()) c.plot.setSize({ width: c.place.clientWidth, height: 110 }); });

  function draw(uPlot, one, times) {
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const place = h('div', { class: 'plot', 'aria-hidden': 'true' });
    const now = h('strong');
    const box = h('figure', null, h('figcaption', null, titles[one.name] ?? one.name, now), place);
    grid.append(box);
    const axis = { stroke: () => colour('--muted'), grid: { stroke: () => colour('--line'), width: 1 }, ticks: { show: false }, font: '11px system-ui', size: 22 };
    const plot = new uPlot({
      width: Math.max(200, place.clientWidth), height: 110, legend: { show: false }, cursor: { y: false }, padding: [10, 22, 0, 0],
      scales: { y: { range: (u, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, space: 60, values: (u, splits) => splits.map((s) => new Date(s * 1000).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' })) },
        { ...axis, size: 54, space: 34, values: (u, splits) => splits.map((s) => write(s, one.unit).replace(/ (a second|in 10 s)$/, '')) }],
      series: [{}, { stroke: () => colour('--ink'), width: 1.5, spanGaps: false, points: { show: false } }],
    }, [times, one.points], place);
    charts.set(one.name, { plot, place, now, box });
    sized.observe(place);
  }

  function show(uPlot, answer) {
    const end = Math.floor(new Date(answer.end) / 1000);
    const times = answer.series[0].points.map((_, i) => end - (answer.series[0].points.length - 1 - i) * answer.interval);
    for (const one of answer.series) {
      if (!charts.has(one.name)) draw(uPlot, one, times);
      const c = charts.get(one.name);
      c.plot.setData([times, one.points]);
      const known = one.points.filter((p) => p !== null);
      c.now.textContent = write(known.at(-1), one.unit);
      c.box.setAttribute('aria-label', `${titles[one.name] ?? one.name}: ${write(known.at(-1), one.unit)} now, at most ${write(known.length ? Math.max(...known) : null, one.unit)} in the last hour`);
    }
  }

  async function read(first) {
    clearTimeout(timer);
    try {
      const uPlot = await library;
      const answer = first ? await ask('GET', '/console/series') : await look('/console/series');
      if (ended) return;
      status.textContent = '';
      show(uPlot, answer);
    } catch (e) {
      if (!ended) status.textContent = e.message;
    }
    if (!ended) timer = setTimeout(() => (document.hidden ? (timer = setTimeout(read, 10000)) : read()), 10000);
  }
  const redraw = () => { for (const c of charts.values()) c.plot.redraw(); };
  scheme.addEventListener('change', redraw);
  read(true);
  return { end: () => { ended = true; clearTimeout(timer); sized.disconnect(); scheme.removeEventListener('change', redraw); style.remove(); for (const c of charts.values()) c.plot.destroy(); } };
}
