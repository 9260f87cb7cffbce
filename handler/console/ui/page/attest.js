// The forms of the attestation key: a new CSR, and a certificate for it.

import { ask, busy, checkList, chip, commonName, dialog, facts, h, keyName, leftIn, say, text, when } from '/assets/kit.js';
import { certificateInput, fieldsOf } from '/assets/forms.js';

const csrPath = '/api/esx/attestation/certificate/csr';
const certificatePath = '/api/esx/attestation/certificate';

/** newCSR asks what the CSR says. The service's own rules decide, and each broken one is at its field. */
export function newCSR(state, refresh) {
  const form = fieldsOf([
    { name: 'common_name', label: 'Common name', hint: `Left empty, it is ${state.hostname}.`, max: 64 },
    { name: 'organization', label: 'Organization', max: 64 },
    { name: 'organization_unit', label: 'Organization unit', max: 64 },
    { name: 'locality', label: 'Locality', max: 128 },
    { name: 'state_or_province', label: 'State or province', max: 128 },
    { name: 'country', label: 'Country', hint: 'Two letters, such as US.', max: 2, short: true },
    { name: 'email_address', label: 'E-mail address', type: 'email', hint: 'It becomes an alternative name.' },
    { name: 'subject_alt_name', label: 'Alternative names', rows: 3, hint: 'Names, addresses or URIs, one in each line.' },
    { name: 'key_size', label: 'Key', choices: state.key_sizes.map((bits) => [bits, `RSA ${bits}`]) },
  ]);
  const old = state.pending;
  const go = h('button', { type: 'submit', class: old ? 'danger' : 'primary' }, old ? 'Replace the pending CSR' : 'Make the CSR');
  const box = dialog('New CSR', form.build(
    h('p', { class: 'muted' }, 'A fresh key is made for it. A field that stays empty is left out of the subject.'),
    old && h('p', { class: 'inset warn' }, 'This replaces the pending CSR for ', h('strong', null, text(commonName(old.subject))), ', made ', when(old.created, 'ago'), '. Its key is destroyed, and a certificate for it cannot be set any more.'),
    go, async (values) => {
      const spec = { key_size: Number(values.key_size), subject_alt_name: values.subject_alt_name.split('\n').map((s) => s.trim()).filter(Boolean) };
      for (const name of ['organization', 'organization_unit', 'locality', 'state_or_province', 'country', 'email_address']) spec[name] = values[name].trim();
      if (values.common_name.trim() !== '') spec.common_name = values.common_name.trim();
      await ask('POST', csrPath, spec);
      box.close();
      say('The CSR is made. Save it, and have your CA sign it.');
      refresh();
    }));
  form.focus();
}

/** setCertificate takes a certificate, shows what each check says of it, and sets it. */
export function setCertificate(state, refresh, files) {
  const verdict = h('div', { class: 'verdict', role: 'status' });
  const problem = h('p', { class: 'problem', role: 'alert' });
  const go = h('button', { type: 'button', class: 'primary', disabled: true }, 'Set this certificate');
  let checked = null;

  async function check(pem) {
    checked = null;
    go.disabled = true;
    problem.textContent = '';
    if (pem.trim() === '') {
      verdict.replaceChildren();
      return;
    }
    verdict.replaceChildren(h('p', { class: 'muted' }, 'It is checked …'));
    try {
      const report = await ask('POST', '/console/check', { kind: 'certificate', certificate: pem });
      if (input.value() !== pem) return; // it was changed meanwhile
      checked = pem;
      verdict.replaceChildren(...reportOf(report));
      go.disabled = !report.accepted || report.unchanged;
    } catch (e) {
      verdict.replaceChildren();
      problem.textContent = e.message;
    }
  }

  const input = certificateInput(check);
  go.addEventListener('click', async () => {
    busy(go, true);
    problem.textContent = '';
    try {
      await ask('PUT', certificatePath, { certificate: checked });
      box.close();
      say('The certificate is set.');
      refresh();
    } catch (e) {
      problem.textContent = e.message;
      busy(go, false);
    }
  });
  const box = dialog('Set a certificate', h('p', { class: 'muted' }, 'Drop a file here, choose one, or paste the PEM text. The leaf comes first; its chain may follow. Nothing is set before you say so.'),
    input.element, verdict, problem, h('div', { class: 'buttons' }, go, h('button', { type: 'button', onclick: () => box.close() }, 'Cancel')));
  input.takeDropsOf(box);
  if (files?.length) input.read(files[0]);
  else input.focus();
}

const keys = {
  pending: 'It answers the pending CSR, which is gone then.',
  staged: 'It is for the key of the staged certificate, and takes its place.',
  installed: 'It is for the key of the installed certificate, and renews it. A pending CSR stays.',
};

/** reportOf shows what a set would do. */
export function reportOf(report) {
  const leaf = report.certificates[0];
  const left = leaf && leftIn(leaf.not_after);
  return [
    h('header', null, h('h3', null, leaf ? text(commonName(leaf.subject)) : 'This is no certificate'), report.accepted ? chip('good', 'would be accepted') : chip('bad', 'would be refused')),
    report.unchanged && h('p', { class: 'inset' }, 'This certificate is installed already.'),
    report.accepted && !report.unchanged && keys[report.key] && h('p', null, keys[report.key], report.active && h('span', null, ' It is staged first, and becomes active ', when(report.active, 'ago'), '.')),
    leaf && facts([['Issuer', text(leaf.issuer)], ['Valid', h('span', null, when(leaf.not_before, 'day'), ' to ', when(leaf.not_after, 'day'), ' ', chip(left.tone, left.words))],
      ['Names', leaf.names.length ? text(leaf.names.join(', ')) : null], ['Key', keyName(leaf.key_algorithm, leaf.key_bits)],
      ['Chain', report.certificates.length > 1 ? `${report.certificates.length} certificates` : null]]),
    checkList(report.checks),
  ].filter(Boolean);
}
