// What the tests ask of the page: they see it as people do, by the words on it.
(() => {
  const seen = (el) => el.checkVisibility({ visibilityProperty: true });
  const top = () => [...document.querySelectorAll('dialog[open]')].at(-1) ?? document.body;
  const words = (el) => (el.getAttribute('aria-label') ?? el.textContent).trim();
  window.t = {
    text: () => top().innerText,
    find: (label) => [...top().querySelectorAll('button, a, summary')].find((el) => seen(el) && words(el) === label),
    click: (label) => {
      const el = t.find(label);
      if (!el) throw new Error(`nothing says ${label}: ${top().innerText}`);
      if (el.disabled) throw new Error(`${label} is disabled`);
      el.click();
      return true;
    },
    field: (label) => {
      const named = [...top().querySelectorAll('label')].find((l) => l.firstChild.textContent.trim() === label);
      const el = named ? named.control : [...top().querySelectorAll('input, textarea')].find((i) => i.getAttribute('aria-label')?.startsWith(label));
      if (!el) throw new Error(`no field ${label}: ${top().innerText}`);
      return el;
    },
    has: (label) => {
      try {
        return Boolean(t.field(label));
      } catch {
        return false;
      }
    },
    fill: (label, value) => {
      const el = t.field(label);
      el.value = value;
      el.dispatchEvent(new Event('input', { bubbles: true }));
      return true;
    },
    error: (label) => {
      const el = t.field(label);
      const said = el.getAttribute('aria-describedby').split(' ').map((id) => document.getElementById(id)).find((p) => p.className === 'problem');
      return el.getAttribute('aria-invalid') === 'true' ? said.textContent : '';
    },
    drop: (name, content) => {
      const data = new DataTransfer();
      data.items.add(new File([content], name));
      return top().dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
    },
    rows: () => [...document.querySelectorAll('main table tbody tr')].map((tr) => [...tr.cells].map((c) => c.innerText.trim().replace(/\s+/g, ' '))),
  };
  return true;
})();
