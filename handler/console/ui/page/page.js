// The frame of the page: who is signed in, which view is shown, and the first view.

import { ask, checkList, chip, commonName, confirm, digest, eventTable, facts, files, h, keyName, leftIn, look, may, pemText, say, session, shown, signInForm, signOut, text, when } from '/assets/kit.js';

const main = document.getElementById('main');
const top = document.getElementById('top');
const notice = document.getElementById('notice');

const views = [
  { hash: '#/', name: 'Overview', may: () => true, show: overview },
  { hash: '#/csrs', name: 'NSX CSRs', may: () => may('policy_certificate:read'), load: () => import('/assets/objects.js').then((m) => m.csrs) },
  { hash: '#/certificates', name: 'NSX certificates', may: () => may('policy_certificate:read'), load: () => import('/assets/objects.js').then((m) => m.certificates) },
  { hash: '#/trail', name: 'Trail', may: () => may('audit:read'), load: () => import('/assets/trail.js').then((m) => m.trail) },
  { hash: '#/load', name: 'Load', may: () => true, load: () => import('/assets/load.js').then((m) => m.load) },
];

let state = null; // of the last answer
let shows = null; // the view that is on the screen: { hash, update, end }
let asked = 0;    // counts the views that were asked for
let polling = 0;

const pollInterval = 15000;
const idleAfter = 10 * 60000; // a page that nobody uses keeps no session alive
let used = Date.now();
for (const event of ['pointerdown', 'keydown', 'wheel', 'touchstart']) addEventListener(event, () => { used = Date.now(); }, { passive: true });

/** frame draws the bar at the top. */
function frame() {
  document.title = state ? `attestcsr – ${state.hostname}` : 'attestcsr';
  if (!state) {
    top.replaceChildren(h('span', { class: 'name' }, 'attestcsr'));
    return;
  }
  const here = views.find((v) => v.hash === location.hash) ?? views[0];
  top.replaceChildren(
    h('span', { class: 'name' }, 'attestcsr', h('span', { class: 'host' }, shown(state.hostname))),
    h('nav', { 'aria-label': 'Views' }, views.filter((v) => v.may()).map((v) => h('a', { href: v.hash, 'aria-current': v === here ? 'page' : undefined }, v.name))),
    h('span', { class: 'who' }, h('span', { class: 'user', title: 'Signed in' }, shown(session.user)), h('button', { type: 'button', onclick: leave }, 'Sign out')));
}

async function leave() {
  try {
    await signOut();
  } catch (e) {
    if (e.status !== 401) {
      say(e.message);
      return;
    }
  }
  end();
  welcome();
}

/** end forgets what was shown. */
function end() {
  clearTimeout(polling);
  shows?.end?.();
  shows = null;
  state = null;
  session.user = '';
  session.privileges = [];
  for (const box of document.querySelectorAll('dialog')) box.close();
}

/** welcome asks who is there. */
function welcome() {
  frame();
  tell(null);
  const form = signInForm(() => {});
  main.replaceChildren(h('section', { class: 'card sign-in' }, h('h1', null, 'Sign in'),
    h('p', { class: 'muted' }, 'Keys and certificates of this host.'), form,
    h('p', { class: 'muted' }, 'The same user and password as for the APIs. ', h('a', { href: '/apiexplorer' }, 'Try the APIs'), '.')));
  form.elements.user.focus();
}

/** tell shows a sentence over the view, or none. */
function tell(content) {
  notice.replaceChildren(...(content ?? []));
  notice.hidden = !content;
}

/** refresh reads the state, and has the view show it. */
async function refresh() {
  clearTimeout(polling);
  try {
    const next = await look('/console/state');
    state = next;
    session.user = next.user;
    session.privileges = next.privileges;
    tell(null);
  } catch (e) {
    if (!state && e.status === 401) {
      welcome();
      return;
    }
    if (e.status === 401) {
      tell(['Your session has ended. ', h('button', { type: 'button', onclick: again }, 'Sign in')]);
      return;
    }
    tell([h('strong', null, 'This may be out of date. '), e.message]);
    polling = setTimeout(poll, pollInterval);
    if (!state) {
      frame();
      main.replaceChildren(h('p', { class: 'empty' }, e.message, ' ', h('button', { type: 'button', onclick: refresh }, 'Try again')));
    }
    return;
  }
  polling = setTimeout(poll, pollInterval);
  await show();
}

async function again() {
  await ask('GET', '/console/state').catch(() => {});
}

function poll() {
  if (document.hidden || Date.now() - used > idleAfter) {
    polling = setTimeout(poll, pollInterval);
    return;
  }
  refresh();
}

/** show brings the view of the address to the screen, or gives it the new state. */
async function show() {
  const view = views.find((v) => v.hash === location.hash && v.may()) ?? views[0];
  frame();
  if (shows?.hash === view.hash && shows.user === session.user) {
    shows.update?.(state);
    return;
  }
  const mine = ++asked;
  shows?.end?.();
  shows = null;
  try {
    view.show ??= await view.load();
  } catch {
    main.replaceChildren(h('p', { class: 'empty' }, 'This part of the page cannot be loaded. ', h('button', { type: 'button', onclick: () => location.reload() }, 'Load the page again')));
    return;
  }
  if (mine !== asked) return; // another view was asked for meanwhile
  shows = { hash: view.hash, user: session.user, ...view.show(main, state, refresh) };
}

// ---- the first view --------------------------------------------------------------

const csrPath = '/api/esx/attestation/certificate/csr';

/** overview shows the view in a place. update gets each new state. */
function overview(place, first, refresh) {
  const parts = { installed: h('section', { class: 'card', 'aria-label': 'Attestation certificate' }), pending: h('section', { class: 'card', 'aria-label': 'Pending CSR' }),
    service: h('section', { class: 'card', 'aria-label': 'Service' }), published: h('section', { class: 'card', 'aria-label': 'Published keys' }),
    last: h('section', { class: 'card wide', 'aria-label': 'What happened last' }) };
  const seen = {};
  place.replaceChildren(h('h1', { class: 'unseen' }, 'Overview'), h('div', { class: 'columns' },
    h('div', { class: 'column' }, parts.installed, parts.pending), h('div', { class: 'column' }, parts.service, parts.published), may('audit:read') ? parts.last : null));

  /** redraw draws a part anew when what it shows has changed: focus, selection and what is unfolded stay. */
  function redraw(name, what, draw) {
    const text = JSON.stringify(what);
    if (seen[name] === text) return;
    seen[name] = text;
    const open = [...parts[name].querySelectorAll('details[open]')].map((d) => d.dataset.keep);
    const focused = parts[name].contains(document.activeElement) ? document.activeElement.textContent : null;
    parts[name].replaceChildren(...draw().flat().filter(Boolean));
    for (const d of parts[name].querySelectorAll('details')) d.open = open.includes(d.dataset.keep);
    if (focused) [...parts[name].querySelectorAll('button, a, summary')].find((b) => b.textContent === focused)?.focus();
  }

  function update(state) {
    const unreadable = state.unreadable ?? [];
    redraw('installed', [state.installed, state.pending?.sha256, unreadable], () => installedCard(state, unreadable, refresh));
    redraw('pending', [state.pending, unreadable], () => pendingCard(state, unreadable, refresh));
    redraw('service', [state.parts, state.pool, state.counts, state.version, state.started], () => serviceCard(state));
    redraw('published', [state.publishing, state.published], () => publishedCard(state));
    parts.installed.hidden = parts.pending.hidden = !may('SECURITY_READ');
    if (state.last) {
      redraw('last', state.last, () => [h('header', null, h('h2', null, 'What happened last'), h('a', { href: '#/trail' }, 'The whole trail')),
        state.last.length > 0 ? eventTable(state.last) : h('p', { class: 'empty' }, 'Nothing has happened yet.')]);
    }
  }

  let current = first;
  const stop = new AbortController();
  if (may('SECURITY_MGMT')) takeDrops(stop.signal, async (list) => (await attest()).setCertificate(current, refresh, list));
  update(first);
  return { update: (state) => { current = state; update(state); }, end: () => stop.abort() };
}

const attest = () => import('/assets/attest.js');

/** takeDrops takes files that are dropped anywhere on the view. A dialog takes its own. */
function takeDrops(signal, take) {
  addEventListener('dragover', (event) => { if (event.dataTransfer?.types.includes('Files')) event.preventDefault(); }, { signal });
  addEventListener('drop', (event) => {
    if (!event.dataTransfer?.files.length || event.defaultPrevented) return;
    event.preventDefault();
    if (!document.querySelector('dialog[open]')) take(event.dataTransfer.files);
  }, { signal });
}

/** opens is a button that opens a dialog whose part of the page is loaded then. */
function opens(label, open, cls = '') {
  return h('button', { type: 'button', class: cls || undefined, onclick: () => attest().then(open, () => say('This part of the page cannot be loaded. Load the page again.')) }, label);
}

const cannotRead = (what) => [h('p', { class: 'problem' }, `The service cannot read ${what}. Its log says why; “attestcsr store check” says more.`)];

function installedCard(state, unreadable, refresh) {
  const manage = may('SECURITY_MGMT');
  const head = (mark) => h('header', null, h('h2', null, 'Attestation certificate'), mark);
  const set = manage && opens('Set a certificate', (m) => m.setCertificate(state, refresh), state.pending ? 'primary' : '');
  const held = state.installed;
  if (!held) return [head(chip('bad', 'unreadable')), ...cannotRead('the installed certificate'), h('div', { class: 'buttons' }, set)];
  const leaf = held.certificates[0] ?? {};
  const left = leftIn(leaf.not_after);
  const failed = held.checks.some((c) => c.result === 'failed');
  const warned = held.checks.some((c) => c.result === 'warning');
  const own = leaf.subject === leaf.issuer;
  const verdict = failed ? ['bad', 'not good'] : own ? ['warn', 'self-signed'] : left.tone !== 'good' ? [left.tone, left.words] : warned ? ['warn', 'good, with warnings'] : ['good', 'good'];
  return [head(chip(...verdict)),
    h('p', { class: 'subject' }, text(commonName(leaf.subject))),
    own && !failed && h('p', { class: 'muted' }, 'The service made this one at its first start. Make a CSR, have your CA sign it, and set the certificate here.'),
    lifetime(leaf, left),
    facts([['Subject', text(leaf.subject)], ['Issuer', text(leaf.issuer)], ['Names', leaf.names?.length ? text(leaf.names.join(', ')) : null],
      ['Key', keyName(leaf.key_algorithm, leaf.key_bits)], ['Set', when(held.since)], ['SHA-256', digest(leaf.sha256)]]),
    held.staged && h('div', { class: 'inset' }, h('h3', null, 'Staged'),
      h('p', null, 'The next certificate waits, so that verifiers know its key before it signs. It becomes active ', when(held.staged.active, 'ago'), '.'),
      facts([['Staged since', when(held.staged.since)], ['Active from', when(held.staged.active)], ['SHA-256', digest(held.staged.sha256)]])),
    h('details', { 'data-keep': 'checks' }, h('summary', null, 'Checks ', summaryOf(held.checks)), checkList(held.checks)),
    h('details', { 'data-keep': 'chain' }, h('summary', null, `Chain of ${held.certificates.length}`),
      h('ol', { class: 'chain' }, held.certificates.map((c) => h('li', null, text(commonName(c.subject)),
        h('span', { class: 'muted' }, ' issued by ', text(commonName(c.issuer)), ', until ', when(c.not_after, 'day')))))),
    pemText(held.certificate),
    h('div', { class: 'buttons' }, set, ...files('The certificate', held.certificate, state.hostname, 'pem', 'application/pkix-cert').children)];
}

/** summaryOf counts the results that matter. */
function summaryOf(checks) {
  const count = (result) => checks.filter((c) => c.result === result).length;
  return h('span', { class: 'muted' }, [['failed', 'failed'], ['warning', 'with a warning'], ['passed', 'passed']].filter(([r]) => count(r) > 0).map(([r, words]) => `${count(r)} ${words}`).join(', '));
}

/** lifetime is a bar of how much of a certificate's time is left. */
function lifetime(leaf, left) {
  const from = new Date(leaf.not_before), until = new Date(leaf.not_after);
  const part = Math.min(1, Math.max(0, (until - Date.now()) / (until - from)));
  const fill = h('span', { class: left.tone });
  fill.style.width = `${(part * 100).toFixed(1)}%`;
  return h('div', { class: 'lifetime' }, h('div', { class: 'bar', role: 'img', 'aria-label': `${Math.round(part * 100)} % of its time is left` }, fill),
    h('p', null, h('strong', { class: left.tone }, left.words), h('span', { class: 'muted' }, ' ', when(leaf.not_before, 'day'), ' to ', when(leaf.not_after, 'day'))));
}

function pendingCard(state, unreadable, refresh) {
  const manage = may('SECURITY_MGMT');
  const make = manage && opens(state.pending ? 'Replace it by a new CSR' : 'New CSR', (m) => m.newCSR(state, refresh), state.pending ? '' : 'primary');
  const p = state.pending;
  if (!p && unreadable.includes('pending')) return [h('header', null, h('h2', null, 'Pending CSR'), chip('bad', 'unreadable')), ...cannotRead('the pending CSR'), h('div', { class: 'buttons' }, make)];
  if (!p) {
    return [h('header', null, h('h2', null, 'Pending CSR'), chip('none', 'none')),
      h('p', { class: 'empty' }, manage ? 'No CSR is pending. Make one to get a new certificate; the installed one stays in use until you set the new one.' : 'No CSR is pending.'),
      h('div', { class: 'buttons' }, make)];
  }
  const remove = manage && h('button', { type: 'button', class: 'danger', onclick: () => confirm('Delete the pending CSR?', [
    'Its private key is destroyed. A certificate that a CA issues for it cannot be set any more.'], 'Delete it', async () => {
    await ask('DELETE', csrPath);
    say('The pending CSR is deleted.');
    refresh();
  }) }, 'Delete');
  return [h('header', null, h('h2', null, 'Pending CSR'), chip('warn', 'waits for its certificate')),
    h('p', { class: 'subject' }, text(commonName(p.subject))),
    facts([['Subject', text(p.subject)], ['Names', p.names?.length ? text(p.names.join(', ')) : null], ['Key', keyName(p.key_algorithm, p.key_bits)],
      ['Made', h('span', null, when(p.created, 'ago'), ' by ', text(p.created_by))], ['SHA-256', digest(p.sha256)]]),
    pemText(p.csr),
    h('div', { class: 'buttons' }, ...files('The CSR', p.csr, `${state.hostname}-${p.sha256.slice(0, 8)}`, 'csr', 'application/pkcs10').children, make, remove)];
}

const partNames = { store: ['Store', 'takes changes'], trail: ['Audit trail', 'is written'], custody: ['Key custody', 'keys open'], pool: ['Key pool', 'is filled'] };
const partFails = { store: 'takes no changes', trail: 'cannot be written', custody: 'keys do not open', pool: 'is being filled' };

function serviceCard(state) {
  const bad = state.parts.filter((p) => !p.ok && p.name !== 'pool').length;
  const filling = state.parts.some((p) => !p.ok && p.name === 'pool');
  return [h('header', null, h('h2', null, 'Service'), bad > 0 ? chip('bad', 'not well') : filling ? chip('warn', 'well, makes keys') : chip('good', 'well')),
    h('ul', { class: 'checks' }, state.parts.map((p) => h('li', { class: p.ok ? 'good' : p.name === 'pool' ? 'warn' : 'bad' }, h('span', { class: 'mark', 'aria-hidden': 'true' }),
      h('span', null, partNames[p.name]?.[0] ?? p.name, h('span', { class: 'word' }, ` – ${p.ok ? partNames[p.name]?.[1] : partFails[p.name]}`), p.why && h('span', { class: 'why' }, text(p.why)))))),
    facts([
      ...state.pool.map((s) => [`Keys of ${s.bits} bits`, `${s.ready} of ${s.target} ready`]),
      ['NSX CSRs', number(state.counts.csrs)], ['NSX certificates', number(state.counts.certificates)],
      ['Lines that wait', state.counts.waiting_lines > 100 ? number(state.counts.waiting_lines) : null],
      ['Sessions', number(state.counts.sessions)], ['Runs since', when(state.started)], ['Version', text(state.version)]])];
}

const number = (n) => (n === undefined ? null : n.toLocaleString('en-GB'));

const keyStates = { pending: ['warn', 'pending'], staged: ['warn', 'staged'], installed: ['good', 'signs'], named: ['good', 'NSX'], retired: ['none', 'retired'] };

function publishedCard(state) {
  const head = h('header', null, h('h2', null, 'Published keys'), state.publishing && h('a', { href: '/.well-known/jwks.json' }, 'jwks.json'));
  if (!state.publishing) return [head, h('p', { class: 'empty' }, 'No keys are published. Verifiers find them at /.well-known/jwks.json once the settings have publish.enabled: true.')];
  return [head, h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Published keys' }, h('table', null,
    h('thead', null, h('tr', null, ['State', 'Key', 'Since', 'Id'].map((t) => h('th', { scope: 'col' }, t)))),
    h('tbody', null, state.published.map((k) => h('tr', null, h('td', null, chip(...(keyStates[k.state] ?? ['none', k.state]))), h('td', null, keyName(k.key_algorithm, k.key_bits)),
      h('td', null, when(k.since, 'ago')), h('td', null, h('code', { title: k.kid }, `${k.kid.slice(0, 10)}…`)))))))];
}

addEventListener('hashchange', async () => {
  if (!state || !location.hash.startsWith('#/')) return; // the link to the content is no view
  await show();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
});
document.addEventListener('visibilitychange', () => { if (state && !document.hidden) poll(); });
session.onChange = refresh;
refresh();
