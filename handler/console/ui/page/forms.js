// Fields with what the service says about each, and an input for certificates.

import { busy, h, text } from '/assets/kit.js';

let made = 0;

/** unnamed is a sentence about a field for a place where the field is to be seen. */
function unnamed(sentence, name) {
  const rest = sentence.startsWith(`${name} `) ? sentence.slice(name.length + 1) : sentence;
  return rest.charAt(0).toUpperCase() + rest.slice(1);
}

/** fieldsOf makes a form of fields: { name, label, hint, max, rows, choices, type, short }. */
export function fieldsOf(list) {
  const fields = new Map();
  for (const f of list) {
    const id = `field-${++made}`;
    const about = { id, name: f.name, 'aria-describedby': `${id}-hint ${id}-error`, spellcheck: 'false', autocapitalize: 'none', autocomplete: 'off' };
    let input;
    if (f.choices) input = h('select', about, f.choices.map(([value, label]) => h('option', { value }, label)));
    else if (f.rows) input = h('textarea', { ...about, rows: f.rows });
    else input = h('input', { ...about, type: f.type === 'number' ? 'number' : 'text', inputmode: f.type === 'email' ? 'email' : undefined, maxlength: f.max ? f.max * 2 : undefined, class: f.short ? 'short' : undefined });
    if (f.value !== undefined) input.value = f.value;
    const error = h('p', { class: 'problem', id: `${id}-error` });
    input.addEventListener('input', () => { error.replaceChildren(); input.removeAttribute('aria-invalid'); });
    fields.set(f.name, { input, error, element: h('div', { class: 'field' }, h('label', { for: id }, f.label), input, h('p', { class: 'hint', id: `${id}-hint` }, f.hint ?? ''), error) });
  }
  const general = h('p', { class: 'problem', role: 'alert' });

  /** show puts each sentence at its field, and the others above the button. */
  function show(failed) {
    const rest = [...(failed.sentences ?? [failed.message])];
    for (const [name, sentences] of Object.entries(failed.fields ?? {})) {
      const field = fields.get(name);
      if (!field) continue;
      field.error.replaceChildren(...sentences.map((s) => h('span', null, text(unnamed(s, name)))));
      field.input.setAttribute('aria-invalid', 'true');
      for (const s of sentences) if (rest.includes(s)) rest.splice(rest.indexOf(s), 1);
    }
    const first = [...fields.values()].find((f) => f.error.childNodes.length > 0);
    general.textContent = rest.length > 0 ? rest.join(' ') : first ? 'The service refuses this: look at the fields above.' : '';
    first?.input.focus();
  }

  return {
    fields,
    focus: () => fields.values().next().value.input.focus(),
    /** build makes the form. submit gets the values, and may throw what the service answers. */
    build(...parts) {
      const submit = parts.pop();
      const go = parts.pop();
      const form = h('form', { class: 'stack', novalidate: true }, ...parts, h('div', { class: 'fields' }, [...fields.values()].map((f) => f.element)), general, h('div', { class: 'buttons' }, go,
        h('button', { type: 'button', onclick: (event) => event.target.closest('dialog').close() }, 'Cancel')));
      form.addEventListener('submit', async (event) => {
        event.preventDefault();
        general.textContent = '';
        for (const f of fields.values()) {
          f.error.replaceChildren();
          f.input.removeAttribute('aria-invalid');
        }
        busy(go, true);
        try {
          await submit(Object.fromEntries([...fields].map(([name, f]) => [name, f.input.value])));
        } catch (e) {
          show(e);
        } finally {
          busy(go, false);
        }
      });
      return form;
    },
  };
}

const maxFile = 64 << 10; // of a body of the service

/** certificateInput takes a certificate by drop, paste or file. changed gets the PEM text. */
export function certificateInput(changed) {
  const problem = h('p', { class: 'problem', role: 'alert' });
  const area = h('textarea', { id: 'certificate', rows: 7, class: 'pem', spellcheck: 'false', autocomplete: 'off', 'aria-label': 'Certificate in PEM', placeholder: '-----BEGIN CERTIFICATE-----' });
  const choose = h('input', { type: 'file', id: 'certificate-file', accept: '.pem,.crt,.cer,.der,.p7b,.p7c,.txt', 'aria-label': 'File with the certificate' });
  const element = h('div', { class: 'drop' }, area, h('div', { class: 'buttons' }, choose), problem);
  let timer = 0;
  area.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(() => changed(area.value), 300);
  });
  choose.addEventListener('change', () => { if (choose.files.length) read(choose.files[0]); });

  /** read takes a file. DER becomes PEM: the service tells what it holds. */
  async function read(file) {
    problem.textContent = '';
    if (file.size > maxFile) {
      problem.textContent = `The file has ${Math.ceil(file.size / 1024)} KiB: a chain of certificates has less than 64.`;
      return;
    }
    const bytes = new Uint8Array(await file.arrayBuffer());
    if (bytes[0] === 0x30) {
      const block = /\.p7[bc]$/i.test(file.name) ? 'PKCS7' : 'CERTIFICATE';
      const body = btoa(String.fromCharCode(...bytes)).replace(/.{64}/g, '$&\n');
      area.value = `-----BEGIN ${block}-----\n${body}\n-----END ${block}-----\n`;
    } else {
      area.value = new TextDecoder().decode(bytes);
    }
    changed(area.value);
  }

  function takeDropsOf(box) {
    box.addEventListener('dragover', (event) => { event.preventDefault(); box.classList.add('over'); });
    box.addEventListener('dragleave', () => box.classList.remove('over'));
    box.addEventListener('drop', (event) => {
      event.preventDefault();
      box.classList.remove('over');
      if (event.dataTransfer.files.length) read(event.dataTransfer.files[0]);
    });
  }

  return { element, read, takeDropsOf, value: () => area.value, focus: () => area.focus() };
}
