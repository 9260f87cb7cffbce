// What every part of the page uses: elements, requests, the session, dates, dialogs.
// Text of the service becomes a text node, and never HTML.

/** h makes an element. Members of props are listeners (onclick), properties, or attributes. */
export function h(tag, props, ...children) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) el.addEventListener(name.slice(2), value);
    else if (name === 'class') el.className = value;
    else el.setAttribute(name, value === true ? '' : value);
  }
  el.append(...children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== false));
  return el;
}

const unseen = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;

/** shown is text that somebody stored, with characters that cannot be seen, or that turn others around, written out. */
export function shown(text) {
  return String(text ?? '').replace(unseen, (c) => '\\u' + c.codePointAt(0).toString(16).padStart(4, '0'));
}

/** text is an element with such text, kept apart from what is around it. */
export function text(value, cls = '') {
  return h('bdi', { class: cls || undefined }, shown(value));
}

// ---- dates -----------------------------------------------------------------

const day = new Intl.DateTimeFormat('en-GB', { dateStyle: 'long' });
const minute = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'short' });
const second = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });
const ago = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

/** relative says how far away a time is. */
export function relative(time, now = Date.now()) {
  const seconds = (time - now) / 1000;
  for (const [unit, size] of [['year', 31557600], ['month', 2629800], ['day', 86400], ['hour', 3600], ['minute', 60]]) {
    if (Math.abs(seconds) >= size) return ago.format(Math.trunc(seconds / size), unit);
  }
  return Math.abs(seconds) < 5 ? 'just now' : ago.format(Math.trunc(seconds), 'second');
}

/** when is a time as people write it: 'day', 'minute', 'second' or 'ago'. The exact time is its title. */
export function when(iso, style = 'minute') {
  const time = new Date(iso);
  if (!iso || Number.isNaN(time.getTime())) return h('span', null, '–');
  const written = { day: () => day.format(time), minute: () => minute.format(time), second: () => second.format(time), ago: () => relative(time) }[style]();
  return h('time', { datetime: iso, title: time.toISOString().replace('T', ' ').replace('.000', '').replace('Z', ' UTC'), 'data-ago': style === 'ago' }, written);
}

/** daysLeft is in whole days; negative: it has ended. */
export function daysLeft(iso) {
  return Math.floor((new Date(iso) - Date.now()) / 86400000);
}

/** leftIn says how much is left, in words, and what that means. */
export function leftIn(iso) {
  const days = daysLeft(iso);
  if (new Date(iso) < Date.now()) return { words: days < -1 ? `ended ${-days - 1} days ago` : 'has ended', tone: 'bad' };
  if (days === 0) return { words: 'ends within a day', tone: 'bad' };
  return { words: `${days.toLocaleString('en-GB')} ${days === 1 ? 'day' : 'days'} left`, tone: days < 8 ? 'bad' : days < 31 ? 'warn' : 'good' };
}

setInterval(() => {
  for (const el of document.querySelectorAll('time[data-ago]')) el.textContent = relative(new Date(el.dateTime));
}, 20000);

// ---- requests and the session ------------------------------------------------

/** session is who is signed in. onChange is called after somebody signed in. */
export const session = { user: '', privileges: [], onChange: () => {} };

/** may reports whether the caller holds a privilege, itself or through one that includes it. */
export function may(privilege) {
  const included = { SECURITY_READ: 'SECURITY_MGMT', 'policy_certificate:read': 'policy_certificate:crud' }[privilege];
  return session.privileges.includes(privilege) || Boolean(included && session.privileges.includes(included));
}

/** Failed is an answer that is an error. fields has a sentence for each member of the body that is refused. */
export class Failed extends Error {
  constructor(status, sentences, fields) {
    super(sentences.join(' '));
    Object.assign(this, { status, sentences, fields });
  }
}

/** send makes a request of this origin. */
async function send(method, path, body) {
  const headers = { 'X-Attestcsr-Console': '1' };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: 'no-store', credentials: 'same-origin' });
  } catch {
    throw new Failed(0, ['The service cannot be reached. Look whether it runs, and try again.'], {});
  }
  const content = await answer.text();
  let value = null;
  try {
    value = content === '' ? null : JSON.parse(content);
  } catch {
    value = content; // a PEM file
  }
  if (!answer.ok) throw failure(answer, value);
  return value;
}

/** failure reads the error documents of ESX and of NSX. */
function failure(answer, value) {
  const sentences = [];
  const fields = {};
  for (const m of value?.messages ?? []) {
    sentences.push(m.default_message);
    if (m.args?.length > 0) (fields[m.args[0]] ??= []).push(m.default_message);
  }
  const listed = /^Field level validation errors: \{(.*)\}$/s.exec(value?.error_message ?? '');
  for (const sentence of listed ? listed[1].split('; ') : []) {
    sentences.push(sentence);
    (fields[/^(subject\.attributes \w+|[\w.]+)/.exec(sentence)?.[1]] ??= []).push(sentence);
  }
  if (value?.error_message && !listed) sentences.push(value.error_message);
  if (value?.error_code === 500127) fields.id = ['An object with this id exists already.'];
  if (value?.data?.request_id) sentences.push(`Request ${value.data.request_id}.`);
  if (sentences.length === 0) sentences.push(`The service answered ${answer.status}.`);
  return new Failed(answer.status, sentences, fields);
}

let signingIn = null; // a promise while the dialog is open

/** ask makes a request. Where the session has ended, it has the user sign in, and goes on: no form is lost. */
export async function ask(method, path, body) {
  try {
    return await send(method, path, body);
  } catch (e) {
    if (e.status !== 401) throw e;
  }
  const before = session.user;
  signingIn ??= signInAgain().finally(() => { signingIn = null; });
  await signingIn;
  if (before !== '' && session.user !== before && method !== 'GET') {
    throw new Failed(401, [`You are ${session.user} now. Look at it once more, and send it again.`], {});
  }
  return send(method, path, body);
}

/** look is a request that nobody waits for. It does not ask for a password. */
export async function look(path) {
  return send('GET', path);
}

/** signIn begins a session. The password goes to the service and nowhere else. */
export async function signIn(user, password) {
  const who = await send('POST', '/console/session', { user, password });
  session.user = who.user;
  session.privileges = who.privileges;
  session.onChange();
}

export async function signOut() {
  await send('DELETE', '/console/session');
}

/** signInForm is the form for it. done is called when somebody is signed in. */
export function signInForm(done, user = '') {
  const problem = h('p', { class: 'problem', role: 'alert', id: 'sign-in-problem' });
  const button = h('button', { class: 'primary', type: 'submit' }, 'Sign in');
  const name = h('input', { name: 'user', autocomplete: 'username', required: true, autocapitalize: 'none', spellcheck: 'false', maxlength: 255 });
  const password = h('input', { name: 'password', type: 'password', autocomplete: 'current-password', required: true, 'aria-describedby': 'sign-in-problem' });
  name.value = user;
  const form = h('form', { class: 'stack', 'aria-label': 'Sign in' },
    h('label', null, 'User', name), h('label', null, 'Password', password), problem, h('div', { class: 'buttons' }, button));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    problem.textContent = '';
    busy(button, true);
    try {
      await signIn(name.value, password.value);
      password.value = '';
      done();
    } catch (e) {
      problem.textContent = e.status === 401 ? 'User or password is wrong.' : e.status === 503 ? 'Too many attempts from here. Wait a moment, and try again.' : e.message;
      password.select();
      password.focus();
    } finally {
      busy(button, false);
    }
  });
  return form;
}

function signInAgain() {
  return new Promise((resolve, reject) => {
    let done = false;
    const form = signInForm(() => { done = true; box.close(); }, session.user);
    const box = dialog('Sign in again', h('p', null, 'Your session has ended. Nothing that you wrote is lost: sign in, and it goes on.'), form);
    box.addEventListener('close', () => (done ? resolve() : reject(new Failed(401, ['You are not signed in. Nothing was sent.'], {}))));
    (session.user === '' ? form.elements.user : form.elements.password).focus();
  });
}

// ---- parts of a page -----------------------------------------------------------

/** busy shows that a button's request is under way. */
export function busy(button, is) {
  button.disabled = is;
  button.setAttribute('aria-busy', is);
}

let titles = 0;

/** dialog opens a modal dialog, which the Escape key closes. */
export function dialog(title, ...content) {
  const id = `dialog-${++titles}`;
  const close = h('button', { type: 'button', class: 'quiet close', 'aria-label': 'Close', onclick: () => box.close() }, '×');
  const box = h('dialog', { 'aria-labelledby': id }, h('header', null, h('h2', { id }, title), close), h('div', { class: 'inside' }, ...content));
  box.addEventListener('close', () => box.remove());
  document.body.append(box);
  box.showModal();
  return box;
}

/** confirm asks before something is destroyed. The safe answer has the focus. */
export function confirm(title, sentences, verb, act) {
  const problem = h('p', { class: 'problem', role: 'alert' });
  const keep = h('button', { type: 'button', onclick: () => box.close() }, 'Keep it');
  const go = h('button', { type: 'button', class: 'danger' }, verb);
  go.addEventListener('click', async () => {
    busy(go, true);
    problem.textContent = '';
    try {
      await act();
      box.close();
    } catch (e) {
      problem.textContent = e.message;
      busy(go, false);
    }
  });
  const box = dialog(title, sentences.map((s) => h('p', null, s)), problem, h('div', { class: 'buttons' }, go, keep));
  keep.focus();
  return box;
}

/** say tells what has happened, to eyes and to screen readers. */
export function say(sentence) {
  const place = document.getElementById('said');
  place.textContent = sentence;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { place.textContent = ''; }, 6000);
}

/** copyButton copies a text. */
export function copyButton(what, value) {
  return h('button', { type: 'button', onclick: async () => {
    try {
      await navigator.clipboard.writeText(value);
      say(`${what} is copied.`);
    } catch {
      say('The browser does not allow that. Select the text, and copy it.');
    }
  } }, 'Copy');
}

/** download saves bytes or a text as a file. */
export function download(name, content, type) {
  const link = h('a', { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** derOf returns what the first block of a PEM text holds. */
export function derOf(pem) {
  const body = /-----BEGIN [^-]+-----([^-]+)-----END/.exec(pem)?.[1] ?? '';
  return Uint8Array.from(atob(body.replace(/\s/g, '')), (c) => c.charCodeAt(0));
}

/** files are buttons that copy and save a PEM text. */
export function files(what, pem, name, extension, type) {
  return h('div', { class: 'buttons' }, copyButton(what, pem),
    h('button', { type: 'button', onclick: () => download(`${name}.${extension}`, pem, 'application/x-pem-file') }, `Save .${extension}`),
    h('button', { type: 'button', onclick: () => download(`${name}.der`, derOf(pem), type) }, 'Save .der'));
}

/** pemText shows a PEM text, folded. */
export function pemText(pem) {
  return h('details', { 'data-keep': 'pem' }, h('summary', null, 'PEM text'), h('pre', { class: 'pem', tabindex: 0 }, pem));
}

/** chip is a word with a meaning. */
export function chip(tone, word) {
  return h('span', { class: `chip ${tone}` }, word);
}

/** facts is a list of names and values. Values that are not there are left out. */
export function facts(pairs) {
  return h('dl', { class: 'facts' }, pairs.filter(([, v]) => v !== undefined && v !== null && v !== '').map(([k, v]) => h('div', null, h('dt', null, k), h('dd', null, v))));
}

/** digest is a digest in groups, which can be compared by eye. */
export function digest(hex) {
  return h('code', { class: 'digest' }, shown(hex).replace(/(.{8})(?=.)/g, '$1 '));
}

/** keyName is an algorithm with its size. */
export function keyName(algorithm, bits) {
  return algorithm === 'ECDSA' ? `EC P-${bits}` : `${algorithm} ${bits || ''}`.trim();
}

const checkNames = {
  encoding: 'Can be read', algorithms: 'Algorithms are strong', order: 'Chain is in order', validity: 'Is valid now', use: 'May be used so',
  anchor: 'Leads to a trust anchor', key: 'Is for a key of this service', names: 'Has the names that were asked for', renewal: 'Ends later than the one before',
};
const results = { passed: ['good', 'passed'], failed: ['bad', 'failed'], warning: ['warn', 'warning'], not_made: ['none', 'not made'] };

/** checkList lists the results of checks. */
export function checkList(checks) {
  return h('ul', { class: 'checks' }, checks.map((c) => {
    const [tone, word] = results[c.result] ?? ['none', c.result];
    return h('li', { class: tone }, h('span', { class: 'mark', 'aria-hidden': 'true' }), h('span', null, checkNames[c.check] ?? c.check, h('span', { class: 'word' }, ` – ${word}`),
      c.messages.map((m) => h('span', { class: 'why' }, text(m.default_message)))));
  }));
}

/** commonName is the CN of a name as RFC 4514 writes it, or all of the name. */
export function commonName(name) {
  const found = /(?:^|,)CN=((?:\\.|[^,\\+])*)/.exec(name ?? '');
  return found ? found[1].replace(/\\([,+"\\<>;=# ])/g, '$1') : name || '–';
}

// ---- lines of the audit trail -----------------------------------------------------

const outcomes = { committed: ['good', 'done'], unauthorized: ['bad', 'not allowed'], unauthenticated: ['bad', 'wrong password'] };

/** happened says in words what a line is about. */
function happened(l) {
  return l.operation ?? l.route ?? { begin: 'the trail begins', broken: 'the trail goes on after damage' }[l.event] ?? l.event;
}

/** eventTable lists lines of the trail. */
export function eventTable(lines) {
  return h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Lines of the trail' }, h('table', { class: 'trail' },
    h('thead', null, h('tr', null, ['When', 'Who', 'What', 'Object', 'More'].map((t) => h('th', { scope: 'col' }, t)))),
    h('tbody', null, lines.map(eventRow))));
}

function eventRow(l) {
  const outcome = outcomes[l.outcome] ?? (l.event === 'refusal' ? ['bad', l.outcome ?? 'refused'] : l.outcome ? ['none', l.outcome] : null);
  const from = l.address || l.peer;
  const more = [l.subject && commonName(l.subject), l.reason, l.count > 1 && `${l.count} times`, ...(l.warnings ?? []), ...(l.settings ?? [])].filter(Boolean);
  return h('tr', null,
    h('td', { class: 'nowrap' }, when(l.time, 'second')),
    h('td', null, l.user ? text(l.user) : h('span', { class: 'muted' }, 'unknown'), from && h('span', { class: 'below' }, text(from))),
    h('td', null, h('span', { class: 'what' }, text(happened(l))), ' ', outcome && chip(...outcome.map((o) => shown(o)))),
    h('td', null, l.slot ? text(l.slot) : '–', l.from && h('span', { class: 'below' }, 'from ', text(l.from))),
    h('td', { class: 'more' }, more.length ? text(more.join('; ')) : '', h('span', { class: 'below' }, `${shown(l.stream)} ${l.seq}`)));
}
