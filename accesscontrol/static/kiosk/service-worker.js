// Keeps the kiosk's static shell, so that the page still opens and says "no connection" when the network is gone.
// The network always comes first; the kept copy is for when it fails. The API is never touched: no answer of the
// server is kept, and none is ever made up.

const CACHE = "lintel-kiosk-1";
const PAGE = "/kiosk/";
const WAIT_MS = 4000; // for a network that neither answers nor fails

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.add(new Request(PAGE, { cache: "reload" }))));
  self.skipWaiting();
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      const names = await caches.keys();
      const ours = names.filter((name) => name.startsWith("lintel-kiosk-") && name !== CACHE);
      await Promise.all(ours.map((name) => caches.delete(name)));
      await self.clients.claim();
    })(),
  );
});

// The page names what it loaded before this worker was in charge.
self.addEventListener("message", (event) => {
  if (event.origin !== self.location.origin || !Array.isArray(event.data?.keep)) return;
  const urls = event.data.keep.filter((url) => isShell(new URL(url, self.location.origin)));
  event.waitUntil(
    (async () => {
      const cache = await caches.open(CACHE);
      await Promise.allSettled(urls.map(async (url) => (await cache.match(url)) || cache.add(url)));
      event.source?.postMessage({ kept: urls.length });
    })(),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || !isShell(new URL(request.url))) return;
  event.respondWith(fromNetworkFirst(request));
});

function isShell(url) {
  return url.origin === self.location.origin && (url.pathname === PAGE || url.pathname.startsWith("/static/"));
}

async function fromNetworkFirst(request) {
  const cache = await caches.open(CACHE);
  const fromNetwork = fetch(request).then(async (response) => {
    if (response.ok && response.type === "basic") await cache.put(request, response.clone());
    return response;
  });
  const kept = await cache.match(request, { ignoreSearch: request.mode === "navigate" });
  if (!kept) return fromNetwork;
  const late = new Promise((resolve) => setTimeout(resolve, WAIT_MS, kept));
  return Promise.race([fromNetwork.then((response) => (response.ok ? response : kept)), late]).catch(() => kept);
}
