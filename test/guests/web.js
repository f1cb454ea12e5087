// What componentize-js makes a component of that answers HTTP requests; what it does is the path of the request.

let requests = 0;

async function answer(request) {
  const path = new URL(request.url).pathname;
  requests += 1;
  if (path === '/') return new Response('hello from JavaScript\n');
  // How many requests this instance has answered.
  if (path === '/count') return new Response(`${requests}\n`);
  // The body, and a header of the request.
  if (path === '/echo') return new Response(await request.text(), { headers: { 'x-length': request.headers.get('content-length') } });
  if (path === '/print') {
    console.log('a line of output');
    console.error('a line of errors');
    return new Response('printed\n');
  }
  // /fetch/AUTHORITY/PATH asks another server.
  if (path.startsWith('/fetch/')) {
    const other = await fetch(`http://${path.slice('/fetch/'.length)}`);
    return new Response(await other.text(), { status: other.status });
  }
  if (path === '/throw') throw new Error('on purpose');
  return new Response('', { status: 404 });
}

addEventListener('fetch', (event) => event.respondWith(answer(event.request)));
