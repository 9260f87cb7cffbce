// Tables of NSX CSRs and certificates: sorted, searched and paged by the service.

import { ask, busy, chip, commonName, confirm, dialog, digest, facts, files, h, keyName, leftIn, may, pemText, say, text, when } from '/assets/kit.js';
import { certificateInput, fieldsOf } from '/assets/forms.js';
import { reportOf } from '/assets/attest.js';

const api = '/policy/api/v1/infra';
const rows = 50;

const requestColumns = [
  { title: 'Name', sort: 'display_name', cell: named },
  { title: 'Subject', cell: (o) => text(commonName(o.subject)) },
  { title: 'Key', cell: (o) => keyName(o.key_algorithm, o.key_bits) },
  { title: 'Made', sort: 'created', cell: (o) => when(o.created, 'ago') },
  { title: 'By', cell: (o) => text(o.created_by) },
];
const certificateColumns = [
  { title: 'Name', sort: 'display_name', cell: named },
  { title: 'Subject', cell: (o) => text(commonName(o.subject)) },
  { title: 'Issuer', cell: (o) => (o.issuer === o.subject ? chip('none', 'self-signed') : text(commonName(o.issuer))) },
  { title: 'Left', sort: 'not_after', cell: (o) => { const left = leftIn(o.not_after); return h('span', { title: o.not_after }, chip(left.tone, left.words)); } },
  { title: 'Made', sort: 'created', cell: (o) => when(o.created, 'ago') },
];

function named(o, open) {
  return [h('button', { type: 'button', class: 'link', onclick: () => open(o) }, text(o.display_name)), o.display_name !== o.id && h('span', { class: 'below' }, text(o.id))];
}

/** csrs and certificates are the two views. */
export const csrs = table({
  title: 'NSX CSRs', path: '/console/nsx/csrs', columns: requestColumns, open: openRequest,
  none: 'There are no CSRs. Make one, have your CA sign it, and import the certificate.',
  make: (state, refresh) => [h('button', { type: 'button', class: 'primary', onclick: () => newRequest(state, refresh, false) }, 'New CSR')],
});
export const certificates = table({
  title: 'NSX certificates', path: '/console/nsx/certificates', columns: certificateColumns, open: openCertificate,
  none: 'There are no certificates. They come from CSRs, by import or by self-signing.',
  make: (state, refresh) => [h('button', { type: 'button', onclick: () => newRequest(state, refresh, true) }, 'New self-signed certificate')],
});

/** table is a view of a collection. */
function table(kind) {
  return (place, first, refresh) => {
    const q = { prefix: '', sort: 'display_name', descending: false };
    let cursors = ['']; // of the pages up to this one
    let request = 0;
    let state = first;

    const search = h('input', { type: 'search', id: 'search', maxlength: 255, placeholder: 'Beginning of a name or id', 'aria-label': 'Search by the beginning of a name or id; letter case counts', spellcheck: 'false', autocapitalize: 'none' });
    const count = h('p', { class: 'muted', role: 'status' });
    const body = h('tbody');
    const head = h('tr');
    const none = h('div', { class: 'empty', hidden: true });
    const previous = h('button', { type: 'button', onclick: () => { cursors.pop(); load(); } }, 'Previous');
    const next = h('button', { type: 'button', onclick: () => { cursors.push(next.cursor); load(); } }, 'Next');
    const reload = () => { load(); refresh(); };
    const open = (o) => kind.open(o, reload);
    place.replaceChildren(h('section', { class: 'card wide' },
      h('header', null, h('h1', null, kind.title), h('div', { class: 'buttons' }, may('policy_certificate:crud') ? kind.make(state, reload) : null)),
      h('div', { class: 'tools' }, search, count),
      h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': kind.title }, h('table', { class: 'objects' }, h('thead', null, head), body)), none,
      h('nav', { class: 'buttons pages', 'aria-label': 'Pages' }, previous, next)));

    function heads() {
      head.replaceChildren(...kind.columns.map((c) => {
        if (!c.sort) return h('th', { scope: 'col' }, c.title);
        const on = q.prefix === '' && q.sort === c.sort;
        return h('th', { scope: 'col', 'aria-sort': on ? (q.descending ? 'descending' : 'ascending') : undefined },
          h('button', { type: 'button', class: 'sort', disabled: q.prefix !== '', onclick: () => {
            q.descending = on && !q.descending;
            q.sort = c.sort;
            cursors = [''];
            load().then(() => [...head.querySelectorAll('button')].find((b) => b.textContent === c.title)?.focus());
          } }, c.title));
      }));
    }

    /** page reads until the page is full: a page of a search may be short though others follow. */
    async function page(cursor) {
      const found = { objects: [], total: 0, unreadable: 0, cursor };
      for (let tries = 0; tries < 5; tries++) {
        const parameters = new URLSearchParams({ limit: rows - found.objects.length, ...(q.prefix ? { prefix: q.prefix } : { sort: q.sort, descending: q.descending }) });
        if (found.cursor) parameters.set('cursor', found.cursor);
        const part = await ask('GET', `${kind.path}?${parameters}`);
        found.objects.push(...part.objects);
        found.total = part.total;
        found.unreadable += part.unreadable ?? 0;
        found.cursor = part.cursor;
        if (!found.cursor || found.objects.length >= rows) break;
      }
      return found;
    }

    async function load() {
      const mine = ++request;
      heads();
      let found;
      try {
        found = await page(cursors.at(-1));
      } catch (e) {
        if (mine === request) count.textContent = e.message;
        return;
      }
      if (mine !== request) return; // an older answer came late
      body.replaceChildren(...found.objects.map((o) => h('tr', null, kind.columns.map((c) => h('td', null, c.cell(o, open))))));
      const from = (cursors.length - 1) * rows;
      const range = found.objects.length > 0 ? `${(from + 1).toLocaleString('en-GB')} to ${(from + found.objects.length).toLocaleString('en-GB')}` : '';
      const all = found.total.toLocaleString('en-GB');
      count.textContent = q.prefix ? (range ? `${range} that begin so, among ${all}` : `None of ${all} begins so.`) : range ? `${range} of ${all}` : '';
      if (found.unreadable > 0) count.append(` · ${found.unreadable} cannot be read: the log names them.`);
      none.hidden = found.objects.length > 0;
      none.textContent = q.prefix ? 'No name and no id begins so. Letter case counts.' : kind.none;
      next.cursor = found.cursor;
      next.disabled = !found.cursor;
      previous.disabled = cursors.length < 2;
      previous.parentElement.hidden = next.disabled && previous.disabled;
    }

    let timer = 0;
    search.addEventListener('input', () => {
      clearTimeout(timer);
      timer = setTimeout(() => { q.prefix = search.value; cursors = ['']; load(); }, 250);
    });
    load();
    return { update: (s) => { state = s; }, end: () => { request++; clearTimeout(timer); } };
  };
}

const idPath = (collection, id) => `${api}/${collection}/${encodeURIComponent(id)}`;

/** openRequest shows a CSR, and what can be done with it. */
async function openRequest(o, reload) {
  let full;
  try {
    full = await ask('GET', idPath('csrs', o.id));
  } catch (e) {
    say(e.status === 404 ? 'This CSR is gone.' : e.message);
    reload();
    return;
  }
  const change = may('policy_certificate:crud');
  const done = (sentence) => { box.close(); say(sentence); reload(); };
  const box = dialog('NSX CSR', h('p', { class: 'subject' }, text(o.display_name)), about(o, full), pemText(full.pem_encoded),
    files('The CSR', full.pem_encoded, fileName(o), 'csr', 'application/pkcs10'),
    change && h('div', { class: 'buttons apart' },
      h('button', { type: 'button', class: 'primary', onclick: () => importInto(o, done) }, 'Import a certificate'),
      h('button', { type: 'button', onclick: () => selfSign(o, done) }, 'Self-sign'),
      h('button', { type: 'button', class: 'danger', onclick: () => confirm('Delete this CSR?', [['The private key of ', text(o.display_name), ' is destroyed. A certificate that a CA issues for it cannot be imported any more.']], 'Delete it', async () => {
        await ask('DELETE', idPath('csrs', o.id));
        done('The CSR is deleted.');
      }) }, 'Delete')));
}

async function openCertificate(o, reload) {
  let full;
  try {
    full = await ask('GET', idPath('certificates', o.id));
  } catch (e) {
    say(e.status === 404 ? 'This certificate is gone.' : e.message);
    reload();
    return;
  }
  const left = leftIn(o.not_after);
  const box = dialog('NSX certificate', h('p', { class: 'subject' }, text(o.display_name)), h('p', null, chip(left.tone, left.words)), about(o, full), pemText(full.pem_encoded),
    files('The certificate', full.pem_encoded, fileName(o), 'pem', 'application/pkix-cert'),
    may('policy_certificate:crud') && h('div', { class: 'buttons apart' }, h('button', { type: 'button', class: 'danger', onclick: () => confirm('Delete this certificate?', [
      ['The certificate ', text(o.display_name), ' and its private key are destroyed. Whoever uses it cannot sign with it any more.']], 'Delete it', async () => {
      await ask('DELETE', idPath('certificates', o.id));
      box.close();
      say('The certificate is deleted.');
      reload();
    }) }, 'Delete')));
}

const fileName = (o) => o.display_name.replace(/[^\w.-]+/g, '_').slice(0, 80) || 'nsx';

function about(o, full) {
  return facts([
    ['Id', text(o.id)], ['Subject', text(o.subject)], ['Issuer', o.issuer && text(o.issuer)],
    ['Valid', o.not_after && h('span', null, when(o.not_before, 'day'), ' to ', when(o.not_after, 'day'))],
    ['Names', altNames(full)], ['Key', keyName(o.key_algorithm, o.key_bits)], ['For', o.ca ? 'a certification authority' : null],
    ['Description', o.description && text(o.description)], ['Tags', o.tags?.length ? o.tags.map((t) => h('span', { class: 'tag' }, t.scope && [text(t.scope), ': '], text(t.tag))) : null],
    ['Made', h('span', null, when(o.created), ' by ', text(o.created_by))], ['SHA-256', o.sha256 && digest(o.sha256)],
  ]);
}

function altNames(full) {
  const names = full.extensions?.subject_alt_names;
  const all = [...(names?.dns_names ?? []), ...(names?.ip_addresses ?? [])];
  return all.length ? text(all.join(', ')) : null;
}

/** newRequest makes a CSR, or at once a self-signed certificate. */
function newRequest(state, reload, selfSigned) {
  const form = fieldsOf([
    ...(selfSigned ? [] : [{ name: 'id', label: 'Id', hint: 'It names the CSR for ever. Up to 255 bytes.', max: 255 }]),
    { name: 'display_name', label: 'Display name', hint: selfSigned ? 'Left empty, it is the id, which the service chooses.' : 'Left empty, it is the id.', max: 255 },
    { name: 'subject.attributes CN', label: 'Common name', max: 64 },
    { name: 'subject.attributes O', label: 'Organization', max: 64 },
    { name: 'subject.attributes OU', label: 'Organization unit', max: 64 },
    { name: 'subject.attributes L', label: 'Locality', max: 128 },
    { name: 'subject.attributes ST', label: 'State or province', max: 128 },
    { name: 'subject.attributes C', label: 'Country', hint: 'Two letters, such as US.', max: 2, short: true },
    { name: 'extensions.subject_alt_names', label: 'Alternative names', rows: 2, hint: 'DNS names and IP addresses, one in each line.' },
    { name: 'key_size', label: 'Key', choices: [['EC 256', 'EC P-256'], ['EC 384', 'EC P-384'], ['EC 521', 'EC P-521'], ...state.key_sizes.map((b) => [`RSA ${b}`, `RSA ${b}`])], value: 'RSA 2048' },
    ...(selfSigned ? [{ name: 'days_valid', label: 'Days valid', type: 'number', value: 825, hint: 'At most 825.' }] : []),
    { name: 'description', label: 'Description', rows: 2 },
  ]);
  const go = h('button', { type: 'submit', class: 'primary' }, selfSigned ? 'Make the certificate' : 'Make the CSR');
  const box = dialog(selfSigned ? 'New self-signed certificate' : 'New NSX CSR', form.build(go, async (values) => {
    const [algorithm, size] = values.key_size.split(' ');
    const attributes = ['C', 'ST', 'L', 'O', 'OU', 'CN'].map((key) => ({ key, value: values[`subject.attributes ${key}`].trim() })).filter((a) => a.value !== '');
    const body = { subject: { attributes }, algorithm, key_size: Number(size) };
    if (attributes.length === 0) body.subject.attributes = [{ key: 'CN', value: '' }];
    for (const name of ['display_name', 'description']) if (values[name].trim() !== '') body[name] = values[name].trim();
    const names = values['extensions.subject_alt_names'].split('\n').map((s) => s.trim()).filter(Boolean);
    const isIP = (n) => /^[\d.]+$/.test(n) || n.includes(':');
    if (names.length > 0) {
      const dns = names.filter((n) => !isIP(n)), ips = names.filter(isIP);
      body.extensions = { subject_alt_names: { ...(dns.length ? { dns_names: dns } : {}), ...(ips.length ? { ip_addresses: ips } : {}) } };
    }
    if (selfSigned) {
      if (values.days_valid !== '') body.days_valid = Number(values.days_valid);
      await ask('POST', `${api}/csrs?action=self_sign`, body);
    } else {
      if (values.id === '') throw Object.assign(new Error(), { sentences: [], fields: { id: ['id is required'] } });
      await ask('POST', `${idPath('csrs', values.id)}?action=create`, body);
    }
    box.close();
    say(selfSigned ? 'The certificate is made.' : 'The CSR is made. Open it to save it for your CA.');
    reload();
  }));
  form.focus();
}

/** importInto takes a certificate for a CSR, and shows what each check says first. */
function importInto(o, done) {
  const verdict = h('div', { class: 'verdict', role: 'status' });
  const problem = h('p', { class: 'problem', role: 'alert' });
  const go = h('button', { type: 'button', class: 'primary', disabled: true }, 'Import this certificate');
  let checked = null;
  const input = certificateInput(async (pem) => {
    checked = null;
    go.disabled = true;
    problem.textContent = '';
    verdict.replaceChildren();
    if (pem.trim() === '') return;
    try {
      const report = await ask('POST', '/console/check', { kind: 'import', id: o.id, certificate: pem });
      if (input.value() !== pem) return;
      checked = pem;
      verdict.replaceChildren(...reportOf({ ...report, key: '' }));
      go.disabled = !report.accepted;
    } catch (e) {
      problem.textContent = e.message;
    }
  });
  go.addEventListener('click', async () => {
    busy(go, true);
    try {
      await ask('POST', `${idPath('csrs', o.id)}?action=import`, { pem_encoded: checked });
      box.close();
      done('The certificate is imported. The CSR is gone.');
    } catch (e) {
      problem.textContent = e.message;
      busy(go, false);
    }
  });
  const box = dialog('Import a certificate', h('p', { class: 'muted' }, 'For the CSR ', text(o.display_name), '. Drop a file here, choose one, or paste the PEM text.'), input.element, verdict, problem,
    h('div', { class: 'buttons' }, go, h('button', { type: 'button', onclick: () => box.close() }, 'Cancel')));
  input.takeDropsOf(box);
  input.focus();
}

function selfSign(o, done) {
  const form = fieldsOf([{ name: 'days_valid', label: 'Days valid', type: 'number', value: 825, hint: o.ca ? 'At most 36,500.' : 'At most 825.' }]);
  const go = h('button', { type: 'submit', class: 'primary' }, 'Self-sign');
  const box = dialog('Self-sign', form.build(h('p', null, 'The CSR ', text(o.display_name), ' becomes a certificate that its own key signs. The CSR is gone then.'), go, async (values) => {
    await ask('POST', `${idPath('csrs', o.id)}?action=self_sign${values.days_valid ? `&days_valid=${encodeURIComponent(values.days_valid)}` : ''}`);
    box.close();
    done('The certificate is made.');
  }));
  form.focus();
}
