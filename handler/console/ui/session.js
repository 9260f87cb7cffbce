// The session of the service's own pages. The browser keeps it in a cookie that scripts
// cannot read. It counts in requests with this header alone.

export const header = { 'X-Attestcsr-Console': '1' };

const path = '/console/session';

async function ask(method, body) {
  const headers = body ? { ...header, 'Content-Type': 'application/json' } : header;
  return fetch(path, { method, headers, body: body && JSON.stringify(body), credentials: 'same-origin', redirect: 'error' });
}

/** current returns whose session there is, as {user, privileges}, or null where there is none. */
export async function current() {
  const answer = await ask('GET');
  return answer.ok ? answer.json() : null;
}

/** signIn begins a session. Its error is a sentence for the user. */
export async function signIn(user, password) {
  const answer = await ask('POST', { user, password }).catch(() => {
    throw new Error('The service does not answer.');
  });
  if (answer.ok) return answer.json();
  if (answer.status === 401) throw new Error('The user name or the password is wrong.');
  if (answer.status === 503) throw new Error(`The service is busy. Try again in ${answer.headers.get('Retry-After') ?? 'some'} seconds.`);
  const text = await answer.json().then((document) => document.messages[0].default_message).catch(() => `status ${answer.status}`);
  throw new Error(`The service refused: ${text}`);
}

/** signOut ends the session. */
export async function signOut() {
  await ask('DELETE');
}
