// The API explorer: the document of the API, and requests to try it, in the session of
// the service's own pages. Nothing is loaded from elsewhere and nothing is kept.

import { current, header, signIn, signOut } from '/assets/session.js';

const at = (id) => document.getElementById(id);

/** show says whose session there is. */
function show(who) {
  at('user').textContent = who ? who.user : '';
  at('enter').hidden = Boolean(who);
  at('leave').hidden = !who;
}

let asking = null;

/** ask opens the form and returns, once it is closed, whether there is a session. */
function ask(why) {
  asking ??= new Promise((resolve) => {
    at('sign-in-why').textContent = why;
    at('sign-in-wrong').textContent = '';
    at('sign-in').addEventListener('close', () => {
      asking = null;
      at('sign-in-form').reset();
      resolve(at('sign-in').returnValue === 'in');
    }, { once: true });
    at('sign-in').returnValue = '';
    at('sign-in').showModal();
  });
  return asking;
}

at('sign-in-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const [user, password, button] = [at('sign-in-user'), at('sign-in-password'), event.submitter];
  at('sign-in-wrong').textContent = '';
  button.disabled = true;
  try {
    show(await signIn(user.value, password.value));
    at('sign-in').close('in');
  } catch (error) {
    at('sign-in-wrong').textContent = error.message;
    password.select();
  } finally {
    button.disabled = false;
  }
});
at('sign-in-cancel').addEventListener('click', () => at('sign-in').close(''));
at('enter').addEventListener('click', () => ask('The requests that you try are sent in this session.'));
at('leave').addEventListener('click', async () => {
  await signOut();
  show(await current());
});

const credentials = ['authorization', 'vmware-api-session-id', 'x-vault-token'];

/** send sends a request that is tried. Where it needs a session and there is none, it asks
    for one and sends the request again, unless the request has credentials of its own. */
async function send(url, request) {
  const again = () => fetch(url, { ...request, headers: { ...request.headers, ...header }, credentials: 'same-origin', redirect: 'error' });
  const own = Object.keys(request.headers).some((name) => credentials.includes(name.toLowerCase()));
  let answer = await again();
  if (!own && (answer.status === 401 || answer.status === 403)) {
    const who = await current();
    show(who);
    if (!who && await ask('This request needs a session. It is sent when you have signed in.')) answer = await again();
  }
  if (new URL(url, location).pathname.includes('session')) show(await current());
  return answer;
}

const dark = matchMedia('(prefers-color-scheme: dark)');
const follow = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', follow);
follow();

window.SwaggerUIBundle({
  dom_id: '#explorer',
  url: '/openapi.json',
  validatorUrl: null,
  queryConfigEnabled: false,
  persistAuthorization: false,
  tryItOutEnabled: true,
  filter: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  requestInterceptor: (request) => {
    request.userFetch = send;
    return request;
  },
});
show(await current());
