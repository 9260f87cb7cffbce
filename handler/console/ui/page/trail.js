// The audit trail: who did what, and when, the newest line first.

import { ask, eventTable, h, when } from '/assets/kit.js';

const names = [['who', 'Who', 'user or address'], ['what', 'What', 'such as csr.create or refusal'], ['object', 'Object', 'slot or subject']];

/** trail shows the view. */
export function trail(place) {
  const inputs = Object.fromEntries(names.map(([name, , hint]) => [name, h('input', { type: 'search', name, placeholder: hint, maxlength: 255, spellcheck: 'false', autocapitalize: 'none' })]));
  const table = eventTable([]);
  const body = table.querySelector('tbody');
  const count = h('p', { class: 'muted', role: 'status' });
  const none = h('p', { class: 'empty', hidden: true }, 'No line says so. Take away a filter, or search further back.');
  const older = h('button', { type: 'button', hidden: true, onclick: () => read(true) }, 'Older lines');
  const form = h('form', { class: 'tools', role: 'search', 'aria-label': 'Filter the trail' }, names.map(([name, label]) => h('label', null, label, inputs[name])), h('button', { type: 'submit' }, 'Filter'), count);
  let cursor = '';
  let request = 0;
  let lines = 0;
  let last = '';

  async function read(more) {
    const mine = ++request;
    const parameters = new URLSearchParams();
    for (const [name, input] of Object.entries(inputs)) if (input.value.trim() !== '') parameters.set(name, input.value.trim());
    if (more) parameters.set('cursor', cursor);
    older.disabled = true;
    let page;
    try {
      page = await ask('GET', `/console/trail?${parameters}`);
    } catch (e) {
      if (mine === request) count.textContent = e.message;
      return;
    } finally {
      older.disabled = false;
    }
    if (mine !== request) return;
    const added = eventTable(page.lines).querySelectorAll('tbody tr');
    if (more) body.append(...added);
    else body.replaceChildren(...added);
    lines = (more ? lines : 0) + page.lines.length;
    last = page.lines.at(-1)?.time ?? (more ? last : '');
    cursor = page.cursor ?? '';
    older.hidden = !cursor;
    older.textContent = page.lines.length === 0 ? 'Search further back' : 'Older lines';
    none.hidden = lines > 0;
    count.replaceChildren(lines === 1 ? '1 line' : `${lines} lines`, ...(last ? [', back to ', when(last)] : []), cursor ? '' : ', and no more', page.unreadable ? ` · ${page.unreadable} cannot be read: run “attestcsr audit verify”` : '');
  }

  form.addEventListener('submit', (event) => { event.preventDefault(); read(false); });
  for (const input of Object.values(inputs)) input.addEventListener('search', () => { if (input.value === '') read(false); });
  place.replaceChildren(h('section', { class: 'card wide' }, h('header', null, h('h1', null, 'Trail'), h('span', { class: 'muted' }, 'A line is here a second after what it tells. “attestcsr audit verify” says whether they are whole.')),
    form, table, none, h('div', { class: 'buttons pages' }, older)));
  read(false);
  return { end: () => { request++; } };
}
