// tryIt opens an operation of the explorer, fills it in as a person does, executes it, and
// returns the request and the answer that the explorer shows.
async function tryIt(id, { parameters = {}, body, file, mediaType }) {
  const frame = () => new Promise((done) => setTimeout(done, 20));
  const until = async (what, condition) => {
    for (let i = 0; i < 1500; i++, await frame()) {
      const found = condition();
      if (found) return found;
    }
    throw new Error(`${id}: no ${what}`);
  };
  const fill = (field, value) => {
    const type = { INPUT: HTMLInputElement, TEXTAREA: HTMLTextAreaElement, SELECT: HTMLSelectElement }[field.tagName];
    Object.getOwnPropertyDescriptor(type.prototype, 'value').set.call(field, value);
    field.dispatchEvent(new Event(field.tagName === 'INPUT' ? 'input' : 'change', { bubbles: true }));
    field.dispatchEvent(new FocusEvent('focusout', { bubbles: true })); // what is typed counts a third of a second later, or now
    if (field.value !== value) throw new Error(`${id}: the field has ${field.value}, not ${value}`);
  };
  const block = await until('operation', () => document.getElementById(id));
  if (!block.classList.contains('is-open')) block.querySelector('.opblock-summary-control').click();
  const execute = await until('button', () => block.querySelector('.execute'));
  for (const [name, value] of Object.entries(parameters)) {
    fill(await until(name, () => block.querySelector(`tr[data-param-name="${name}"] :is(input, select):not(.examples-select *)`)), value);
  }
  if (mediaType) fill(await until('media type', () => block.querySelector('.opblock-section-request-body .content-type')), mediaType);
  if (body) {
    if (typeof body === 'string') fill(await until('body', () => block.querySelector('.body-param textarea')), body);
    else for (const [name, value] of Object.entries(body)) fill(await until(name, () => block.querySelector(`[data-property-name="${name}"] :is(input, textarea)`)), value);
  }
  if (file) {
    const field = await until('field for a file', () => block.querySelector('input[type=file]'));
    const files = new DataTransfer();
    files.items.add(new File([file], 'chain.pem'));
    field.files = files.files;
    field.dispatchEvent(new Event('change', { bubbles: true }));
  }
  block.querySelector('.btn-clear')?.click();
  await frame();
  execute.click();
  const answer = await until('answer', () => block.querySelector('.live-responses-table tr.response .response-col_status'));
  const shown = {
    status: answer.firstChild.textContent.trim(),
    curl: block.querySelector('.curl')?.textContent ?? '',
    body: block.querySelector('.live-responses-table .highlight-code, .live-responses-table .response-col_description pre')?.textContent ?? '',
  };
  block.querySelector('.opblock-summary-control').click();
  return shown;
}
